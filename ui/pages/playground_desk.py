"""What one visitor has on the Playground, the widgets that show it, and how it is drawn.

`Talk` is the visitor's; `draw` says all of it to the widgets, which say only what is new (`ui.blocks`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import gradio as gr

from core.config import STARTER
from core.errors import ConfigError
from ui import markup, pane_view, panes, vote_bar
from ui.answers import News
from ui.conversation import Conversation
from ui.panes import PaneState


@dataclass(frozen=True, kw_only=True)
class SheetPlace:
    """The prompt, from 0, of a round that is looked at; `is_revealed` where it is known who answered without a vote."""

    round_id: str
    at: int
    is_revealed: bool = False


@dataclass(kw_only=True)
class Talk:
    """One visitor's panes and conversation. `base` is the base model that answers where no adapter says which, and
    `base_id` what an address calls it where it was trained here; `is_blind` says that who answers is hidden, and
    `sheet` where the visitor is in a prompt set's answers; `editing` is the turn whose message is being changed, and
    `is_stopped` how the Stop button reaches the answer that streams.
    """

    panes: list[PaneState] = field(default_factory=list)
    base: str = STARTER
    base_id: str = ""
    conversation: Conversation = field(default_factory=Conversation)
    editing: int | None = None
    shows_probabilities: bool = False
    is_blind: bool = False
    sheet: SheetPlace | None = None
    is_busy: bool = False
    is_stopped: bool = False
    made: int = 0

    def new_number(self) -> int:
        """A number that no pane has had."""
        self.made += 1
        return self.made

    def require_rest(self) -> None:
        """Refuse a change while answers come.

        Raises:
            ConfigError: they do.
        """
        if self.is_busy:
            raise ConfigError("Answers are being written", hint="Wait until they are there, or stop them")

    @property
    def query(self) -> str:
        """What an address has from `?` on, to open with the same panes."""
        words = [panes.query(self.panes).removeprefix("?")]
        if self.base_id and all(pane.is_base for pane in self.panes):
            words.insert(0, f"base={quote(self.base_id)}")
        words += ["blind=1"] if self.is_blind else []
        words += [f"round={quote(self.sheet.round_id)}"] if self.sheet is not None else []
        shown = "&".join(word for word in words if word)
        return f"?{shown}" if shown else ""

    @property
    def seated(self) -> list[PaneState]:
        """The panes in the order in which they are shown: those that answered last as their ballot has them."""
        ballot = self.conversation.ballot
        places = {} if ballot is None else {number: place for place, number in enumerate(ballot.order)}
        return sorted(self.panes, key=lambda pane: places.get(pane.number, len(places)))

    @property
    def look(self) -> pane_view.Look:
        """How the panes are drawn."""
        return pane_view.Look(is_busy=self.is_busy, shows_probabilities=self.shows_probabilities)


@dataclass(frozen=True, kw_only=True)
class Widgets:
    """Everything on the page that handlers read or answer for."""

    banner: gr.HTML
    base: gr.Dropdown
    kind: gr.Radio
    one: gr.Dropdown
    several: gr.Dropdown
    strength: gr.Slider
    add: gr.Button
    hint: gr.HTML
    address: gr.HTML
    slots: list[gr.HTML]
    turns: gr.HTML
    editing: gr.HTML
    prompt: gr.Textbox
    send: gr.Button
    stop: gr.Button
    clear: gr.Button
    probabilities: gr.Checkbox
    blind: gr.Checkbox
    votes: gr.HTML
    settings: list[Any]
    talk: gr.State

    @property
    def all(self) -> list[Any]:
        """What an answer changes."""
        singles = [getattr(self, name) for name in self.__dataclass_fields__ if name not in ("slots", "settings")]
        return [*singles, *self.slots]


def draw(widgets: Widgets, talk: Talk) -> News:
    """The panes, the turns, the address, and what can be pressed."""
    news: News = {widgets.slots[index]: _slot(talk, index) for index in range(len(widgets.slots))}
    return {
        **news,
        widgets.votes: vote_bar.bar(talk.conversation, talk.is_busy),
        widgets.turns: pane_view.turns(talk.conversation, talk.look),
        widgets.editing: _editing(talk),
        widgets.address: f'<i data-query="{markup.esc(talk.query)}"></i>',
        widgets.send: gr.update(visible=not talk.is_busy),
        widgets.stop: gr.update(visible=talk.is_busy),
        widgets.clear: gr.update(interactive=not talk.is_busy),
        widgets.add: gr.update(interactive=not talk.is_busy and len(talk.panes) < panes.MOST_PANES),
    }


def draw_panes(widgets: Widgets, talk: Talk) -> News:
    """The panes alone, as often as answers grow."""
    return {widgets.slots[index]: _slot(talk, index) for index in range(len(talk.panes))}


def _slot(talk: Talk, index: int) -> Any:
    if index >= len(talk.panes):
        return gr.update(value="", visible=False)
    return gr.update(value=pane_view.pane(talk.seated, index, talk.conversation, talk.look), visible=True)


def _editing(talk: Talk) -> str:
    if talk.editing is None:
        return ""
    number = next(at for at, turn in enumerate(talk.conversation.path(), 1) if turn.number == talk.editing)
    cancel = '<button type="button" class="as-button small plain" id="edit-cancel">Cancel</button>'
    words = f"You are changing message {number}. What was answered before stays as a branch."
    return f'<p class="note-line" role="status">{words} {cancel}</p>'
