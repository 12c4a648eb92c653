"""Which panes the Playground shows: what the address asks for, and the row in which one is added.

Ids: `#base-model` the base, `#pane-kind`, `#pane-one`, `#pane-several`, `#pane-strength` and `#pane-add` the row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from core.config import STARTER
from core.errors import AdapterError, ConfigError, NotFound, UserError
from jobs.service import Adapter, Checkpoint, Service
from ui import markup, panes, text
from ui.answers import News
from ui.pages.playground_desk import Talk, Widgets, draw
from ui.panes import Named, PaneState, Part

KINDS = {"base": "Base model", "adapter": "Adapter", "checkpoint": "Checkpoint", "blend": "Blend"}
_STRENGTHENED = ("adapter", "checkpoint")


def base_choice() -> gr.Dropdown:
    """The base model that answers, where there is a choice."""
    return gr.Dropdown(
        [(text.STARTER_WORDS, STARTER)],
        value=STARTER,
        label="Base model",
        elem_id="base-model",
        interactive=True,
        visible=False,
    )


def add_row() -> dict[str, Any]:
    """The widgets by which a pane is added."""
    return {
        "kind": gr.Radio(
            [(words, kind) for kind, words in KINDS.items()],
            value="adapter",
            label="Add a pane",
            elem_id="pane-kind",
            elem_classes=["segmented"],
        ),
        "one": gr.Dropdown([], label=KINDS["adapter"], elem_id="pane-one", interactive=True),
        "several": gr.Dropdown(
            [],
            label="Adapters and checkpoints",
            multiselect=True,
            elem_id="pane-several",
            interactive=True,
            visible=False,
        ),
        "strength": gr.Slider(
            panes.LEAST_STRENGTH,
            panes.MOST_STRENGTH,
            1.0,
            step=0.1,
            label="Strength (0: base)",
            elem_id="pane-strength",
        ),
        "add": gr.Button("Add pane", elem_id="pane-add", size="md"),
    }


class PaneDesk:
    """The handlers that change which panes there are."""

    def __init__(self, service: Service, widgets: Widgets) -> None:
        self.service, self.widgets = service, widgets

    def open(self, request: gr.Request) -> News:
        """A visitor arrives, perhaps with panes in the address."""
        asked = request.query_params
        base, base_id = self._base_of(asked.get("base", ""))
        talk = Talk(base=base, base_id=base_id, is_blind=asked.get("blind") == "1")
        wanted = panes.named(asked.get("adapters", ""), asked.get("panes", ""))
        missing = [words for named in wanted if (words := self._put(talk, named))]
        if not talk.panes:
            self._put(talk, ())
        return {
            **self.choose_kind("adapter"),
            self.widgets.kind: "adapter",
            self.widgets.hint: self._hint(missing),
            self.widgets.blind: talk.is_blind,
            **self._shown(talk),
        }

    def choose_base(self, base: str, talk: Talk | None) -> News:
        """Let another base model answer, without adapters: those that are there may be another's."""
        known = any(base == ref for _, ref in self._bases()) or (talk is not None and base == talk.base)
        ids = {str(model.path): model.id for model in self.service.trained_models()}
        new = Talk(base=base, base_id=ids.get(base, "")) if known else Talk()
        if talk is not None:
            new.is_blind, new.sheet = talk.is_blind, talk.sheet
        self._put(new, ())
        return self._shown(new)

    def choose_kind(self, kind: str) -> News:
        """Offer what a pane of this kind can show."""
        choices = self._adapters() if kind == "adapter" else self._checkpoints()
        label = KINDS[kind if kind in _STRENGTHENED else "adapter"]
        first = choices[0][1] if choices else None
        both = [*self._adapters(), *self._checkpoints()] if kind == "blend" else []
        return {
            self.widgets.one: gr.update(choices=choices, value=first, label=label, visible=kind in _STRENGTHENED),
            self.widgets.several: gr.update(choices=both, value=[], visible=kind == "blend"),
            self.widgets.strength: gr.update(visible=kind in _STRENGTHENED),
        }

    def add(self, kind: str, one: str | None, several: Sequence[str], strength: Any, talk: Talk) -> Iterator[News]:
        """Another pane. A checkpoint may have to be opened for it, which is said meanwhile.

        Raises:
            ConfigError: nothing is chosen for it, or there are as many as there may be.
            AdapterError: it sits on another base model than those that are there.
        """
        talk.require_rest()
        if len(talk.panes) >= panes.MOST_PANES:
            raise ConfigError(f"There are {panes.MOST_PANES} panes already", hint="Remove one first")
        named = self._chosen(kind, one, several, float(1.0 if strength is None else strength))
        waiting = "Opening the checkpoint" if any(":" in ref for ref, _ in named) else "Adding the pane"
        yield {self.widgets.hint: markup.loading(waiting), self.widgets.add: gr.update(interactive=False)}
        failure: Exception | None = None
        try:
            self._add(talk, named)
        except Exception as error:  # noqa: BLE001 - raised again below, once the page can be used
            failure = error
        yield {**self._shown(talk), self.widgets.hint: ""}
        if failure:
            raise failure

    def _chosen(self, kind: str, one: str | None, several: Sequence[str], strength: float) -> Named:
        if kind == "base":
            return ()
        if kind == "blend":
            if len(several or ()) < 2:
                raise ConfigError("A blend has two adapters at least", hint="Choose them in the list")
            return tuple((ref, round(1 / len(several), 2)) for ref in several)
        if not one:
            words = "Train one first" if kind == "adapter" else "A run writes one now and then"
            raise ConfigError(f"There is no {KINDS[kind].lower()} chosen", hint=words)
        return ((one, strength),)

    def remove(self, talk: Talk, event: gr.EventData) -> News:
        """Take a pane away; the last one stays.

        Raises:
            ConfigError: it is the last.
        """
        talk.require_rest()
        if len(talk.panes) == 1:
            raise ConfigError("This is the last pane", hint="Add another one before you remove it")
        talk.panes = [pane for pane in talk.panes if str(pane.number) != str(event.pane)]
        return self._shown(talk)

    def set_strength(self, talk: Talk, event: gr.EventData) -> News:
        """Let an adapter in a pane have another strength, from the next message on."""
        talk.require_rest()
        for pane in talk.panes:
            if str(pane.number) == str(event.pane):
                pane.set_strength(int(event.part), float(event.value))
        return draw(self.widgets, talk)

    def _put(self, talk: Talk, named: Named) -> str:
        """Add the pane that an address names; what is to be said if that cannot be."""
        if len(talk.panes) >= panes.MOST_PANES:
            return f"A page shows {panes.MOST_PANES} panes at most"
        try:
            self._add(talk, named)
        except UserError as error:
            return error.title
        return ""

    def _add(self, talk: Talk, named: Named) -> None:
        parts = tuple(self._part(ref, strength) for ref, strength in named)
        there = next((part for pane in talk.panes for part in pane.parts), None)
        for part in parts:
            if there is not None and part.base_model != there.base_model:
                words = [f"{each.name} on {self._title_of(each.base_model)}" for each in (there, part)]
                title = "These adapters sit on different base models"
                raise AdapterError(title, " and ".join(words), "Choose adapters of one base model")
            there = there or part
        if there is not None:
            talk.base = there.base_model
        pane = PaneState(number=talk.new_number(), title="", parts=parts)
        if parts:
            pane.color = panes.free_color(talk.panes)
        talk.panes.append(pane)
        for each in talk.panes:
            each.title = self._title_of(talk.base)

    def _part(self, ref: str, strength: float) -> Part:
        """The adapter, or the checkpoint `RUN:STEP`, which is opened now if it has not been.

        Raises:
            NotFound, RunError: it is not there, or cannot be opened.
            AdapterError: it does not talk.
        """
        run, colon, step = ref.partition(":")
        if not colon:
            adapter = self.service.adapter(ref)
            if not adapter.can_chat:
                raise AdapterError(f"{adapter.name} is a classifier: it names a class and has no words to chat with")
            if adapter.method == "full":
                raise AdapterError(f"{adapter.name} is a whole model and no adapter")
            part = panes.part_of(adapter)
        elif step.isdecimal():
            part = panes.part_of_checkpoint(self.service.checkpoints.open(run, int(step)))
        else:
            raise NotFound(f"There is no checkpoint {ref}")
        pane = PaneState(number=0, title="", parts=(part,))
        pane.set_strength(0, strength)
        return pane.parts[0]

    def _adapters(self) -> list[tuple[str, str]]:
        return [(_adapter_words(adapter), adapter.id) for adapter in self.service.adapters() if adapter.can_chat]

    def _checkpoints(self) -> list[tuple[str, str]]:
        found = self.service.checkpoints.all()
        return [(_checkpoint_words(checkpoint), panes.checkpoint_address(checkpoint)) for checkpoint in found]

    def _base_of(self, model_id: str) -> tuple[str, str]:
        """The folder of the whole model of that id, and the id; else the starter, which has none."""
        models = self.service.trained_models() if model_id else ()
        found = (model for model in models if model.id == model_id and model.can_chat)
        return next(((str(model.path), model_id) for model in found), (STARTER, ""))

    def _bases(self) -> list[tuple[str, str]]:
        """The starter and the models that were trained here, by name and by what the service calls them."""
        models = [(model.name, str(model.path)) for model in self.service.trained_models() if model.can_chat]
        return [(text.STARTER_WORDS, STARTER), *models]

    def _title_of(self, base: str) -> str:
        """What a base model is called; one that was trained here has a name of its own."""
        names = {ref: name for name, ref in self._bases()}
        return names.get(base) or text.base_model(base)

    def _shown(self, talk: Talk) -> News:
        """All of it, with the choice of base models, which is there only if there is a choice."""
        bases = self._bases()
        here = [] if any(talk.base == ref for _, ref in bases) else [(text.base_model(talk.base), talk.base)]
        chosen = gr.update(choices=[*bases, *here], value=talk.base, visible=len(bases) > 1)
        return {**draw(self.widgets, talk), self.widgets.base: chosen, self.widgets.talk: talk}

    def _hint(self, missing: Sequence[str]) -> str:
        if missing:
            return markup.banner(missing[0], hint="Choose from the list below")
        if not self._adapters():
            words = "There is no adapter yet, so the base model answers alone."
            return f'<p class="note-line">{words} <a href="/">Train one</a>.</p>'
        return ""


def _adapter_words(adapter: Adapter) -> str:
    size = f"rank {adapter.rank}" if adapter.method == "lora" else "biases"
    return f"{adapter.name} #{adapter.fingerprint[:4]} · {size}"


def _checkpoint_words(checkpoint: Checkpoint) -> str:
    going = " · still training" if checkpoint.is_going_on else ""
    return f"{checkpoint.run_name} · step {checkpoint.step:,}{going}"
