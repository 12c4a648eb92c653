"""What the columns of a file mean, told by hand: the format, a column for each of its roles, and the rows as they would
be read, at once.

Ids: `#mapping` the panel, `#mapping-format`, `#mapping-role-0` and on, `#mapping-preview`, `#mapping-use`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import gradio as gr
from gradio.components import Component

from core.data.formats.converting import to_record
from core.data.formats.mapping import FORMATS, check_mapping
from core.data.formats.mapping import Mapping as Columns
from core.data.records import Record
from core.data.rows import BadRow, Row
from core.errors import UserError
from jobs.service import Guess
from ui import markup
from ui.answers import News
from ui.pages import datasets

ROLES = max(len(known.roles) for known in FORMATS.values())
NOTHING = "—"


@dataclass(frozen=True, kw_only=True)
class Widgets:
    """The panel and what stands in it."""

    panel: gr.Column
    format: gr.Dropdown
    roles: tuple[gr.Dropdown, ...]
    preview: gr.HTML
    use: gr.Button

    @property
    def chosen(self) -> list[Component]:
        """What says what the columns mean."""
        return [self.format, *self.roles]

    @property
    def all(self) -> list[Any]:
        """Everything that an offer changes."""
        return [self.panel, *self.chosen, self.preview, self.use]


def build() -> Widgets:
    """Put the panel, out of sight, into the open Blocks context."""
    with gr.Column(visible=False, elem_id="mapping") as panel:
        gr.HTML('<h3 class="panel-head">What the columns mean</h3>', apply_default_css=False)
        kinds = [(known.title, key) for key, known in FORMATS.items()]
        choice = gr.Dropdown(kinds, label="Format", info=" ", elem_id="mapping-format", interactive=True)
        with gr.Row(elem_classes=["fields"]):
            roles = tuple(
                gr.Dropdown([], label=f"Column {at + 1}", elem_id=f"mapping-role-{at}", interactive=True, visible=False)
                for at in range(ROLES)
            )
        preview = gr.HTML("", elem_id="mapping-preview", apply_default_css=False)
        use = gr.Button(
            "Read the file so", elem_id="mapping-use", size="md", variant="primary", elem_classes=["narrow"]
        )
    return Widgets(panel=panel, format=choice, roles=roles, preview=preview, use=use)


def offer(widgets: Widgets, guess: Guess) -> News:
    """The panel with the likeliest meaning filled in."""
    best = guess.mappings[0] if guess.mappings else Columns(format="prompt_completion", columns={})
    return {widgets.panel: gr.update(visible=True), **fill(widgets, guess, best)}


def fill(widgets: Widgets, guess: Guess, mapping: Columns) -> News:
    """The panel as `mapping` has it."""
    known = FORMATS[mapping.format]
    news: News = {widgets.format: gr.update(value=mapping.format, info=known.sentence)}
    for widget, key in zip_longest(widgets.roles, known.roles):
        news[widget] = gr.update(visible=False, value=NOTHING) if key is None else _role(guess, mapping, key)
    return {**news, **preview(widgets, guess, mapping)}


def retry(guess: Guess, format_key: str) -> Columns:
    """Another format, with the columns that it is likely to mean."""
    same = (mapping for mapping in guess.mappings if mapping.format == format_key)
    named = {role: column for role in FORMATS[format_key].roles for column in guess.columns if column.lower() == role}
    return next(same, Columns(format=format_key, columns=named))


def read(format_key: str, roles: Sequence[str | None]) -> Columns:
    """The mapping that the panel shows."""
    pairs = zip(FORMATS[format_key].roles, roles, strict=False)
    return Columns(format=format_key, columns={role: column for role, column in pairs if column not in (None, NOTHING)})


def preview(widgets: Widgets, guess: Guess, mapping: Columns) -> News:
    """The file's first rows as `mapping` reads them, or what is missing in it."""
    try:
        check_mapping(mapping, guess.columns)
    except UserError as error:
        return {
            widgets.preview: markup.banner(error.title, error.detail, error.hint) + _raw(guess),
            widgets.use: gr.update(interactive=False),
        }
    records, problems = _records(guess, mapping)
    told = "".join(f'<p class="row-problem">{markup.esc(problem)}</p>' for problem in problems)
    shown = datasets.preview(records, len(guess.rows)) if records else _raw(guess)
    return {widgets.preview: told + shown, widgets.use: gr.update(interactive=bool(records))}


def _role(guess: Guess, mapping: Columns, key: str) -> Any:
    role = FORMATS[mapping.format].roles[key]
    free = [] if role.is_required else [NOTHING]
    label = role.title if role.is_required else f"{role.title} (optional)"
    value = mapping.columns.get(key, None if role.is_required else NOTHING)
    choices = [*free, *dict.fromkeys([*guess.columns, *([value] if value else [])])]
    return gr.update(visible=True, label=label, info=role.sentence, choices=choices, value=value)


def _records(guess: Guess, mapping: Columns) -> tuple[list[Record], list[str]]:
    records, problems = [], []
    for number, values in enumerate(guess.rows, start=1):
        try:
            records.append(to_record(Row(number=number, values=values), mapping))
        except BadRow as error:
            problems.append(f"Row {number} {error.what}")
    return records, problems


def _raw(guess: Guess) -> str:
    """The first rows as they were found."""
    head = "".join(f"<th>{markup.esc(column)}</th>" for column in guess.columns)
    rows = "".join(f"<tr>{''.join(_cell(row, column) for column in guess.columns)}</tr>" for row in guess.rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<div class="raw-rows" tabindex="0" aria-label="The file\'s first rows">{table}</div>'


def _cell(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column, "")
    words = value if isinstance(value, str) else "" if value is None else str(value)
    return f"<td>{markup.esc(words[:200])}{' …' if len(words) > 200 else ''}</td>"
