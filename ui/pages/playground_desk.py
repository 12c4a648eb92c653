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
from ui import markup, pane_view, panes
from ui.answers import News
from ui.conversation import Conversation
from ui.panes import PaneState


@dataclass(kw_only=True)
class Talk:
    """One visitor's panes and conversation. `base` is the base model that answers where no adapter says which, and
    `base_id` what an address calls it where it was trained here; `editing` is the turn whose message is being changed,
    and `is_stopped` how the Stop button reaches the answer that streams.
    """

    panes: list[PaneState] = field(default_factory=list)
    base: str = STARTER
    base_id: str = ""
    conversation: Conversation = field(default_factory=Conversation)
    editing: int | None = None
    shows_probabilities: bool = False
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
        shown = panes.query(self.panes)
        if not self.base_id or not all(pane.is_base for pane in self.panes):
            return shown
        return f"?base={quote(self.base_id)}" + shown.replace("?", "&", 1)

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
    return gr.update(value=pane_view.pane(talk.panes, index, talk.conversation, talk.look), visible=True)


def _editing(talk: Talk) -> str:
    if talk.editing is None:
        return ""
    number = next(at for at, turn in enumerate(talk.conversation.path(), 1) if turn.number == talk.editing)
    cancel = '<button type="button" class="as-button small plain" id="edit-cancel">Cancel</button>'
    words = f"You are changing message {number}. What was answered before stays as a branch."
    return f'<p class="note-line" role="status">{words} {cancel}</p>'
