"""Going through a prompt set's answers, one prompt at a time, blind unless names are asked for. It can be left and gone
on with at any time: the address has the round, and what was voted lies with the service. Ids: `#sheet`.
"""

from __future__ import annotations

import gradio as gr

from core.errors import NotFound
from jobs.service import Service
from ui import markup, ranking_view, sheet_view
from ui.answers import News
from ui.ballots import chosen, colors_of
from ui.pages.playground_desk import SheetPlace, Talk
from ui.pages.playground_desk import Widgets as PageWidgets
from ui.pages.prompt_sets import NEW, SetDesk

_LAST = 10**9  # behind every prompt


class SheetDesk:
    """The handlers. Each returns the news for the widgets that change."""

    def __init__(self, service: Service, page: PageWidgets, sets: SetDesk) -> None:
        self.service, self.page, self.sets, self.widgets = service, page, sets, sets.widgets

    def arrive(self, talk: Talk, round_id: str) -> News:
        """A visitor comes, perhaps with a round in the address."""
        try:
            found = self.service.rounds.look(round_id) if round_id else None
        except NotFound:
            found = None
        if found is None:
            return {**self.sets.open(), self.widgets.sheet: ""}
        return {**self.sets.open(found.prompt_set_id), **self._go(talk, found.id, self._first(found.id))}

    def open(self, talk: Talk, event: gr.EventData) -> News:
        """Begin to vote on a round, or go on."""
        round_id = str(event.id)
        return self._go(talk, round_id, self._first(round_id))

    def vote(self, talk: Talk, event: gr.EventData) -> News:
        """Keep what was chosen and show who is who.

        Raises:
            NotFound: the round is gone.
            ConfigError: that is no vote.
        """
        place, rounds = self._place(talk), self.service.rounds
        shown = rounds.sheet(place.round_id, place.at)
        outcome, winner = chosen(str(event.choice), str(event.place), len(shown.answers))
        is_blind = not place.is_revealed and shown.vote is None
        rounds.vote(place.round_id, place.at, outcome, winner, is_blind=is_blind)
        return self._go(talk, place.round_id, place.at, is_revealed=True)

    def take_back(self, talk: Talk) -> News:
        """Take the vote on this prompt back; the names stay known."""
        place = self._place(talk)
        self.service.rounds.take_back(place.round_id, place.at)
        return self._go(talk, place.round_id, place.at, is_revealed=True)

    def reveal(self, talk: Talk) -> News:
        """Show who is who without a vote."""
        place = self._place(talk)
        return self._go(talk, place.round_id, place.at, is_revealed=True)

    def skip(self, talk: Talk) -> News:
        """On to the next prompt without a vote, from the last to the first; at the end to who won."""
        place = self._place(talk)
        following = self.service.rounds.next_open(place.round_id, place.at)
        return self._go(talk, place.round_id, _LAST if following is None else following)

    def go_back(self, talk: Talk) -> News:
        """The answered prompt before; from the end the first."""
        place = self._place(talk)
        known = self.service.rounds.answered(place.round_id)
        before = [at for at in known if at < place.at]
        return self._go(talk, place.round_id, before[-1] if before and place.at != _LAST else known[0])

    def leave(self, talk: Talk) -> News:
        """Put the sheet away, to go on later."""
        talk.sheet = None
        return {self.widgets.sheet: "", self.page.address: address(talk)}

    def remove(self, set_id: str, talk: Talk, event: gr.EventData) -> News:
        """Give up a round's answers; votes stay."""
        self.service.rounds.remove(str(event.id))
        away = self.leave(talk) if talk.sheet is not None and talk.sheet.round_id == str(event.id) else {}
        return {**self.sets.look(set_id), **away}

    def remove_set(self, talk: Talk, event: gr.EventData) -> News:
        """Give up a set with its answers; votes stay."""
        for found in self.service.rounds.all(str(event.id)):
            self.service.rounds.remove(found.id)
        self.service.votes.remove_prompt_set(str(event.id))
        return {**self.sets.chosen(NEW, "The set is deleted; its votes count among all votes."), **self.leave(talk)}

    def _first(self, round_id: str) -> int:
        first = self.service.rounds.next_open(round_id)
        return _LAST if first is None else first

    def _place(self, talk: Talk) -> SheetPlace:
        if talk.sheet is None:
            raise NotFound("No prompt is shown any more", hint="Open the round again")
        return talk.sheet

    def _go(self, talk: Talk, round_id: str, at: int, is_revealed: bool = False) -> News:
        """Show one prompt, or who won."""
        rounds = self.service.rounds
        found = rounds.look(round_id)
        talk.sheet = SheetPlace(round_id=round_id, at=at, is_revealed=is_revealed)
        if at == _LAST:
            shown = sheet_view.over(found, self._ranking(found.prompt_set_id, talk))
        else:
            shown = sheet_view.sheet(found, rounds.sheet(round_id, at), is_revealed)
        return {self.widgets.sheet: shown, self.page.address: address(talk), **self.sets.look(found.prompt_set_id)}

    def _ranking(self, set_id: str, talk: Talk) -> str:
        found, colors = self.service.votes, colors_of(talk.panes, talk.base)
        name = found.prompt_set(set_id).name
        return ranking_view.ranking(found.ranking(set_id), found.comparison(set_id), name, colors)


def address(talk: Talk) -> str:
    """What keeps the browser's address as the visitor's panes and round are."""
    return f'<i data-query="{markup.esc(talk.query)}"></i>'
