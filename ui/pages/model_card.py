"""The second card of the Train page: the base model, by what is there, by a folder or by an id on Hugging Face.

Ids: `#model-kind`, `#model-ref`, `#model-recent` what was used before or lies on this machine, `#model-status` what can
be adapted in it, `#model-facts` its size, licence and what is in the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from core.config import AUTO_TARGETS, STARTER
from core.errors import NotFound, UserError
from core.models.shapes import LinearShape
from jobs.service import Adapter, Service
from ui import answers, forms, markup
from ui.answers import News
from ui.pages import model_choice, ready

KINDS = [("SmolLM2 135M", "starter"), ("Model folder", "folder"), ("Hugging Face id", "hub")]
REF_WORDS = {
    "folder": ("Folder", "The path of a folder with config.json and *.safetensors", "/models/my-model"),
    "hub": ("Hugging Face id", "Fetched when the run starts, if this machine is online", "HuggingFaceTB/SmolLM2-360M"),
}


@dataclass(frozen=True, kw_only=True)
class Widgets:
    """What stands in the card."""

    kind: gr.Radio
    ref: gr.Textbox
    recent: gr.Dropdown
    status: gr.HTML
    facts: gr.HTML

    @property
    def all(self) -> list[Component]:
        """What choosing a base model changes in the card."""
        return [self.kind, self.ref, self.recent, self.status, self.facts]


def build() -> Widgets:
    """Put the card into the open Blocks context."""
    with gr.Column(elem_classes=["card"], elem_id="card-model"):
        gr.HTML(markup.heading("Base model", "It stays as it is; what is learned is kept apart from it.", 2))
        kind = gr.Radio(
            KINDS, value=STARTER, label="Base model", elem_id="model-kind", elem_classes=["segmented", "bare"]
        )
        ref = gr.Textbox("", label="Folder", elem_id="model-ref", visible=False, max_length=4096)
        recent = gr.Dropdown([], label="Used before, or on this machine", elem_id="model-recent", visible=False)
        status = gr.HTML(markup.loading("Reading the model"), elem_id="model-status", apply_default_css=False)
        facts = gr.HTML("", elem_id="model-facts", apply_default_css=False)
    return Widgets(kind=kind, ref=ref, recent=recent, status=status, facts=facts)


class ModelCard:
    """The card's handlers. Each returns the news for the widgets that change, the boxes of targets among them."""

    def __init__(self, service: Service, widgets: Widgets, targets: Component) -> None:
        self.service, self.widgets, self._targets = service, widgets, targets

    def offer(self) -> News:
        """What was used before, and what lies on this machine, for a visitor who arrives."""
        others = [choice for choice in self.service.models.choices() if choice.ref != STARTER]
        options = model_choice.options(others, datetime.now(UTC))
        return {self.widgets.recent: gr.update(choices=options, value=None, visible=bool(options))}

    def choose_kind(self, kind: str, targets: Sequence[str] = ()) -> News:
        """Another kind of base model: ask for what names it."""
        return {**self.choose(kind, "", targets), self.widgets.ref: ref_box(kind, "")}

    def choose(self, kind: str, ref: str, targets: Sequence[str] = ()) -> News:
        """Show what is known of the base model, and its linear layers as targets; those checked stay if it has them."""
        widgets = self.widgets
        news: News = {widgets.status: "", widgets.facts: ""}
        if kind != STARTER and not (ref or "").strip():
            return {**news, self._targets: target_choices(())}
        try:
            card = self.service.inspect_model(STARTER if kind == STARTER else ref.strip())
        except UserError as error:
            return {**news, widgets.status: markup.banner(error.title, error.detail, error.hint)}
        news[self._targets] = target_choices(card.shapes, targets)
        news[widgets.status] = ready.model_line(card)
        return news

    def ask(self, kind: str, ref: str) -> News:
        """What the hub, or the model's own files, say of it: size, licence, whether one has to ask for it. A folder is
        remembered.
        """
        if kind == STARTER or not (ref or "").strip():
            return {}
        known = self.service.models.describe(ref.strip())
        if kind == "folder" and known.problem is None:
            self.service.models.remember(ref.strip())
        return {self.widgets.facts: model_choice.facts(known)}

    def take(self, ref: str | None, targets: Sequence[str] = ()) -> News:
        """One that was used before."""
        return self.named(ref, targets) if ref else {}

    def named(self, ref: str, targets: Sequence[str] = ()) -> News:
        """The base model of that name, of whatever kind."""
        kind = STARTER if ref == STARTER else "hub" if _is_hub_id(ref) else "folder"
        shown = "" if kind == STARTER else ref
        return {**self.choose(kind, ref, targets), self.widgets.kind: kind, self.widgets.ref: ref_box(kind, shown)}

    def trained_here(self, trained: Adapter) -> News:
        """A model that was trained here as the base model.

        Raises:
            NotFound: it is an adapter.
        """
        if trained.method != "full":
            raise NotFound(f"{trained.name} is an adapter and no base model", hint="Choose one that was trained whole")
        return self.named(str(trained.path))


def wire(card: ModelCard, banner: gr.HTML, targets: Component, as_sent: dict[str, Any]) -> list[Dependency]:
    """Connect the card's events with its handlers; those after which the form is to be looked at anew."""
    widgets, tells = card.widgets, answers.tells(banner)
    outputs = [banner, *widgets.all, targets]
    reference = [widgets.kind, widgets.ref]
    asked = [widgets.ref.submit, widgets.ref.blur]
    gr.on(asked, tells(card.ask), reference, [banner, widgets.facts], trigger_mode="once", **as_sent)
    return [
        widgets.kind.input(tells(card.choose_kind), [widgets.kind, targets], outputs, **as_sent),
        widgets.ref.change(tells(card.choose), [*reference, targets], outputs, trigger_mode="always_last", **as_sent),
        widgets.recent.input(tells(card.take), [widgets.recent, targets], outputs, **as_sent),
    ]


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


def _is_hub_id(ref: str) -> bool:
    return ref.count("/") == 1 and not ref.startswith(("/", ".", "~"))
