"""Judgements of answers side by side, as `service.votes`: cast, ranked by who was voted for, and given out as data.

A vote keeps all that it was about, prompt, answers, seed and settings, so that it means something when the adapters
have gone. Whoever looks at votes sees contestants: one set of weights at one strength.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from core.analysis.ranking import Ballot, Comparison, Standing, compare, standings
from core.data.records import Message
from core.errors import ConfigError
from jobs.ballot_box import Answer, Contestant, Outcome, PromptSet, Vote, as_row
from jobs.home import Home
from jobs.ids import new_id
from jobs.names import checked_name, slug
from jobs.room import require_room
from jobs.store import Store

__all__ = [
    "OWN_CONVERSATIONS",
    "Answer",
    "Contestant",
    "Outcome",
    "PromptSet",
    "Ranked",
    "Versus",
    "Vote",
    "Votes",
    "base_key",
    "check_contestants",
    "is_base",
]

OWN_CONVERSATIONS = "own_conversations"  # in a vote's settings, where answers before were each contestant's own
BASE = "base"
MOST_PROMPTS, LONGEST_PROMPT = 1000, 100_000
Identity = tuple[str, str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """One contestant's standing, under the newest of its names."""

    contestant: Contestant
    standing: Standing[Identity]


@dataclass(frozen=True, slots=True, kw_only=True)
class Versus:
    """Two contestants against each other alone."""

    one: Contestant
    other: Contestant
    figures: Comparison[Identity]


def base_key(base_model: str) -> str:
    """The key of a base model that answers alone."""
    return f"{BASE}:{base_model}"


def is_base(contestant: Contestant) -> bool:
    """Whether a base model answered alone."""
    return contestant.key.partition(":")[0] == BASE


class Votes:
    """The votes of one home."""

    def __init__(self, home: Home, store: Store) -> None:
        self._home, self._box = home, store.ballot_box

    # -- sets of prompts -----------------------------------------------------------------------------------------

    def prompt_sets(self) -> tuple[PromptSet, ...]:
        """Newest first."""
        return self._box.prompt_sets()

    def prompt_set(self, set_id: str) -> PromptSet:
        """Raises: NotFound."""
        return self._box.prompt_set(set_id)

    def add_prompt_set(self, name: str, prompts: Sequence[str]) -> PromptSet:
        """Keep prompts to be asked together; blank ones are left out.

        Raises:
            ConfigError: the name cannot be used, or there are no prompts, too many or too long ones.
        """
        return self._box.add_prompt_set(checked_name(name), _checked(prompts))

    def change_prompt_set(self, set_id: str, name: str, prompts: Sequence[str]) -> PromptSet:
        """Raises: NotFound; ConfigError as `add_prompt_set`."""
        return self._box.change_prompt_set(set_id, checked_name(name), _checked(prompts))

    def remove_prompt_set(self, set_id: str) -> None:
        """Give a set up; its votes stay, as votes without a set. Raises: NotFound."""
        self._box.remove_prompt_set(set_id)

    # -- votes ---------------------------------------------------------------------------------------------------

    def add(
        self,
        prompt: Sequence[Message],
        answers: Sequence[Answer],
        outcome: Outcome,
        winner: int | None = None,
        *,
        seed: int = 0,
        settings: dict[str, Any] | None = None,
        prompt_set_id: str | None = None,
    ) -> str:
        """Cast a vote; its id, with which it can be taken back.

        Args:
            prompt: the conversation up to what was answered. winner: which of the answers, from 0, for a win.
            settings: how the answers were sampled, as plain values.

        Raises:
            ConfigError: that is no vote: fewer than two contestants, or a winner that does not go with the outcome.
            NotFound: there is no such prompt set.
        """
        _check_vote(prompt, answers, outcome, winner)
        if prompt_set_id is not None:
            self._box.prompt_set(prompt_set_id)
        kept = as_row(tuple(answers), tuple(prompt), settings or {})
        values = {"outcome": outcome, "winner": winner, "seed": seed, "prompt_set_id": prompt_set_id}
        return self._box.add_vote({**kept, **values})

    def remove(self, vote_id: str) -> None:
        """Take a vote back. Raises: NotFound."""
        self._box.remove_vote(vote_id)

    def all(self, prompt_set_id: str | None = None) -> tuple[Vote, ...]:
        """All votes, or those on one set of prompts, in the order in which they were cast."""
        return self._box.votes(prompt_set_id)

    def ranking(self, prompt_set_id: str | None = None) -> tuple[Ranked, ...]:
        """How those stand who took part, the strongest first: over all votes, or those on one set of prompts."""
        votes = self._box.votes(prompt_set_id)
        newest = {answer.contestant.identity: answer.contestant for vote in votes for answer in vote.answers}
        found = standings([_ballot(vote) for vote in votes])
        return tuple(Ranked(contestant=newest[each.name], standing=each) for each in found)

    def comparison(self, prompt_set_id: str | None = None) -> Versus | None:
        """The strongest against the base or, where the base did not take part or is the strongest, the second; None
        before anybody was voted on.
        """
        ranked = self.ranking(prompt_set_id)
        if len(ranked) < 2:
            return None
        first, *others = (each.contestant for each in ranked)
        other = next((each for each in others if is_base(each) and not is_base(first)), others[0])
        ballots = [_ballot(vote) for vote in self._box.votes(prompt_set_id)]
        return Versus(one=first, other=other, figures=compare(ballots, first.identity, other.identity))

    def export(self, name: str, prompt_set_id: str | None = None) -> Path:
        """The votes as a preference dataset, JSON Lines of `prompt`, `chosen` and `rejected` as messages: a row for
        each answer that lost to another. Ties prefer nothing and are left out.

        Raises:
            ConfigError: no vote prefers an answer to another.
            RunError: there is no room for it.
        """
        rows = [row for vote in self._box.votes(prompt_set_id) for row in preferences(vote)]
        if not rows:
            raise ConfigError("No vote prefers an answer to another", hint="Vote for the better of two answers first")
        content = b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)
        require_room(self._home, "The file", len(content))
        target = self._home.exports / f"{slug(name)}-votes.jsonl"
        draft = target.with_name(f".{new_id()}.jsonl")
        try:
            draft.write_bytes(content)
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
        return target


def preferences(vote: Vote) -> list[dict[str, Any]]:
    """A vote as rows of a preference dataset: the winner's answer with each other that says something else. Where each
    had a conversation of its own behind it, no two answers are to the same prompt, and there is none.
    """
    if vote.winner is None or vote.settings.get(OWN_CONVERSATIONS):
        return []
    best = vote.answers[vote.winner].text
    asked = [{"role": message.role, "content": message.content} for message in vote.prompt]
    others = dict.fromkeys(answer.text for answer in vote.answers if answer.text != best)
    return [{"prompt": asked, "chosen": _said(best), "rejected": _said(other)} for other in others]


def _said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def _ballot(vote: Vote) -> Ballot[Identity]:
    names = tuple(answer.contestant.identity for answer in vote.answers)
    return Ballot(names, None if vote.winner is None else names[vote.winner])


def check_contestants(contestants: Sequence[Contestant]) -> None:
    """Raises: ConfigError: there are fewer than two, or two are the same."""
    if len({each.identity for each in contestants}) != len(contestants) or len(contestants) < 2:
        raise ConfigError("A vote needs two different panes or more", hint="Choose another adapter beside the first")


def _check_vote(prompt: Sequence[Message], answers: Sequence[Answer], outcome: str, winner: int | None) -> None:
    if not prompt or prompt[-1].role != "user":
        raise ConfigError("The vote is about no prompt", hint="Ask something first")
    check_contestants([answer.contestant for answer in answers])
    if outcome not in ("win", "tie", "both bad"):
        raise ConfigError(f"{outcome!r} is no outcome of a vote", hint="Say win, tie or both bad")
    if (outcome == "win") != (winner is not None) or (winner is not None and not 0 <= winner < len(answers)):
        raise ConfigError(
            f"The winner of a {outcome} is {winner}", hint=f"Give a number below {len(answers)} for a win"
        )


def _checked(prompts: Sequence[str]) -> tuple[str, ...]:
    kept = tuple(prompt.strip() for prompt in prompts if prompt.strip())
    if not kept:
        raise ConfigError("There are no prompts", hint="Give at least one")
    if len(kept) > MOST_PROMPTS:
        raise ConfigError(f"There are {len(kept):,} prompts", hint=f"Give at most {MOST_PROMPTS:,}")
    longest = max(map(len, kept))
    if longest > LONGEST_PROMPT:
        raise ConfigError(f"A prompt has {longest:,} characters", hint=f"Shorten it to at most {LONGEST_PROMPT:,}")
    return kept
