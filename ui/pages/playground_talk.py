"""Asking the Playground's panes: sending, stopping, and going another way: a message changed, an answer asked for anew.

Ids: `#turns` the messages, in it the buttons; `#prompt`, `#send`, `#stop-reply`, `#clear`, `#show-probabilities`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import gradio as gr

from core.config import STARTER
from core.errors import ConfigError, NotFound
from jobs.service import Pane, Service, Waiting
from ui import markup
from ui.answers import News
from ui.ballots import Ballot, contestant_of
from ui.conversation import Conversation, Turn
from ui.pages.playground_desk import Talk, Widgets, draw, draw_panes
from ui.pages.playground_settings import ChatOptions, checked
from ui.reply import Reply

REDRAW_SECONDS = 0.1
ALTERNATIVES = 5


class TalkDesk:
    """The handlers that ask, and that choose among what was said."""

    def __init__(self, service: Service, widgets: Widgets, chance: random.Random | None = None) -> None:
        self.service, self.widgets = service, widgets
        self._chance = chance or random.SystemRandom()

    def send(self, prompt: str, talk: Talk, *settings: Any) -> Iterator[News]:
        """Ask every pane at once and show the answers as they come. A message that is being changed takes its place
        beside the one that was sent.
        """
        talk.require_rest()
        question = (prompt or "").strip()
        if not question:
            raise ConfigError("The message is empty", hint="Type what the models should answer")
        options = checked(*settings)
        before = talk.conversation.at
        parent = before if talk.editing is None else talk.conversation.turns[talk.editing].parent
        turn = talk.conversation.ask(question, options.sampling.seed, parent)
        talk.editing = None
        yield {self.widgets.prompt: "", self.widgets.hint: ""}
        yield from self._answered(talk, turn, before, options)

    def retry(self, talk: Talk, event: gr.EventData, *settings: Any) -> Iterator[News]:
        """Ask a message again, with the next seed."""
        talk.require_rest()
        asked, options = self._turn(talk, event), checked(*settings)
        before, talk.editing = talk.conversation.at, None
        turn = talk.conversation.ask(asked.question, talk.conversation.next_seed(asked), asked.parent)
        hint = ""
        if options.sampling.temperature == 0:
            words = "At temperature 0 another seed gives the same answer. Raise the temperature in Settings."
            hint = f'<p class="note-line" role="status">{words}</p>'
        yield {self.widgets.hint: hint}
        seeded = replace(options, sampling=replace(options.sampling, seed=turn.seed))
        yield from self._answered(talk, turn, before, seeded)

    def edit(self, talk: Talk, event: gr.EventData) -> News:
        """Put a message into the field, to send it in another form."""
        talk.require_rest()
        turn = self._turn(talk, event)
        talk.editing = turn.number
        return {self.widgets.prompt: turn.question, **draw(self.widgets, talk)}

    def cancel_edit(self, talk: Talk) -> News:
        """Leave the message as it was."""
        talk.editing = None
        return {self.widgets.prompt: "", **draw(self.widgets, talk)}

    def back(self, talk: Talk, event: gr.EventData) -> News:
        """Go back to a message, to go on from there."""
        talk.require_rest()
        talk.conversation.go_back_to(self._turn(talk, event).number)
        talk.editing = None
        return draw(self.widgets, talk)

    def follow(self, talk: Talk, event: gr.EventData) -> News:
        """Take another way that the conversation went."""
        talk.require_rest()
        talk.conversation.follow(self._turn(talk, event).number)
        talk.editing = None
        return draw(self.widgets, talk)

    def stop(self, talk: Talk) -> None:
        """End the answers where they are; what has come stays."""
        talk.is_stopped = True

    def clear(self, talk: Talk) -> News:
        """Forget the conversation, keep the panes."""
        talk.require_rest()
        talk.conversation, talk.editing = Conversation(), None
        return {self.widgets.hint: "", **draw(self.widgets, talk)}

    def show_probabilities(self, shown: bool, talk: Talk) -> News:
        """Show the tokens' probabilities, of answers that are asked for from now on."""
        talk.shows_probabilities = bool(shown)
        turns = talk.conversation.path()
        has_none = shown and turns and not any(reply.pieces for turn in turns for reply in turn.replies.values())
        words = "These answers came without probabilities. Retry the message to have them."
        hint = f'<p class="note-line" role="status">{markup.esc(words)}</p>' if has_none else ""
        return {self.widgets.hint: hint, **draw(self.widgets, talk)}

    def _turn(self, talk: Talk, event: gr.EventData) -> Turn:
        found = next((turn for turn in talk.conversation.turns.values() if str(turn.number) == str(event.turn)), None)
        if found is None:
            raise NotFound("This message is not there any more")
        return found

    def _answered(self, talk: Talk, turn: Turn, before: int | None, options: ChatOptions) -> Iterator[News]:
        for pane in talk.panes:
            turn.replies[pane.number] = Reply(made_with=pane.made_with)
            pane.waiting = "Asking"
        turn.ballot = self._ballot(talk, options)
        talk.is_stopped, talk.is_busy = False, True
        failure: Exception | None = None
        try:
            yield draw(self.widgets, talk)
            yield from self._stream(talk, turn, options)
        except Exception as error:  # noqa: BLE001 - raised again below, once the page can be used
            failure = error
        finally:  # also when the visitor has gone; nothing may be yielded then
            self._settle(talk, turn, before)
        kept = {self.widgets.prompt: turn.question} if failure else {}
        yield {**draw(self.widgets, talk), **kept}
        if failure:
            raise failure

    def _ballot(self, talk: Talk, options: ChatOptions) -> Ballot | None:
        """What can be voted on once the panes have answered; the order is drawn where it is to be blind."""
        if len(talk.panes) < 2:
            return None
        order = [pane.number for pane in talk.panes]
        if talk.is_blind:
            self._chance.shuffle(order)
        return Ballot(
            order=tuple(order),
            contestants={pane.number: contestant_of(pane, talk.base) for pane in talk.panes},
            prompts={number: talk.conversation.messages(number, options.system) for number in order},
            sampling=options.sampling,
            is_blind=talk.is_blind,
        )

    def _settle(self, talk: Talk, turn: Turn, before: int | None) -> None:
        """The answers are over, whole or stopped; a message that nobody answered is taken back."""
        talk.is_busy = False
        for pane in talk.panes:
            pane.waiting = ""
        for reply in turn.replies.values():
            reply.is_over = True
        if not any(reply.tokens for reply in turn.replies.values()):
            talk.conversation.take_back(turn, before)

    def _stream(self, talk: Talk, turn: Turn, options: ChatOptions) -> Iterator[News]:
        alternatives = ALTERNATIVES if talk.shows_probabilities else None
        seated = talk.seated  # asked in the order in which they are shown, so that who is first tells nothing
        asked = [
            Pane(
                adapter=pane.adapter,
                messages=talk.conversation.messages(pane.number, options.system),
                sampling=options.sampling,
                alternatives=alternatives,
            )
            for pane in seated
        ]
        has_adapter = any(not pane.is_base for pane in talk.panes)
        updates = self.service.chat(asked, base_model=None if has_adapter or talk.base == STARTER else talk.base)
        drawn = 0.0
        with closing(updates):  # type: ignore[type-var]
            for update in updates:
                if talk.is_stopped:
                    return
                if isinstance(update, Waiting):
                    for pane in talk.panes:
                        pane.waiting = update.phase[:1].upper() + update.phase[1:]
                else:
                    shown = seated[update.pane]
                    shown.waiting = ""
                    turn.replies[shown.number].take(update)
                if isinstance(update, Waiting) or time.monotonic() - drawn > REDRAW_SECONDS:
                    drawn = time.monotonic()
                    yield draw_panes(self.widgets, talk)
