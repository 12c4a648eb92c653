"""What is voted on: who answered a message, in which order that is shown, and what was voted. No Gradio in here.

A ballot that is blind shows its panes as A, B, C in an order that is drawn anew for each message. Until it is revealed,
which letter is whose is known here alone: nothing of it is in a page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from core.data.records import Message
from core.errors import ConfigError
from jobs.service import Sampling, votes
from ui.panes import PaneState, number
from ui.reply import Reply

LETTERS = "ABCDEF"
SAME_PANES = "No vote on this one: two panes are the same. Choose another adapter or strength for one of them."
NOT_WHOLE = "No vote on this one: an answer was stopped before it was whole. Retry the message to vote."


@dataclass(kw_only=True)
class Ballot:
    """The vote on one message. `order` are the panes' numbers as they are shown; `contestants` who they were, and
    `prompts` what each was asked, with its own answers before.
    """

    order: tuple[int, ...]
    contestants: Mapping[int, votes.Contestant]
    prompts: Mapping[int, tuple[Message, ...]]
    sampling: Sampling
    is_blind: bool = False
    is_revealed: bool = False
    outcome: votes.Outcome | None = None
    winner: int | None = None
    vote_id: str = ""

    @property
    def is_hidden(self) -> bool:
        """Whether nobody may know yet who is who."""
        return self.is_blind and not self.is_revealed

    def letter(self, pane: int) -> str:
        """What a pane of a blind ballot is called; nothing for one that does not take part."""
        return LETTERS[self.order.index(pane)] if self.is_blind and pane in self.order else ""

    def names(self) -> list[str]:
        """Who is shown in each place."""
        return [named(self.contestants[pane]) for pane in self.order]

    def refusal(self, replies: Mapping[int, Reply]) -> str:
        """Why there is nothing to vote on; empty where there is."""
        if not all(replies[pane].is_done for pane in self.order):
            return NOT_WHOLE
        identities = {self.contestants[pane].identity for pane in self.order}
        return SAME_PANES if len(identities) < len(self.order) else ""

    def prompt(self, winner: int | None) -> tuple[Message, ...]:
        """What the vote is about: the same for all, or the conversation of the pane in the winner's place."""
        return self.prompts[self.order[winner or 0]]

    def settings(self) -> dict[str, Any]:
        """How the answers came about, as plain values."""
        plain = asdict(self.sampling)
        del plain["seed"]
        own = {votes.OWN_CONVERSATIONS: True} if len(set(self.prompts.values())) > 1 else {}
        return {**plain, "blind": self.is_hidden, **own}


def contestant_of(pane: PaneState, base: str) -> votes.Contestant:
    """Who answers in a pane, whose base model is `base`."""
    if pane.is_base:
        return votes.Contestant(key=votes.base_key(base), label=pane.title)
    if len(pane.parts) > 1:
        key = "~".join(f"{part.address}@{part.strength:g}" for part in pane.parts)
        prints = "+".join(part.fingerprint for part in pane.parts)
        return votes.Contestant(key=f"blend:{key}", label=pane.made_with, fingerprint=prints)
    part = pane.parts[0]
    return votes.Contestant(
        key=f"adapter:{part.address}",
        label=part.name,
        adapter_id=part.address,
        fingerprint=part.fingerprint,
        strength=part.strength,
    )


def colors_of(panes: Iterable[PaneState], base: str) -> dict[votes.Identity, str]:
    """The colors of those who answer in `panes`."""
    return {contestant_of(pane, base).identity: pane.color for pane in panes}


def named(contestant: votes.Contestant) -> str:
    """`captain`, `captain at strength 0.5`."""
    strength = "" if contestant.strength == 1 else f" at strength {number(contestant.strength)}"
    return contestant.label + strength


def who_was_who(contestants: Sequence[votes.Contestant]) -> str:
    """`A was Base, B was captain a3f1`."""
    known = [f"{named(each)} {each.fingerprint[:4] if '+' not in each.fingerprint else ''}" for each in contestants]
    return ", ".join(f"{letter} was {words.strip()}" for letter, words in zip(LETTERS, known, strict=False))


def verdict(outcome: votes.Outcome, winner: int | None, names: Sequence[str]) -> str:
    """`Voted: captain`."""
    return f"Voted: {names[winner] if winner is not None else {'tie': 'a tie'}.get(outcome, 'all bad')}"


def chosen(choice: str, place: str, places: int) -> tuple[votes.Outcome, int | None]:
    """What a button says.

    Raises:
        ConfigError: no button says that.
    """
    if choice == "win" and place.isdecimal() and int(place) < places:
        return "win", int(place)
    if choice == "tie":
        return "tie", None
    if choice == "both bad":
        return "both bad", None
    raise ConfigError("That is no vote", hint="Choose an answer, Tie or All bad")
