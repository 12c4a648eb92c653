"""The first card of the Train page: a dataset from a file, a folder, an example or the hub, its rows, its health and
its tokens.

A file is read by a process of its own (`service.data.intakes`); the page asks how it goes and may be closed meanwhile.

Ids: `#dataset-choice`, `#dataset-upload`, `#dataset-place` and `#dataset-fetch` for a folder or a hub id,
`#example-KEY`, `#dataset-status`, `#dataset-stop`, `#skip-bad-rows`, `#dataset-remap`; `#mapping…`
(`ui.pages.mapping`); `#dataset-tabs` with `#dataset-preview` and `#row-number`, `#health` and
`#health-remove-KIND`, `#health-keep-KIND`, and `#tokens-…` (`ui.pages.token_tab`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from core.errors import DataError
from jobs.service import Dataset, Example, Intake, Service
from ui import answers, markup, text
from ui.answers import News
from ui.pages import datasets, frame, health, mapping, token_tab
from ui.uploads import uploaded

ROWS_TAB = "rows"
LOOK_SECONDS = 0.5
FIRST_LOOK_SECONDS = 0.5  # a small file is read by then, and nothing flickers
_UNCHECKED = '<p class="card-hint">This dataset was made before rows were checked. Upload its file again.</p>'
READERS = "JSONL, JSON, CSV, Excel, Parquet, text, also zipped. It stays on this machine."


@dataclass(frozen=True, kw_only=True)
class Widgets:
    """What stands in the card."""

    dataset: gr.Dropdown
    upload: gr.File
    place: gr.Textbox
    fetch: gr.Button
    examples: dict[str, gr.Button]
    status: gr.HTML
    stop: gr.Button
    skip: gr.Button
    remap: gr.Button
    mapping: mapping.Widgets
    tabs: gr.Tabs
    preview: gr.HTML
    row: gr.Number
    health: gr.HTML
    tokens: token_tab.Widgets
    intake: gr.Textbox
    timer: gr.Timer

    @property
    def all(self) -> list[Any]:
        """What choosing a dataset, or reading a file, changes."""
        chosen = [self.dataset, self.upload, self.place, self.status, self.preview, self.health, self.row, self.tabs]
        return [
            *chosen,
            self.stop,
            self.skip,
            self.remap,
            *self.mapping.all,
            self.intake,
            self.timer,
        ]


def build(service: Service) -> Widgets:
    """Put the card's contents into the open Blocks context."""
    gr.HTML(markup.heading("Data", READERS, 1))
    dataset = gr.Dropdown([], label="Dataset", elem_id="dataset-choice", interactive=True, visible=False)
    upload = gr.File(label="Drop a file here", elem_id="dataset-upload", type="filepath", height=104)
    with gr.Row(elem_classes=["examples"]):
        gr.HTML('<span class="card-hint">or take an example</span>', elem_classes=["inline"])
        examples = {example.key: _example_button(example) for example in service.data.examples()}
    with gr.Accordion("From a folder, or from Hugging Face", open=False, elem_id="dataset-elsewhere"):
        place = gr.Textbox(
            "", label="Folder or dataset id", placeholder="/data/letters or owner/name", max_length=4096,
            info="A folder of files of one kind, or a dataset's id on Hugging Face", elem_id="dataset-place",
        )  # fmt: skip
        fetch = gr.Button("Read it", elem_id="dataset-fetch", size="md", elem_classes=["narrow"])
    status = gr.HTML("", elem_id="dataset-status", apply_default_css=False)
    with gr.Row(elem_classes=["actions"]):
        stop = gr.Button("Stop reading", elem_id="dataset-stop", visible=False, size="md")
        skip = gr.Button("Leave these rows out", elem_id="skip-bad-rows", visible=False, size="md")
        remap = gr.Button("Change what the columns mean", elem_id="dataset-remap", visible=False, size="sm")
    panel = mapping.build()
    with gr.Tabs(visible=False, elem_id="dataset-tabs") as tabs:
        with gr.Tab("Rows", id=ROWS_TAB):
            row = gr.Number(1, label="Go to row", precision=0, minimum=1, elem_id="row-number", elem_classes=["short"])
            preview = gr.HTML("", elem_id="dataset-preview", apply_default_css=False)
        with gr.Tab("Health"):
            found = gr.HTML("", elem_id="health", apply_default_css=False, js_on_load=health.SCRIPT)
        with gr.Tab("Tokens"):
            counted = token_tab.build()
    return Widgets(
        dataset=dataset, upload=upload, place=place, fetch=fetch, examples=examples, status=status, stop=stop,
        skip=skip, remap=remap, mapping=panel, tabs=tabs, preview=preview, row=row, health=found,
        tokens=counted, intake=gr.Textbox(visible=False), timer=gr.Timer(LOOK_SECONDS, active=False),
    )  # fmt: skip


class DataCard:
    """The card's handlers. Each returns the news for the widgets that change."""

    def __init__(self, service: Service, widgets: Widgets) -> None:
        self.service, self.widgets = service, widgets

    def upload(self, path: str | None) -> News:
        """A file was dropped: let it be read."""
        if not path:
            return {}
        return self.begun(self.service.data.begin(uploaded(path)))

    def fetch(self, place: str) -> News:
        """A folder or a hub id was named."""
        return self.begun(self.service.data.begin_elsewhere(place.strip()))

    def look(self, intake_id: str) -> News:
        """How far the reading is."""
        return self._show(self.service.data.intakes.look(intake_id)) if intake_id else {}

    def stop(self, intake_id: str) -> News:
        """Nothing of the file is kept."""
        self.service.data.intakes.stop(intake_id)
        return {**self._idle(), self.widgets.status: ""}

    def skip_bad_rows(self, intake_id: str) -> News:
        """The person agrees to do without the rows that cannot be trained on."""
        return self._show(self.service.data.intakes.accept(intake_id))

    def remap(self, dataset_id: str) -> News:
        """The file once more, to be told what its columns mean."""
        return self.begun(self.service.data.begin_again(dataset_id))

    def choose_format(self, intake_id: str, format_key: str) -> News:
        """Another format for the columns."""
        guess = self._guess(intake_id)
        return mapping.fill(self.widgets.mapping, guess, mapping.retry(guess, format_key))

    def choose_column(self, intake_id: str, format_key: str, *roles: str | None) -> News:
        """Another column for a role."""
        return mapping.preview(self.widgets.mapping, self._guess(intake_id), mapping.read(format_key, roles))

    def use_mapping(self, intake_id: str, format_key: str, *roles: str | None) -> News:
        """Read the file as the person says."""
        self.service.data.intakes.answer(intake_id, mapping.read(format_key, roles))
        return self.begun(self.service.data.intakes.look(intake_id, FIRST_LOOK_SECONDS))

    def example(self, key: str) -> News:
        """One click: an example as dataset."""
        return self.chosen(self.service.data.add_example(key))

    def remove(self, event: gr.EventData, dataset_id: str) -> News:
        """One click: a version of the dataset without the rows of a kind."""
        return self.begun(self.service.data.begin_cleaning(dataset_id, [str(event.kind)]))

    def keep(self, event: gr.EventData, dataset_id: str) -> News:
        """One click: the rows of a kind are as they should be; one more, and that is open again."""
        kind, data = str(event.kind), self.service.data
        data.keep(dataset_id, kind, kind not in data.kept(dataset_id))
        return self._health(data.get(dataset_id))

    def show_row(self, event: gr.EventData, dataset_id: str) -> News:
        """One click: the row itself."""
        row = int(event.row)
        shown = {self.widgets.tabs: gr.update(selected=ROWS_TAB), self.widgets.row: row}
        return {**shown, **self.go_to(dataset_id, row)}

    def choose(self, dataset_id: str | None) -> News:
        """Show the dataset that is now chosen."""
        widgets = self.widgets
        if not dataset_id:
            return {widgets.status: "", widgets.tabs: gr.update(visible=False), widgets.remap: gr.update(visible=False)}
        data = self.service.data
        dataset, rows = self.service.data.get(dataset_id), data.rows(dataset_id, 0, datasets.PREVIEW_ROWS)
        return {
            **self._idle(),
            widgets.status: datasets.line(dataset, rows, data.about(dataset_id)),
            widgets.remap: gr.update(visible=data.source(dataset_id) is not None),
            widgets.tabs: gr.update(visible=True),
            widgets.preview: datasets.preview(rows, dataset.rows),
            widgets.row: gr.update(value=rows[0].source_row if rows else 1),
            **self._health(dataset),
        }

    def go_to(self, dataset_id: str | None, row: int | None) -> News:
        """The rows from one on."""
        if not dataset_id or row is None:
            return {}
        data, dataset = self.service.data, self.service.data.get(dataset_id)
        number = data.number_from(dataset_id, max(1, int(row)))
        rows = data.rows(dataset_id, number, datasets.PREVIEW_ROWS)
        return {self.widgets.preview: datasets.preview(rows, dataset.rows, first=number)}

    def chosen(self, dataset: Dataset) -> News:
        """`dataset` among all, and chosen."""
        widgets = self.widgets
        choices = datasets.choices(self.service.data.all())
        return {
            widgets.upload: None,
            widgets.place: "",
            widgets.dataset: gr.update(choices=choices, value=dataset.id, visible=True),
            **self.choose(dataset.id),
        }

    def begun(self, intake: Intake) -> News:
        """What the page shows once a reading has begun."""
        now = self.service.data.intakes.look(intake.id, FIRST_LOOK_SECONDS)
        return {self.widgets.intake: intake.id, **self._show(now)}

    def _show(self, intake: Intake) -> News:
        widgets = self.widgets
        if intake.state == "done" and intake.dataset_id is not None:
            return self.chosen(self.service.data.get(intake.dataset_id))
        if intake.state == "reading":
            going_on = {widgets.status: _progress(intake), widgets.stop: gr.update(visible=True)}
            hidden = {widgets.tabs: gr.update(visible=False), widgets.mapping.panel: gr.update(visible=False)}
            return {**going_on, **hidden, widgets.skip: gr.update(visible=False), widgets.timer: gr.update(active=True)}
        assert intake.problem is not None
        problem = markup.banner(intake.problem.title, intake.problem.detail, intake.problem.hint)
        news = {**self._idle(), widgets.upload: None, widgets.dataset: gr.update(value=None), widgets.status: problem}
        news |= {widgets.tabs: gr.update(visible=False), widgets.remap: gr.update(visible=False)}
        if intake.state == "broken":
            news[widgets.skip] = gr.update(visible=True)
        if intake.state == "unsure" and intake.guess is not None:
            news |= mapping.offer(widgets.mapping, intake.guess)
        return news

    def _idle(self) -> News:
        """Nothing is being read, and nothing asked."""
        widgets = self.widgets
        hidden = {widget: gr.update(visible=False) for widget in (widgets.stop, widgets.skip, widgets.mapping.panel)}
        return {**hidden, widgets.timer: gr.update(active=False)}

    def _health(self, dataset: Dataset) -> News:
        found = self.service.data.health(dataset.id)
        shown = health.ready(found, self.service.data.kept(dataset.id)) if found is not None else _UNCHECKED
        return {self.widgets.health: shown}

    def _guess(self, intake_id: str) -> Any:
        guess = self.service.data.intakes.look(intake_id).guess
        if guess is None:
            raise DataError("That file's columns are settled", hint="Drop the file again to change them")
        return guess


def _progress(intake: Intake) -> str:
    rows = text.plural(intake.rows, "row")
    if intake.is_comparing:
        words, of_what = f"Comparing the {rows} of {intake.name} with each other", "How many rows are compared"
    else:
        words = f"Reading {intake.name}: {f'{rows} so far' if intake.rows else 'opening it'}"
        of_what = "How much of the file is read"
    bar = markup.progress(round(100 * intake.share_done), 100, of_what) if intake.share_done else ""
    return markup.loading(words) + bar


def _example_button(example: Example) -> gr.Button:
    words = f"{example.title} · {example.rows}"
    return gr.Button(
        words, size="sm", elem_id=f"example-{example.key}", elem_classes=["example"], min_width=40, scale=0
    )


def wire(card: DataCard, banner: gr.HTML) -> None:
    """Connect the card's events with its handlers."""
    widgets, tells = card.widgets, answers.tells(banner)
    looks = answers.tells(banner, clears=False)
    outputs = [banner, *widgets.all]
    chosen = {**frame.QUICK, "preprocess": False}
    last = {**chosen, "trigger_mode": "always_last"}  # who chooses twice in haste means the second
    panel = widgets.mapping
    widgets.upload.upload(tells(card.upload), widgets.upload, outputs, **frame.QUICK)
    gr.on([widgets.fetch.click, widgets.place.submit], tells(card.fetch), widgets.place, outputs, **frame.QUICK)
    widgets.timer.tick(looks(card.look), widgets.intake, outputs, **frame.QUICK)
    widgets.stop.click(tells(card.stop), widgets.intake, outputs, **frame.QUICK)
    widgets.skip.click(tells(card.skip_bad_rows), widgets.intake, outputs, **frame.QUICK)
    widgets.remap.click(tells(card.remap), widgets.dataset, outputs, **chosen)
    asked = [widgets.intake, *panel.chosen]
    panel.format.input(tells(card.choose_format), asked[:2], [banner, *panel.all], **last)
    gr.on([role.input for role in panel.roles], tells(card.choose_column), asked, [banner, *panel.all], **last)
    panel.use.click(tells(card.use_mapping), asked, outputs, **chosen)
    widgets.dataset.input(tells(card.choose), widgets.dataset, outputs, **last)
    widgets.row.submit(tells(card.go_to), [widgets.dataset, widgets.row], [banner, widgets.preview], **last)
    for key, button in widgets.examples.items():
        button.click(tells(partial(card.example, key)), None, outputs, **frame.QUICK)
    widgets.health.remove(tells(card.remove), widgets.dataset, outputs, **chosen)
    widgets.health.keep(tells(card.keep), widgets.dataset, [banner, widgets.health], **chosen)
    places = [banner, widgets.tabs, widgets.row, widgets.preview]
    widgets.health.row(tells(card.show_row), widgets.dataset, places, **chosen)
