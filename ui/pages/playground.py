"""The Playground: one prompt, and up to six panes answer side by side: the base, adapters, checkpoints, blends.

`/playground?adapters=ID,ID` opens with these adapters beside the base (`ui.panes` has the whole language), and
`/playground?base=ID` with a model that full fine-tuning made. Ids: `#panes` the row, `#pane-0` … its places,
`#playground-hint` what is to be said, and those of the parts. Classifiers are not offered: they do not talk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from jobs.service import Service
from ui import answers, markup, pane_view, panes
from ui.pages import frame, playground_settings
from ui.pages.playground_desk import Widgets
from ui.pages.playground_panes import PaneDesk, add_row, base_choice
from ui.pages.playground_talk import TalkDesk
from ui.story import Stories

# Keeps the address as the panes are, so that a reload or another tab shows the same.
_ADDRESS_SCRIPT = """
watch('value', () => {
  const query = element.querySelector('[data-query]')?.dataset.query;
  if (query !== undefined && location.pathname.endsWith('/playground')) {
    history.replaceState(history.state, '', location.pathname + query);
  }
});
"""
_EDITING_SCRIPT = """
element.addEventListener('click', (event) => { if (event.target.closest('#edit-cancel')) trigger('cancel', {}); });
"""


@dataclass(frozen=True)
class PlaygroundPage:
    """The page's handlers: which panes there are, and what is said to them."""

    panes: PaneDesk
    talk: TalkDesk


def build(page: gr.Blocks, service: Service, stories: Stories) -> None:
    """Put the page into the open Blocks context."""
    banner = frame.header(page, service, stories)
    gr.HTML(
        markup.page_heading(
            "Playground", "One prompt, up to six panes: the base, adapters at any strength, checkpoints and blends."
        )
    )
    hint = gr.HTML("", elem_id="playground-hint", apply_default_css=False)
    with gr.Row(elem_id="add-pane", elem_classes=["playground-bar"]):
        base, row = base_choice(), add_row()
    with gr.Row(elem_id="panes", elem_classes=["panes"]):
        slots = [_slot(index) for index in range(panes.MOST_PANES)]
    turns = gr.HTML("", elem_id="turns", apply_default_css=False, js_on_load=pane_view.TURNS_SCRIPT)
    with gr.Column(elem_classes=["composer"]):
        composer = _composer()
    with (
        gr.Accordion("Settings", open=False, elem_id="chat-settings", elem_classes=["folded"]),
        gr.Row(elem_classes=["fields"]),
    ):
        settings = playground_settings.widgets()
    address = gr.HTML(
        "", elem_id="playground-address", elem_classes=["unseen"], apply_default_css=False, js_on_load=_ADDRESS_SCRIPT
    )
    widgets = Widgets(
        banner=banner,
        base=base,
        hint=hint,
        address=address,
        slots=slots,
        turns=turns,
        settings=settings,
        talk=gr.State(None),
        **row,
        **composer,
    )
    _wire(page, PlaygroundPage(PaneDesk(service, widgets), TalkDesk(service, widgets)), widgets)


def _slot(index: int) -> gr.HTML:
    return gr.HTML(
        "",
        elem_id=f"pane-{index}",
        elem_classes=["pane-slot"],
        visible=index == 0,
        apply_default_css=False,
        js_on_load=pane_view.PANE_SCRIPT,
    )


def _composer() -> dict[str, Any]:
    editing = gr.HTML("", elem_id="editing", apply_default_css=False, js_on_load=_EDITING_SCRIPT)
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
    probabilities = gr.Checkbox(
        False,
        label="Show probabilities",
        info="The less likely a token was, the stronger its mark; point at one for what else was likely",
        elem_id="show-probabilities",
    )
    return {
        "editing": editing,
        "prompt": prompt,
        "send": send,
        "stop": stop,
        "clear": clear,
        "probabilities": probabilities,
    }


def _wire(page: gr.Blocks, handlers: PlaygroundPage, widgets: Widgets) -> None:
    """Connect the widgets' events with the handlers."""
    quick, tells = frame.QUICK, answers.tells(widgets.banner)
    streams: dict[str, Any] = {
        "show_progress": "hidden",
        "api_visibility": "private",
        "trigger_mode": "once",
        "concurrency_limit": 8,
    }
    page.load(tells(handlers.panes.open), None, widgets.all, **quick)
    _wire_panes(handlers.panes, widgets, tells)
    gr.on(
        [widgets.send.click, widgets.prompt.submit],
        tells(handlers.talk.send), [widgets.prompt, widgets.talk, *widgets.settings], widgets.all, **streams,
    )  # fmt: skip
    widgets.turns.retry(tells(handlers.talk.retry), [widgets.talk, *widgets.settings], widgets.all, **streams)
    for event, handler in (
        (widgets.turns.edit, handlers.talk.edit),
        (widgets.turns.back, handlers.talk.back),
        (widgets.turns.follow, handlers.talk.follow),
        (widgets.editing.cancel, handlers.talk.cancel_edit),
        (widgets.clear.click, handlers.talk.clear),
    ):
        event(tells(handler), widgets.talk, widgets.all, **quick)
    widgets.stop.click(handlers.talk.stop, widgets.talk, None, **quick)
    shown = [widgets.probabilities, widgets.talk]
    widgets.probabilities.input(tells(handlers.talk.show_probabilities), shown, widgets.all, **quick)


def _wire_panes(desk: PaneDesk, widgets: Widgets, tells: Any) -> None:
    quick = frame.QUICK
    widgets.kind.input(tells(desk.choose_kind), widgets.kind, widgets.all, **quick)
    chosen = [widgets.kind, widgets.one, widgets.several, widgets.strength, widgets.talk]
    widgets.add.click(
        tells(desk.add), chosen, widgets.all, show_progress="hidden", api_visibility="private", trigger_mode="once"
    )
    widgets.base.input(tells(desk.choose_base), [widgets.base, widgets.talk], widgets.all, **quick)
    for slot in widgets.slots:
        slot.strength(tells(desk.set_strength), widgets.talk, widgets.all, **quick)
        slot.remove(tells(desk.remove), widgets.talk, widgets.all, **quick)
