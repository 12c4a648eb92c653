"""The Playground: one prompt, and up to six panes answer side by side: the base, adapters, checkpoints, blends.

`/playground?adapters=ID,ID` opens with these adapters beside the base (`ui.panes` has the whole language), and
`/playground?base=ID` with a model that full fine-tuning made; `blind=1` beside these hides who answers, and
`round=ID` opens the answers to a prompt set where voting on them goes on. Ids: `#panes` the row, `#pane-0` … its
places, `#playground-hint` what is to be said, and those of the parts. Classifiers are not offered: they do not talk.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from jobs.service import Service
from ui import answers, markup, pane_view, panes, vote_bar
from ui.answers import News
from ui.pages import frame, playground_settings, prompt_sets, ranking
from ui.pages.playground_desk import Widgets
from ui.pages.playground_panes import PaneDesk, add_row, base_choice
from ui.pages.playground_talk import TalkDesk
from ui.pages.playground_votes import VoteDesk
from ui.pages.sheets import SheetDesk
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


class PlaygroundPage:
    """The page's handlers: which panes there are, what is said to them, what is voted, sets of prompts, who wins."""

    def __init__(self, service: Service, widgets: Widgets, sets: prompt_sets.Widgets, winning: ranking.Widgets) -> None:
        self.panes = PaneDesk(service, widgets)
        self.talk = TalkDesk(service, widgets)
        self.votes = VoteDesk(service, widgets)
        self.sets = prompt_sets.SetDesk(service, sets)
        self.sheets = SheetDesk(service, widgets, self.sets)
        self.ranking = ranking.RankingDesk(service, winning)

    def open(self, request: gr.Request) -> News:
        """A visitor arrives, perhaps with panes in the address, or a round."""
        news = self.panes.open(request)
        talk = news[self.panes.widgets.talk]
        return {**news, **self.sheets.arrive(talk, request.query_params.get("round", ""))}


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
    sheet = prompt_sets.sheet_place()
    with (
        gr.Accordion("Settings", open=False, elem_id="chat-settings", elem_classes=["folded"]),
        gr.Row(elem_classes=["fields"]),
    ):
        settings = playground_settings.widgets()
    sets, winning = prompt_sets.build(sheet), ranking.build()
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
    handlers = PlaygroundPage(service, widgets, sets, winning)
    page.load(answers.tells(banner)(handlers.open), None, [*widgets.all, *sets.all], **frame.QUICK)
    _wire(handlers, widgets)


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
    votes = gr.HTML("", elem_id="votes", apply_default_css=False, js_on_load=vote_bar.SCRIPT)
    editing = gr.HTML("", elem_id="editing", apply_default_css=False, js_on_load=_EDITING_SCRIPT)
    with gr.Row():
        prompt = gr.Textbox(
            "",
            label="Message to all panes",
            placeholder="Ask all panes",
            elem_id="prompt",
            lines=1,
            max_lines=8,
            autofocus=True,
        )
        send = gr.Button("Send", variant="primary", elem_id="send", size="md", scale=0, min_width=110)
        stop = gr.Button("Stop", elem_id="stop-reply", visible=False, size="md", scale=0, min_width=110)
        clear = gr.Button("Clear", elem_id="clear", size="md", scale=0, min_width=80)
    with gr.Row(elem_classes=["talk-choices"]):
        blind = gr.Checkbox(
            False,
            label="Blind",
            info="Who answers is hidden, in an order drawn for each message, until you vote",
            elem_id="blind",
        )
        probabilities = gr.Checkbox(
            False,
            label="Show probabilities",
            info="The less likely a token was, the stronger its mark; point at one for what else was likely",
            elem_id="show-probabilities",
        )
    return {
        "votes": votes,
        "editing": editing,
        "prompt": prompt,
        "send": send,
        "stop": stop,
        "clear": clear,
        "probabilities": probabilities,
        "blind": blind,
    }


def _wire(handlers: PlaygroundPage, widgets: Widgets) -> None:
    """Connect the widgets' events with the handlers."""
    quick, tells = frame.QUICK, answers.tells(widgets.banner)
    streams: dict[str, Any] = {
        "show_progress": "hidden",
        "api_visibility": "private",
        "trigger_mode": "once",
        "concurrency_limit": 8,
    }
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
    voted = [*_wire_votes(handlers.votes, widgets, tells), *_wire_sets(handlers, widgets, tells)]
    ranking.wire(handlers.ranking, widgets.banner, widgets.talk, voted)


def _wire_votes(desk: VoteDesk, widgets: Widgets, tells: Any) -> list[Any]:
    """Returns the events that change votes."""
    quick, talk = frame.QUICK, widgets.talk
    widgets.blind.input(tells(desk.set_blind), [widgets.blind, talk], widgets.all, **quick)
    widgets.votes.reveal(tells(desk.reveal), talk, widgets.all, **quick)
    cast = [place.vote(tells(desk.vote), talk, widgets.all, **quick) for place in (*widgets.slots, widgets.votes)]
    return [*cast, widgets.votes.take_back(tells(desk.take_back), talk, widgets.all, **quick)]


def _wire_sets(handlers: PlaygroundPage, widgets: Widgets, tells: Any) -> list[Any]:
    """Returns the events that change votes."""
    desk, sheets, quick, talk = handlers.sets, handlers.sheets, frame.QUICK, widgets.talk
    sets, outputs = desk.widgets, [widgets.banner, widgets.address, *desk.widgets.all]
    form = [sets.choice, sets.name, sets.prompts]
    for event, handler, inputs in (
        (sets.choice.input, desk.chosen, sets.choice),
        (sets.save.click, desk.save, form),
        (sets.upload.upload, desk.read, [sets.upload, *form[1:]]),
        (sets.take.click, desk.take, [sets.dataset, *form[1:]]),
        (sets.ask.click, desk.ask, [*form, talk, *widgets.settings]),
        (sets.rounds.resume_round, desk.resume, sets.choice),
        (sets.rounds.stop_round, desk.stop, sets.choice),
        (sets.rounds.open_round, sheets.open, talk),
        (sets.rounds.remove_round, sheets.remove, [sets.choice, talk]),
        (sets.sheet.reveal, sheets.reveal, talk),
        (sets.sheet.skip, sheets.skip, talk),
        (sets.sheet.go_back, sheets.go_back, talk),
        (sets.sheet.leave, sheets.leave, talk),
    ):
        event(tells(handler), inputs, outputs, **quick)
    looks = answers.tells(widgets.banner, clears=False)(desk.look)
    sets.timer.tick(looks, sets.choice, outputs, **quick)
    return [
        sets.sheet.vote(tells(sheets.vote), talk, outputs, **quick),
        sets.sheet.take_back(tells(sheets.take_back), talk, outputs, **quick),
        sets.rounds.remove_set(tells(sheets.remove_set), talk, outputs, **quick),
    ]


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
