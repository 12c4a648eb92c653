"""How a dataset looks on the Train page: its line, and its rows with what is learned to write marked."""

from __future__ import annotations

from collections.abc import Sequence

from core.data.records import Conversation, Labeled, Message, Record
from jobs.service import About, Dataset
from ui import markup, text

PREVIEW_ROWS = 20
_KINDS: dict[type[Record], str] = {Conversation: "conversation", Labeled: "labeled text"}
LONGEST_TURN = 700


def choices(datasets: Sequence[Dataset]) -> list[tuple[str, str]]:
    """The datasets for a dropdown, newest first."""
    return [(f"{_title(dataset)} · {text.plural(dataset.rows, 'row')}", dataset.id) for dataset in datasets]


def _title(dataset: Dataset) -> str:
    return f"{dataset.name}, version {dataset.version}" if dataset.version > 1 else dataset.name


def line(dataset: Dataset, rows: Sequence[Record], about: About | None = None) -> str:
    """`✓ 96 conversations · OpenAI messages · 3 rows left out`, and how the file was understood."""
    parts = [text.plural(dataset.rows, _KINDS.get(type(rows[0]), "passage") if rows else "row"), dataset.row_format]
    if dataset.skipped:
        parts.append(f"{text.plural(dataset.skipped, 'row')} left out")
    if about is not None and about.note:
        parts.append(about.note)
    words = " · ".join(markup.esc(part) for part in parts)
    return f'<p class="dataset-line"><span class="tick" aria-hidden="true">✓</span>{words}</p>{_understood(about)}'


def _understood(about: About | None) -> str:
    """Why the columns were taken for what they were, and what else was seen."""
    if about is None:
        return ""
    unused = (f"Not used: {', '.join(about.unused)}",) if about.unused else ()
    words = " ".join(f"{part.rstrip('.')}." for part in (about.why, *about.remarks, *unused) if part)
    return f'<p class="dataset-why">{markup.esc(words)}</p>'


def preview(rows: Sequence[Record], total: int, first: int = 0) -> str:
    """Rows from number `first` (from 0) on as conversations; what the model learns to write is marked."""
    shown = "".join(_row(record) for record in rows)
    part = f"{first + 1:,} to {first + len(rows):,}" if first else f"the first {len(rows)}"
    more = f"{part} of {total:,}" if total > len(rows) else f"all {len(rows)}"
    legend = f'<p class="legend"><span class="swatch"></span>trained · {more}</p>'
    return f'{legend}<ol class="rows" tabindex="0" aria-label="Rows of the dataset">{shown}</ol>'


def _row(record: Record) -> str:
    if isinstance(record, Conversation):
        tools = "" if record.tools is None else _turn("tools", record.tools)
        turns = tools + "".join(map(_message, record.messages))
    elif isinstance(record, Labeled):
        texts = [record.text] if record.text_pair is None else [record.text, record.text_pair]
        turns = "".join(_turn("given", content) for content in texts) + _turn("label", record.label, is_trained=True)
    else:
        turns = _turn("text", record.text, is_trained=True)
    return f'<li><span class="row-number">{record.source_row}</span><div class="turns">{turns}</div></li>'


def _message(message: Message) -> str:
    """A message with its tool calls; one of weight 0 is not learned."""
    said = message.content
    if message.tool_calls is not None:
        said = f"{said}\n{message.tool_calls}".lstrip("\n")
    role = message.role if message.name is None else f"{message.role} {message.name}"
    return _turn(role, said, is_trained=message.role == "assistant" and message.weight == 1)


def _turn(role: str, content: str, is_trained: bool = False) -> str:
    cut = content if len(content) <= LONGEST_TURN else content[:LONGEST_TURN].rstrip() + " …"
    mark = " trained" if is_trained else ""
    return f'<div class="turn{mark}"><span class="role">{markup.esc(role)}</span><p>{markup.esc(cut)}</p></div>'
