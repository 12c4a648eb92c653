"""The Train page's widgets: what stands in its cards, and how a widget changes its words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from core.errors import UserError
from jobs.service import Service
from ui import forms, markup
from ui.pages import changes, cost_card, data_card, filling, model_card, suggesting, sweep, tree_card
from ui.pages.sweep import SweepWidgets
from ui.settings import GROUPS

NAMELESS = "named after the dataset"


@dataclass(frozen=True, kw_only=True)
class Widgets:
    """Everything on the page that handlers read or answer for."""

    banner: gr.HTML
    data: data_card.Widgets
    model: model_card.Widgets
    tree: tree_card.Widgets
    fields: dict[str, Component]
    variants: gr.Accordion
    changes: gr.HTML
    suggestion: gr.HTML
    earlier: gr.Dropdown
    save_settings: gr.HTML
    load_settings: gr.UploadButton
    filled: gr.HTML
    run_name: gr.Textbox
    ready: gr.HTML
    command: gr.HTML
    launch: gr.Button
    sweep: SweepWidgets
    cost: cost_card.Widgets
    page_key: gr.Textbox
    launched: gr.Textbox

    @property
    def outlook(self) -> list[Component]:
        """What any change of the form changes."""
        words = [self.banner, self.ready, self.command, self.launch, self.run_name]
        lines = [self.changes, self.suggestion, self.save_settings]
        parts = [*self.data.tokens.all, self.tree.tree, self.tree.figures, *self.sweep.outlook, *self.cost.all]
        return [*words, *lines, *parts, self.variants, *self.fields.values()]

    @property
    def opened(self) -> list[Component]:
        """What a visitor's arrival changes."""
        parts = [*self.data.all, *self.model.all, *self.fields.values()]
        return [self.banner, self.page_key, self.earlier, self.filled, *parts]

    @property
    def form(self) -> list[Component]:
        """What `TrainPage.refresh` and `TrainPage.launch` read, in this order."""
        asked = [self.page_key, self.data.dataset, self.model.kind, self.model.ref, self.run_name]
        return [*asked, *self.fields.values(), *self.sweep.form]


def card_of_data(service: Service) -> dict[str, Any]:
    """The first card: a dataset, and the settings that stand with it."""
    with gr.Column(elem_classes=["card"], elem_id="card-data"):
        return {"data": data_card.build(service), "settings": _fields("data")}


def lora_card() -> dict[str, Any]:
    """The third card: `fields`, a widget for each setting that stands in no other card, by its path; where variants
    are; and what fills the form in or says how it differs from the standard.
    """
    fields: dict[str, Component] = {}
    with gr.Column(elem_classes=["card"], elem_id="card-lora"):
        gr.HTML(markup.heading("Settings", "The ones that matter most; the rest have good values already.", 3))
        fillers = filling.card()
        suggestion, different = suggesting.box(), changes.box()
        buttons = tree_card.preset_buttons()
        fields |= _fields("method")
        with gr.Row(elem_classes=["fields"]):
            fields |= _fields("simple")
        tree = tree_card.Widgets(presets=buttons, **tree_card.tree())
        with gr.Accordion("Advanced", open=False, elem_id="advanced"), gr.Row(elem_classes=["fields"]):
            fields |= _fields("advanced")
        with gr.Accordion("Variants and expert settings", open=False, elem_id="variants") as variants:
            for group in GROUPS:
                with gr.Column(elem_classes=["group"]):
                    gr.HTML(f"<h3>{markup.esc(group)}</h3>", apply_default_css=False)
                    with gr.Row(elem_classes=["fields"]):
                        fields |= _fields("variants", group)
        changes.notes()
    return {
        "fields": fields,
        "tree": tree,
        "variants": variants,
        "changes": different,
        "suggestion": suggestion,
        **fillers,
    }


def _fields(section: str, group: str = "") -> dict[str, Component]:
    here = (setting for setting in forms.SETTINGS if setting.section == section and setting.group == group)
    return {setting.path: forms.widget(setting) for setting in here}


def ready_card() -> dict[str, Any]:
    """The card beside them: what would come of it, and Launch."""
    with gr.Column(elem_classes=["card", "sticky"], elem_id="card-ready"):
        gr.HTML(markup.heading("Ready?"))
        summary = gr.HTML(markup.loading("Reading the model"), elem_id="ready", apply_default_css=False)
        name = gr.Textbox("", label="Run name", placeholder=NAMELESS, elem_id="run-name", max_length=80)
        launch = gr.Button("Choose a dataset", variant="primary", interactive=False, elem_id="launch")
        costs = cost_card.build()
        several = sweep.card()
        with gr.Accordion("As a command", open=False, elem_id="command"):
            command = gr.HTML("", apply_default_css=False)
    launched = gr.Textbox(visible=False)
    return {
        "ready": summary, "run_name": name, "launch": launch, "command": command, "launched": launched,
        "sweep": several, "cost": costs, "page_key": gr.Textbox(visible=False),
    }  # fmt: skip


def with_hint(
    setting: forms.Setting, hint: str, problem: UserError | None, *, is_shown: bool = True, is_changed: bool = False
) -> Any:
    """A setting's words, or what is wrong with it in their place, and its standard value; marked where it differs from
    that. One that is not shown stays in the page, so that it keeps its value.
    """
    marks = [*(["changed"] if is_changed else []), *(["faulty"] if problem is not None else [])]
    if problem is not None:
        hint = ". ".join(part for part in (problem.title, problem.hint) if part)
    return gr.update(
        info=forms.with_standard(setting, hint),
        elem_classes=[*forms.classes(setting), *marks],
        visible=True if is_shown else "hidden",
    )
