"""What was said in the Playground: a tree of turns, since a message can be changed and an answer asked for anew.

A turn is one message and every pane's answer to it. Turns with the same parent are ways that the conversation took from
there; one of them is followed, and the others stay. Each pane goes on from its own answers, so a pane that came later
knows nothing of the turns before it. No Gradio in here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from core.data.records import Message
from ui.ballots import Ballot
from ui.reply import Reply


@dataclass(kw_only=True)
class Turn:
    """A message and its answers, by the panes' numbers. `follower` is the turn that was last looked at behind it, and
    `ballot` the vote on it, where two panes or more were asked.
    """

    number: int
    parent: int | None
    question: str
    seed: int
    replies: dict[int, Reply] = field(default_factory=dict)
    follower: int | None = None
    ballot: Ballot | None = None


@dataclass(kw_only=True)
class Conversation:
    """All turns, and the one where the conversation stands; None before the first."""

    turns: dict[int, Turn] = field(default_factory=dict)
    at: int | None = None
    _made: int = 0

    def path(self) -> list[Turn]:
        """The turns from the first to the one where the conversation stands."""
        found, at = [], self.at
        while at is not None:
            found.append(self.turns[at])
            at = self.turns[at].parent
        return found[::-1]

    def ask(self, question: str, seed: int, parent: int | None) -> Turn:
        """A new turn behind `parent`, where the conversation stands from now on."""
        self._made += 1
        turn = Turn(number=self._made, parent=parent, question=question, seed=seed)
        self.turns[turn.number] = turn
        self._stand(turn.number)
        return turn

    @property
    def ballot(self) -> Ballot | None:
        """The vote on the message where the conversation stands."""
        return None if self.at is None else self.turns[self.at].ballot

    def reveal(self) -> None:
        """Let it be known who answered the message where the conversation stands, and those before it."""
        for turn in self.path():
            if turn.ballot is not None:
                turn.ballot.is_revealed = True

    def ways(self, parent: int | None) -> list[Turn]:
        """The turns behind `parent`, the oldest first; None asks for first turns."""
        return [turn for turn in self.turns.values() if turn.parent == parent]

    def next_seed(self, turn: Turn) -> int:
        """A seed that none of the turns with the same message in this place has had."""
        return 1 + max(other.seed for other in self.ways(turn.parent) if other.question == turn.question)

    def go_back_to(self, number: int) -> None:
        """Stand behind a turn, to go on from there; what followed stays."""
        self._stand(number)

    def follow(self, number: int) -> None:
        """Take the way that goes over a turn, as far as it was gone last."""
        at: int | None = number
        while at is not None:
            self._stand(at)
            at = self.turns[at].follower

    def take_back(self, turn: Turn, before: int | None) -> None:
        """Forget a turn that nobody answered, and stand where the conversation stood `before`."""
        del self.turns[turn.number]
        if turn.parent is not None:
            self.turns[turn.parent].follower = None
        self.at = before
        for each in self.path():
            self._remember(each.number)

    def messages(self, pane: int, system: str) -> tuple[Message, ...]:
        """What a pane is asked: its own turns so far, behind the system prompt where there is one."""
        messages = [Message(role="system", content=system)] if system.strip() else []
        for turn in self.path():
            reply = turn.replies.get(pane)
            if turn.number == self.at:
                messages.append(Message(role="user", content=turn.question))
            elif reply is not None and reply.text:
                messages.append(Message(role="user", content=turn.question))
                messages.append(Message(role="assistant", content=reply.text))
        return tuple(messages)

    def _stand(self, number: int) -> None:
        self.at = number
        self._remember(number)

    def _remember(self, number: int) -> None:
        """Remember a turn as the way that was gone."""
        parent = self.turns[number].parent
        if parent is not None:
            self.turns[parent].follower = number
