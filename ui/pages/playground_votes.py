"""Voting on the Playground's last message, blind or not: one vote a message, which can be changed and taken back.

Ids: `#blind` the choice, `#votes` the line, in it the buttons; under each answer one with `data-best`.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from core.errors import ConfigError
from jobs.service import Service, votes
from ui.answers import News
from ui.ballots import Ballot, chosen
from ui.conversation import Turn
from ui.pages.playground_desk import Talk, Widgets, draw


class VoteDesk:
    """The handlers."""

    def __init__(self, service: Service, widgets: Widgets) -> None:
        self.service, self.widgets = service, widgets

    def set_blind(self, is_blind: bool, talk: Talk) -> News:
        """Hide from the next message on who answers it, or hide nothing any more."""
        talk.is_blind = bool(is_blind)
        if not talk.is_blind:
            talk.conversation.reveal()
        words = "From the next message on, names are hidden and the order is drawn anew until you vote."
        return {self._hint: _note(words) if talk.is_blind else "", **draw(self.widgets, talk)}

    def vote(self, talk: Talk, event: gr.EventData) -> News:
        """Keep what was chosen, in place of an earlier vote on the same message, and show who is who.

        Raises:
            ConfigError: there is nothing to vote on.
        """
        talk.require_rest()
        turn, ballot = self._open(talk)
        outcome, winner = chosen(str(event.choice), str(event.place), len(ballot.order))
        answers = [
            votes.Answer(contestant=ballot.contestants[pane], text=turn.replies[pane].text) for pane in ballot.order
        ]
        earlier = ballot.vote_id
        ballot.vote_id = self.service.votes.add(
            ballot.prompt(winner), answers, outcome, winner, seed=ballot.sampling.seed, settings=ballot.settings()
        )
        ballot.outcome, ballot.winner = outcome, winner
        if earlier:
            self.service.votes.remove(earlier)
        talk.conversation.reveal()
        return {self._hint: "", **draw(self.widgets, talk)}

    def take_back(self, talk: Talk) -> News:
        """Take the vote on the last message back; the names stay known."""
        talk.require_rest()
        ballot = talk.conversation.ballot
        if ballot is not None and ballot.vote_id:
            gone, ballot.vote_id, ballot.outcome, ballot.winner = ballot.vote_id, "", None, None
            self.service.votes.remove(gone)
        return draw(self.widgets, talk)

    def reveal(self, talk: Talk) -> News:
        """Show who is who without a vote."""
        talk.conversation.reveal()
        return draw(self.widgets, talk)

    @property
    def _hint(self) -> Any:
        return self.widgets.hint

    def _open(self, talk: Talk) -> tuple[Turn, Ballot]:
        path, ballot = talk.conversation.path(), talk.conversation.ballot
        if ballot is None:
            raise ConfigError("There is nothing to vote on", hint="Ask two panes or more something first")
        refusal = ballot.refusal(path[-1].replies)
        if refusal:
            raise ConfigError(refusal.partition(". ")[0])
        return path[-1], ballot


def _note(words: str) -> str:
    return f'<p class="note-line" role="status">{words}</p>'
