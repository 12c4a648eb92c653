"""The Playground: one prompt, and the base model and up to five adapters answer side by side.

`/playground?adapters=ID,ID` opens with these adapters, `/playground?base=ID` with a model that full fine-tuning made.
Ids: `#base-model` and `#adapters` the choices, `#panes` the row, `#pane-0` the base and `#pane-1` … the adapters,
`#prompt`, `#send`, `#stop-reply`, `#clear`; `#chat-…` the settings. Classifiers are not offered: they do not talk.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from core.config import STARTER
from core.errors import AdapterError, ConfigError
from jobs.service import Adapter, Pane, Service, Waiting
from ui import answers, markup, panes, text
from ui.answers import News
from ui.pages import frame
from ui.panes import PaneState
from ui.story import Stories

REDRAW_SECONDS = 0.1
REMEMBER = """(ids) => {
  const query = ids && ids.length ? '?adapters=' + ids.map(encodeURIComponent).join(',') : '';
  history.replaceState(null, '', location.pathname + query);
}"""


def build(page: gr.Blocks, service: Service, stories: Stories) -> None:
    """Put the page into the open Blocks context."""
    banner = frame.header(page, service, stories)
    gr.HTML(
        markup.page_heading(
            "Playground", "One prompt, every model answers. The base model is always there to compare with."
        )
    )
    with gr.Row(elem_classes=["playground-bar"]):
        base, choice = _base_choice(), _adapter_choice()
    hint = gr.HTML("", elem_id="playground-hint", apply_default_css=False)
    with gr.Row(elem_id="panes", elem_classes=["panes"]):
        slots = [
            gr.HTML(
                "", elem_id=f"pane-{index}", elem_classes=["pane-slot"], visible=index == 0, apply_default_css=False
            )
            for index in range(panes.MOST_PANES)
        ]
    with gr.Column(elem_classes=["composer"]):
        composer = _composer()
    with (
        gr.Accordion("Settings", open=False, elem_id="chat-settings", elem_classes=["folded"]),
        gr.Row(elem_classes=["fields"]),
    ):
        sampling = _sampling_widgets()
    widgets = Widgets(
        banner=banner,
        base=base,
        choice=choice,
        hint=hint,
        slots=slots,
        sampling=sampling,
        talk=gr.State(None),
        **composer,
    )
    _wire(page, PlaygroundPage(service, widgets))


@dataclass(frozen=True, kw_only=True)
class Widgets:
    """Everything on the page that handlers read or answer for."""

    banner: gr.HTML
    base: gr.Dropdown
    choice: gr.Dropdown
    hint: gr.HTML
    slots: list[gr.HTML]
    prompt: gr.Textbox
    send: gr.Button
    stop: gr.Button
    clear: gr.Button
    sampling: list[Any]
    talk: gr.State

    @property
    def all(self) -> list[Any]:
        """What an answer changes."""
        return [
            self.banner,
            self.base,
            self.choice,
            self.hint,
            *self.slots,
            self.prompt,
            self.send,
            self.stop,
            self.clear,
            self.talk,
        ]


@dataclass(kw_only=True)
class Talk:
    """One visitor's panes, and the base model that answers where no adapter says which. `is_stopped` is how the Stop
    button reaches the answer that streams.
    """

    panes: list[PaneState] = field(default_factory=list)
    base: str = STARTER
    is_stopped: bool = False


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """What is said in Settings."""

    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    system: str


class PlaygroundPage:
    """The page's handlers."""

    def __init__(self, service: Service, widgets: Widgets) -> None:
        self.service = service
        self.widgets = widgets

    def open(self, request: gr.Request) -> News:
        """A visitor arrives, perhaps with adapters in the address."""
        every = self.service.adapters()
        adapters = [adapter for adapter in every if adapter.can_chat]
        wanted = [part for part in request.query_params.get("adapters", "").split(",") if part]
        chosen = [adapter_id for adapter_id in wanted if any(adapter.id == adapter_id for adapter in adapters)]
        chosen = chosen[: panes.MOST_PANES - 1]
        silent = [adapter for adapter in every if adapter.id in wanted and not adapter.can_chat]
        base = self._base_of(request.query_params.get("base", ""))
        return {
            self.widgets.choice: gr.update(choices=_choices(adapters), value=chosen, visible=bool(adapters)),
            self.widgets.hint: _hint(adapters, len(wanted) - len(chosen), silent),
            **self.choose(chosen, Talk(base=base)),
        }

    def choose_base(self, base: str, talk: Talk | None) -> News:
        """Let another base model answer, without adapters: those that were chosen may be another's."""
        known = any(base == ref for _, ref in self._bases()) or (talk is not None and base == talk.base)
        return {self.widgets.choice: gr.update(value=[]), **self.choose((), Talk(base=base if known else STARTER))}

    def choose(self, ids: Sequence[str] | None, talk: Talk | None) -> News:
        """Show a pane for each adapter; conversations that are there stay."""
        talk = talk or Talk()
        known = {adapter.id: adapter for adapter in self.service.adapters()}
        chosen = [known[adapter_id] for adapter_id in ids or () if adapter_id in known and known[adapter_id].can_chat]
        if chosen:
            talk.base = chosen[0].base_model
        talk.panes = panes.arrange(chosen, self._title_of(talk.base), talk.panes)
        news = {**self._draw(talk), self.widgets.base: self._base_news(talk)}
        for slot in self.widgets.slots[len(talk.panes) :]:
            news[slot] = gr.update(value="", visible=False)
        return {**news, self.widgets.talk: talk}

    def send(self, prompt: str, talk: Talk, *sampling: Any) -> Iterator[News]:
        """Ask every pane at once and show the answers as they come."""
        question = (prompt or "").strip()
        if not question:
            raise ConfigError("The message is empty", hint="Type what the models should answer")
        options = _checked(*sampling)
        self._check_bases(talk)
        for pane in talk.panes:
            pane.ask(question)
        talk.is_stopped = False
        failure: Exception | None = None
        try:
            yield {**self._busy(True), self.widgets.prompt: "", **self._draw(talk)}
            yield from self._stream(talk, options)
        except Exception as error:  # noqa: BLE001 - raised again below, once the page can be used
            failure = error
        finally:  # also when the visitor has gone; nothing may be yielded then
            for pane in talk.panes:
                pane.settle()
        kept = {self.widgets.prompt: prompt} if failure else {}
        yield {**self._busy(False), **self._draw(talk), **kept}
        if failure:
            raise failure

    def stop(self, talk: Talk) -> None:
        """End the answers where they are; what has come stays."""
        talk.is_stopped = True

    def clear(self, talk: Talk) -> News:
        """Forget the conversations, keep the panes."""
        for pane in talk.panes:
            pane.turns, pane.reply, pane.waiting = [], None, ""
        return self._draw(talk)

    def _stream(self, talk: Talk, options: ChatOptions) -> Iterator[News]:
        asked = [Pane(adapter=pane.adapter_id, messages=pane.messages(options.system)) for pane in talk.panes]
        updates = self.service.chat(
            asked,
            base_model=None if len(asked) > 1 or talk.base == STARTER else talk.base,
            max_new_tokens=options.max_new_tokens,
            temperature=options.temperature,
            top_p=options.top_p,
            seed=options.seed,
        )
        drawn = 0.0
        with closing(updates):  # type: ignore[type-var]
            for update in updates:
                if talk.is_stopped:
                    return
                if isinstance(update, Waiting):
                    for pane in talk.panes:
                        pane.waiting = update.phase[:1].upper() + update.phase[1:]
                else:
                    _take(talk.panes[update.pane], update)
                if isinstance(update, Waiting) or time.monotonic() - drawn > REDRAW_SECONDS:
                    drawn = time.monotonic()
                    yield self._draw(talk)

    def _base_of(self, model_id: str) -> str:
        """The folder of the whole model of that id, else the starter."""
        models = self.service.trained_models() if model_id else ()
        return next((str(model.path) for model in models if model.id == model_id and model.can_chat), STARTER)

    def _bases(self) -> list[tuple[str, str]]:
        """The starter and the models that were trained here, by name and by what the service calls them."""
        models = [(model.name, str(model.path)) for model in self.service.trained_models() if model.can_chat]
        return [(text.STARTER_WORDS, STARTER), *models]

    def _base_news(self, talk: Talk) -> Any:
        """The choice of base models, with that of the adapters among them; there only if there is a choice."""
        bases = self._bases()
        here = [] if any(talk.base == ref for _, ref in bases) else [(text.base_model(talk.base), talk.base)]
        return gr.update(choices=[*bases, *here], value=talk.base, visible=len(bases) > 1)

    def _title_of(self, base: str) -> str:
        """What a base model is called; one that was trained here has a name of its own."""
        names = {ref: name for name, ref in self._bases()}
        return names.get(base) or text.base_model(base)

    def _check_bases(self, talk: Talk) -> None:
        chosen = [self.service.adapter(pane.adapter_id) for pane in talk.panes if pane.adapter_id]
        different = {adapter.base_model: adapter for adapter in chosen}
        if len(different) > 1:
            names = " and ".join(f"{adapter.name} on {text.base_model(base)}" for base, adapter in different.items())
            raise AdapterError(
                "These adapters sit on different base models", names, "Choose adapters of one base model"
            )

    def _draw(self, talk: Talk) -> News:
        slots = self.widgets.slots
        return {
            slots[index]: gr.update(value=panes.render(talk.panes, index), visible=True)
            for index in range(len(talk.panes))
        }

    def _busy(self, is_busy: bool) -> News:
        widgets = self.widgets
        return {
            widgets.send: gr.update(visible=not is_busy),
            widgets.stop: gr.update(visible=is_busy),
            widgets.clear: gr.update(interactive=not is_busy),
            widgets.choice: gr.update(interactive=not is_busy),
        }


def _take(pane: PaneState, delta: Any) -> None:
    pane.waiting = ""
    if pane.reply is not None:
        pane.reply.take(delta)


def _choices(adapters: Sequence[Adapter]) -> list[tuple[str, str]]:
    def words(adapter: Adapter) -> str:
        return f"rank {adapter.rank}" if adapter.method == "lora" else "biases"

    return [(f"{adapter.name} #{adapter.fingerprint[:4]} · {words(adapter)}", adapter.id) for adapter in adapters]


def _base_choice() -> gr.Dropdown:
    return gr.Dropdown(
        [(text.STARTER_WORDS, STARTER)],
        value=STARTER,
        label="Base model",
        elem_id="base-model",
        interactive=True,
        visible=False,
    )


def _adapter_choice() -> gr.Dropdown:
    return gr.Dropdown(
        [],
        multiselect=True,
        label="Adapters beside the base model",
        elem_id="adapters",
        interactive=True,
        max_choices=panes.MOST_PANES - 1,
    )


def _composer() -> dict[str, Any]:
    with gr.Row():
        prompt = gr.Textbox(
            "",
            label="Message to all panes",
            placeholder="Ask all of them something",
            elem_id="prompt",
            lines=1,
            max_lines=8,
            autofocus=True,
        )
        send = gr.Button("Send", variant="primary", elem_id="send", size="md", scale=0, min_width=110)
        stop = gr.Button("Stop", elem_id="stop-reply", visible=False, size="md", scale=0, min_width=110)
        clear = gr.Button("Clear", elem_id="clear", size="md", scale=0, min_width=80)
    return {"prompt": prompt, "send": send, "stop": stop, "clear": clear}


def _sampling_widgets() -> list[Any]:
    return [
        gr.Number(200, label="Longest answer", info="In tokens", precision=0, elem_id="chat-max-tokens"),
        gr.Number(
            0.0, label="Temperature", info="0 always takes the likeliest token", step=0.1, elem_id="chat-temperature"
        ),
        gr.Number(1.0, label="Top-p", info="Leaves unlikely tokens out; 1 keeps all", step=0.05, elem_id="chat-top-p"),
        gr.Number(0, label="Seed", info="The same seed repeats the answer", precision=0, elem_id="chat-seed"),
        gr.Textbox(
            "", label="System prompt", info="Said to every pane before the conversation", lines=2, elem_id="chat-system"
        ),
    ]


def _wire(page: gr.Blocks, handlers: PlaygroundPage) -> None:
    """Connect the widgets' events with the handlers."""
    widgets, quick = handlers.widgets, frame.QUICK
    tells = answers.tells(widgets.banner)
    page.load(tells(handlers.open), None, widgets.all, **quick)
    chosen = widgets.choice.input(tells(handlers.choose), [widgets.choice, widgets.talk], widgets.all, **quick)
    chosen.then(None, widgets.choice, None, js=REMEMBER, **quick)
    gr.on(
        [widgets.send.click, widgets.prompt.submit],
        tells(handlers.send), [widgets.prompt, widgets.talk, *widgets.sampling], widgets.all,
        show_progress="hidden", api_visibility="private", trigger_mode="once", concurrency_limit=8,
    )  # fmt: skip
    widgets.base.input(tells(handlers.choose_base), [widgets.base, widgets.talk], widgets.all, **quick)
    widgets.stop.click(handlers.stop, widgets.talk, None, **quick)
    widgets.clear.click(tells(handlers.clear), widgets.talk, widgets.all, **quick)


def _checked(max_new_tokens: Any, temperature: Any, top_p: Any, seed: Any, system: Any) -> ChatOptions:
    numbers = {"Longest answer": max_new_tokens, "Temperature": temperature, "Top-p": top_p, "Seed": seed}
    for name, value in numbers.items():
        if value is None:
            raise ConfigError(f"{name} is empty", hint="Give it a number in Settings")
    return ChatOptions(
        max_new_tokens=int(max_new_tokens),
        temperature=float(temperature),
        top_p=float(top_p),
        seed=int(seed),
        system=system or "",
    )


def _hint(adapters: Sequence[Adapter], missing: int, silent: Sequence[Adapter] = ()) -> str:
    if silent:
        words = f"{silent[0].name} is a classifier: it names a class and has no words to chat with"
        return markup.banner(words, hint="See its accuracy on its run's page")
    if missing:
        words = f"{text.plural(missing, 'adapter')} of this address cannot be shown: not there any more, or too many"
        return markup.banner(words, hint="Choose from the list")
    if not adapters:
        words = "There is no adapter yet, so the base model answers alone."
        return f'<p class="note-line">{words} <a href="/">Train one</a>.</p>'
    return ""
