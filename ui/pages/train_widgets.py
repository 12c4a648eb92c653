"""The Train page's widgets: what stands in its cards, and how a widget changes its words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from core.config import AUTO_TARGETS, STARTER
from core.errors import UserError
from core.models.shapes import LinearShape
from jobs.service import Example, Service
from ui import forms, markup
from ui.settings import GROUPS, TASK

MODEL_KINDS = [("SmolLM2 135M", "starter"), ("Model folder", "folder"), ("Hugging Face id", "hub")]
REF_WORDS = {
    "folder": ("Folder", "The path of a folder with config.json and *.safetensors", "/models/my-model"),
    "hub": ("Hugging Face id", "Fetched when the run starts, if this machine is online", "HuggingFaceTB/SmolLM2-360M"),
}
NAMELESS = "named after the dataset"


@dataclass(frozen=True, kw_only=True)
class Widgets:
    """Everything on the page that handlers read or answer for."""

    banner: gr.HTML
    upload: gr.File
    examples: dict[str, gr.Button]
    dataset: gr.Dropdown
    dataset_status: gr.HTML
    skip: gr.Button
    broken_upload: gr.State
    preview: gr.HTML
    model_kind: gr.Radio
    model_ref: gr.Textbox
    model_status: gr.HTML
    fields: dict[str, Component]
    variants: gr.Accordion
    run_name: gr.Textbox
    ready: gr.HTML
    command: gr.HTML
    launch: gr.Button
    page_key: gr.Textbox
    launched: gr.Textbox

    @property
    def data(self) -> list[Component]:
        """What choosing a dataset changes."""
        chosen = [self.upload, self.dataset, self.dataset_status, self.preview, self.fields[TASK]]
        return [self.banner, *chosen, self.skip, self.broken_upload]

    @property
    def model(self) -> list[Component]:
        """What choosing a base model changes."""
        return [self.banner, self.model_ref, self.model_status, self.fields[forms.TARGETS]]

    @property
    def outlook(self) -> list[Component]:
        """What any change of the form changes."""
        words = [self.banner, self.ready, self.command, self.launch, self.run_name]
        return [*words, self.variants, *self.fields.values()]

    @property
    def opened(self) -> list[Component]:
        """What a visitor's arrival changes."""
        others = [field for path, field in self.fields.items() if path not in (forms.TARGETS, TASK)]
        return [self.page_key, self.model_kind, *self.data, *self.model[1:], *others]

    @property
    def form(self) -> list[Component]:
        """What `TrainPage.refresh` and `TrainPage.launch` read, in this order."""
        return [self.page_key, self.dataset, self.model_kind, self.model_ref, self.run_name, *self.fields.values()]


def data_card(service: Service) -> dict[str, Any]:
    """The first card: a file, an example or a dataset that is there."""
    with gr.Column(elem_classes=["card"], elem_id="card-data"):
        gr.HTML(markup.heading("Data", "JSONL, JSON, CSV, Parquet or plain text. It stays on this machine.", 1))
        dataset = gr.Dropdown([], label="Dataset", elem_id="dataset-choice", interactive=True, visible=False)
        upload = gr.File(label="Drop a file here", elem_id="dataset-upload", type="filepath", height=104)
        with gr.Row(elem_classes=["examples"]):
            gr.HTML('<span class="card-hint">or take an example</span>', elem_classes=["inline"])
            buttons = {example.key: _example_button(example) for example in service.examples()}
        status = gr.HTML("", elem_id="dataset-status", apply_default_css=False)
        skip = gr.Button(
            "Leave these rows out", elem_id="skip-bad-rows", visible=False, size="md", elem_classes=["narrow"]
        )
        preview = gr.HTML("", elem_id="dataset-preview", apply_default_css=False)
        task = _fields("data")
    return {
        "task": task, "dataset": dataset, "upload": upload, "examples": buttons, "dataset_status": status,
        "skip": skip, "broken_upload": gr.State(""), "preview": preview,
    }  # fmt: skip


def _example_button(example: Example) -> gr.Button:
    words = f"{example.title} · {example.rows}"
    return gr.Button(
        words, size="sm", elem_id=f"example-{example.key}", elem_classes=["example"], min_width=40, scale=0
    )


def model_card() -> dict[str, Any]:
    """The second card: the base model."""
    with gr.Column(elem_classes=["card"], elem_id="card-model"):
        gr.HTML(markup.heading("Base model", "It stays as it is; what is learned is kept apart from it.", 2))
        kind = gr.Radio(
            MODEL_KINDS, value=STARTER, label="Base model", elem_id="model-kind", elem_classes=["segmented", "bare"]
        )
        ref = gr.Textbox("", label="Folder", elem_id="model-ref", visible=False, max_length=4096)
        status = gr.HTML(markup.loading("Reading the model"), elem_id="model-status", apply_default_css=False)
    return {"model_kind": kind, "model_ref": ref, "model_status": status}


def lora_card() -> tuple[dict[str, Component], gr.Accordion]:
    """The third card: a widget for each setting that stands in no other card, by its path; and where variants are."""
    fields: dict[str, Component] = {}
    with gr.Column(elem_classes=["card"], elem_id="card-lora"):
        gr.HTML(markup.heading("Adapter", "The settings that matter most; the rest have good values already.", 3))
        fields |= _fields("method")
        with gr.Row(elem_classes=["fields"]):
            fields |= _fields("simple")
        with gr.Accordion("Advanced", open=False, elem_id="advanced"), gr.Row(elem_classes=["fields"]):
            fields |= _fields("advanced")
        with gr.Accordion("Variants and expert settings", open=False, elem_id="variants") as variants:
            for group in GROUPS:
                with gr.Column(elem_classes=["group"]):
                    gr.HTML(f"<h3>{markup.esc(group)}</h3>", apply_default_css=False)
                    with gr.Row(elem_classes=["fields"]):
                        fields |= _fields("variants", group)
    return fields, variants


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
        with gr.Accordion("As a command", open=False, elem_id="command"):
            command = gr.HTML("", apply_default_css=False)
    launched = gr.Textbox(visible=False)
    return {
        "ready": summary, "run_name": name, "launch": launch, "command": command, "launched": launched,
        "page_key": gr.Textbox(visible=False),
    }  # fmt: skip


def ref_box(kind: str, ref: str) -> Any:
    """The textbox that names a base model, for that kind of name."""
    label, info, example = REF_WORDS.get(kind, ("Base model", "", ""))
    return gr.update(value=ref, visible=kind != STARTER, label=label, info=info, placeholder=example)


def target_choices(shapes: Sequence[LinearShape], checked: Sequence[str] = ()) -> Any:
    """The target modules of a model; checked stay those that were if it has them all, else what `auto` means."""
    choices = forms.target_choices(shapes)
    is_known = bool(checked) and set(checked) <= {name for _, name in choices}
    value = list(checked) if is_known else forms.checked_targets((AUTO_TARGETS,), shapes)
    return gr.update(choices=choices, value=value)


def with_hint(setting: forms.Setting, hint: str, problem: UserError | None, *, is_shown: bool = True) -> Any:
    """A setting's words, or what is wrong with it in their place. One that is not shown stays in the page, so that it
    keeps its value.
    """
    classes = forms.classes(setting)
    visible = True if is_shown else "hidden"
    if problem is None:
        return gr.update(info=hint, elem_classes=classes, visible=visible)
    words = ". ".join(part for part in (problem.title, problem.hint) if part)
    return gr.update(info=words, elem_classes=[*classes, "faulty"], visible=visible)
