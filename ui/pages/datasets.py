"""How a dataset looks on the Train page: its line, and its rows with what is learned to write marked."""

from __future__ import annotations

from collections.abc import Sequence

from core.data.records import Conversation, Labeled, Record
from jobs.service import Dataset
from ui import markup, text

PREVIEW_ROWS = 20
_KINDS: dict[type[Record], str] = {Conversation: "conversation", Labeled: "labeled text"}
LONGEST_TURN = 700


def choices(datasets: Sequence[Dataset]) -> list[tuple[str, str]]:
    """The datasets for a dropdown, newest first."""
    return [(f"{dataset.name} · {text.plural(dataset.rows, 'row')}", dataset.id) for dataset in datasets]


def line(dataset: Dataset, rows: Sequence[Record]) -> str:
    """`✓ 96 conversations · OpenAI messages · 3 rows left out`."""
    parts = [text.plural(dataset.rows, _KINDS.get(type(rows[0]), "passage") if rows else "row"), dataset.row_format]
    if dataset.skipped:
        parts.append(f"{text.plural(dataset.skipped, 'row')} left out")
    words = " · ".join(markup.esc(part) for part in parts)
    return f'<p class="dataset-line"><span class="tick" aria-hidden="true">✓</span>{words}</p>'


def preview(rows: Sequence[Record], total: int) -> str:
    """The first rows as conversations; what the model learns to write is marked."""
    shown = "".join(_row(record) for record in rows)
    more = f"the first {len(rows)} of {total:,}" if total > len(rows) else f"all {len(rows)}"
    legend = f'<p class="legend"><span class="swatch"></span>trained · {more}</p>'
    return f'{legend}<ol class="rows" tabindex="0" aria-label="Rows of the dataset">{shown}</ol>'


def _row(record: Record) -> str:
    if isinstance(record, Conversation):
        turns = "".join(_turn(message.role, message.content) for message in record.messages)
    elif isinstance(record, Labeled):
        texts = [record.text] if record.text_pair is None else [record.text, record.text_pair]
        turns = "".join(_turn("given", content) for content in texts) + _turn("label", record.label)
    else:
        turns = _turn("text", record.text)
    return f'<li><span class="row-number">{record.source_row}</span><div class="turns">{turns}</div></li>'


def _turn(role: str, content: str) -> str:
    is_trained = role in ("assistant", "text", "label")
    cut = content if len(content) <= LONGEST_TURN else content[:LONGEST_TURN].rstrip() + " …"
    mark = " trained" if is_trained else ""
    return f'<div class="turn{mark}"><span class="role">{markup.esc(role)}</span><p>{markup.esc(cut)}</p></div>'
