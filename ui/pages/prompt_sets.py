"""Prompt sets on the Playground: written, taken from files and datasets, and asked of all panes.

They stand on the Playground since its panes are who is asked. Ids: `#prompt-sets`, in it `#set-choice`, `#set-name`,
`#set-prompts`, `#set-upload`, `#set-dataset`, `#set-take`, `#set-save`, `#set-ask`; `#rounds` what was asked, and
`#sheet` the prompt that is voted on (`ui.pages.sheets`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from core.config import STARTER
from core.errors import ConfigError, UserError
from jobs.service import Service, prompt_sources, rounds
from ui import sheet_view
from ui.answers import News
from ui.ballots import contestant_of
from ui.pages import datasets
from ui.pages.playground_desk import Talk
from ui.pages.playground_settings import checked
from ui.uploads import uploaded

LOOK_SECONDS = 1.0
TAKEN_QUESTIONS = 20
NEW = ""
_STATUS = '<p class="note-line" role="status">{}</p>'


@dataclass(frozen=True, kw_only=True)
class Widgets:
    """What stands in the panel, and the sheet above it."""

    choice: gr.Dropdown
    name: gr.Textbox
    prompts: gr.Textbox
    upload: gr.File
    dataset: gr.Dropdown
    take: gr.Button
    save: gr.Button
    ask: gr.Button
    status: gr.HTML
    rounds: gr.HTML
    sheet: gr.HTML
    timer: gr.Timer

    @property
    def all(self) -> list[Any]:
        """What an answer changes."""
        return [getattr(self, name) for name in self.__dataclass_fields__]


def sheet_place() -> gr.HTML:
    """Where a prompt is voted on; nothing at first."""
    return gr.HTML("", elem_id="sheet", apply_default_css=False, js_on_load=sheet_view.SHEET_SCRIPT)


def build(sheet: gr.HTML) -> Widgets:
    """Put the panel into the open Blocks context."""
    with gr.Accordion("Prompt sets", open=False, elem_id="prompt-sets", elem_classes=["folded"]):
        with gr.Row(elem_classes=["fields"]):
            choice = gr.Dropdown([("New set", NEW)], value=NEW, label="Set", elem_id="set-choice", interactive=True)
            name = gr.Textbox("", label="Name", max_length=80, elem_id="set-name", placeholder="Star questions")
        prompts = gr.Textbox(
            "",
            label="Prompts",
            info=f"One a line; {prompt_sources.LINE_BREAK} stands for a line break inside a prompt",
            lines=5,
            max_lines=14,
            elem_id="set-prompts",
            placeholder="What is a star?",
        )
        upload, dataset, take = _sources()
        with gr.Row(elem_classes=["actions"]):
            save = gr.Button("Save the set", elem_id="set-save", size="md")
            ask = gr.Button("Ask all panes", variant="primary", elem_id="set-ask", size="md")
        status = gr.HTML("", elem_id="set-status", apply_default_css=False)
        listed = gr.HTML("", elem_id="rounds", apply_default_css=False, js_on_load=sheet_view.ROUNDS_SCRIPT)
    return Widgets(
        choice=choice, name=name, prompts=prompts, upload=upload, dataset=dataset, take=take, save=save, ask=ask,
        status=status, rounds=listed, sheet=sheet, timer=gr.Timer(LOOK_SECONDS, active=False),
    )  # fmt: skip


def _sources() -> tuple[gr.File, gr.Dropdown, gr.Button]:
    with gr.Row(elem_classes=["adding"]):
        upload = gr.File(label="Or drop a text, JSONL or CSV file", elem_id="set-upload", type="filepath", height=132)
        with gr.Column():
            dataset = gr.Dropdown([], label="Or questions of a dataset", elem_id="set-dataset", interactive=True)
            take = gr.Button(
                f"Take {TAKEN_QUESTIONS} questions", elem_id="set-take", size="md", elem_classes=["narrow"]
            )
    return upload, dataset, take


class SetDesk:
    """The handlers. Each returns the news for the widgets that change."""

    def __init__(self, service: Service, widgets: Widgets) -> None:
        self.service, self.widgets = service, widgets

    def open(self, set_id: str = NEW) -> News:
        """What there is, with one set chosen."""
        known = datasets.choices(self.service.data.all())
        chosen = gr.update(choices=known, value=known[0][1] if known else None)
        return {**self.chosen(set_id), self.widgets.dataset: chosen, self.widgets.upload: None}

    def chosen(self, set_id: str | None, status: str = "") -> News:
        """A set, or the empty form of a new one."""
        widgets = self.widgets
        found = self.service.votes.prompt_set(set_id) if set_id else None
        sets = [(f"{each.name} · {len(each.prompts)}", each.id) for each in self.service.votes.prompt_sets()]
        return {
            widgets.choice: gr.update(choices=[("New set", NEW), *sets], value=set_id or NEW),
            widgets.name: found.name if found is not None else "",
            widgets.prompts: prompt_sources.as_lines(found.prompts) if found is not None else "",
            widgets.status: _STATUS.format(status) if status else "",
            **self.look(set_id),
        }

    def look(self, set_id: str | None) -> News:
        """How far the set was asked."""
        found = self.service.rounds.all(set_id) if set_id else ()
        goes_on = any(each.is_asking for each in found)
        return {
            self.widgets.rounds: sheet_view.rounds_list(found, set_id or NEW),
            self.widgets.timer: gr.update(active=goes_on),
        }

    def save(self, set_id: str | None, name: str, prompts: str) -> News:
        """Keep what is in the form."""
        return self.chosen(self._kept(set_id, name, prompts), "Saved.")

    def read(self, path: str | None, name: str, prompts: str) -> News:
        """Add the prompts of a file to those in the form."""
        if not path:
            return {}
        file = uploaded(path)
        return {
            **self._added(prompt_sources.read_file(file), name or file.stem[:80], prompts),
            self.widgets.upload: None,
        }

    def take(self, dataset_id: str | None, name: str, prompts: str) -> News:
        """Add questions of a dataset to those in the form."""
        if not dataset_id:
            raise ConfigError("No dataset is chosen", hint="Add one on the Train page")
        found = prompt_sources.questions(self.service.data, dataset_id, TAKEN_QUESTIONS)
        title = self.service.data.get(dataset_id).name
        news = self._added(found, name or f"{title[:60]} questions", prompts)
        words = "Spread over the dataset: a run that learned from it has seen most of these rows."
        return {**news, self.widgets.status: _STATUS.format(words)}

    def ask(self, set_id: str | None, name: str, prompts: str, talk: Talk, *settings: Any) -> News:
        """Save the set and ask all of it of all panes; the page only looks on."""
        options = checked(*settings)
        kept = self._kept(set_id, name, prompts)
        entrants = [
            rounds.Entrant(contestant=contestant_of(pane, talk.base), adapter=pane.adapter) for pane in talk.panes
        ]
        has_adapter = any(not pane.is_base for pane in talk.panes)
        base = None if has_adapter or talk.base == STARTER else talk.base
        try:
            self.service.rounds.begin(kept, entrants, sampling=options.sampling, system=options.system, base_model=base)
        except UserError:
            if not set_id:  # nothing was asked, so nothing is left of it
                self.service.votes.remove_prompt_set(kept)
            raise
        return self.chosen(kept, "Asking goes on when you close this page.")

    def resume(self, set_id: str, event: gr.EventData) -> News:
        """Ask what was not answered."""
        self.service.rounds.resume(str(event.id))
        return self.look(set_id)

    def stop(self, set_id: str, event: gr.EventData) -> News:
        """Ask no more; what was answered stays."""
        self.service.rounds.stop(str(event.id))
        return self.look(set_id)

    def _kept(self, set_id: str | None, name: str, prompts: str) -> str:
        lines = prompt_sources.lines(prompts or "")
        if not set_id:
            return self.service.votes.add_prompt_set(name or "", lines).id
        known = self.service.votes.prompt_set(set_id)
        if (known.name, list(known.prompts)) != (name, lines):
            self.service.votes.change_prompt_set(set_id, name or "", lines)
        return set_id

    def _added(self, found: list[str], name: str, prompts: str) -> News:
        known = prompt_sources.lines(prompts or "")
        every = tuple(dict.fromkeys([*known, *found]))
        return {self.widgets.prompts: prompt_sources.as_lines(every), self.widgets.name: name}
