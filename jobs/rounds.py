"""Prompt sets asked of several panes in bulk, as `service.rounds`, and voted on prompt by prompt, now or later.

A round is asked by threads of the app, not by a page, so that it goes on when the tab is closed. Each prompt is one
request with a row for each entrant; so many requests are under way that their rows fill the chat's batch halfway, and
whoever talks in the Playground meanwhile finds room beside them. What all entrants have answered is kept prompt by
prompt, in an order that is drawn for each and never leaves the server with names before the vote; an app that ends, or
somebody who stops it, loses only what was half written.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace

from core.data.records import Message
from core.errors import ConfigError, RunError, UserError
from core.generate.requests import Delta, Sampling
from jobs.ballot_box import Answer, Outcome, Vote
from jobs.round_book import Entrant, Round
from jobs.store import Store
from jobs.views import ChatUpdate, Pane, RunProblem
from jobs.votes import Votes, check_contestants

__all__ = ["Entrant", "Round", "Rounds", "Sheet"]

BULK_ROWS = 8  # of the chat's batch: half of what it writes at once
LEAVE_SECONDS = 5.0

Ask = Callable[[Sequence[Pane], str | None], Iterator[ChatUpdate]]
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """Prompt number `at` (from 0) of a round with its answers, in the order in which they are shown, and the vote."""

    at: int
    prompt: str
    answers: tuple[Answer, ...]
    vote: Vote | None


class Rounds:
    """The rounds of one home; one is asked at a time.

    Args:
        ask: replies to panes, as `Chats.ask`.
        chance: draws the order of answers.
    """

    def __init__(self, store: Store, votes: Votes, ask: Ask, chance: random.Random | None = None) -> None:
        self._book, self._box, self._votes, self._ask = store.round_book, store.ballot_box, votes, ask
        self._chance = chance or random.SystemRandom()
        self._change = threading.Lock()
        self._asking: _Asking | None = None

    # -- asking --------------------------------------------------------------------------------------------------

    def begin(
        self,
        prompt_set_id: str,
        entrants: Sequence[Entrant],
        *,
        sampling: Sampling | None = None,
        system: str = "",
        base_model: str | None = None,
    ) -> Round:
        """Ask every prompt of a set of every entrant; returns at once.

        Raises:
            NotFound: there is no such set.
            ConfigError: fewer than two different entrants, or another round is being asked.
        """
        check_contestants([entrant.contestant for entrant in entrants])
        prompts = self._votes.prompt_set(prompt_set_id).prompts
        with self._change:
            self._require_rest()
            chosen = sampling or Sampling()
            round_id = self._book.add(prompt_set_id, prompts, entrants, base_model, system, chosen)
            self._start(self._book.get(round_id))
        return self.look(round_id)

    def resume(self, round_id: str) -> Round:
        """Ask what has not been answered.

        Raises:
            NotFound: there is no such round.
            ConfigError: another one is being asked.
        """
        with self._change:
            self._require_rest()
            self._start(self._book.get(round_id))
        return self.look(round_id)

    def stop(self, round_id: str) -> None:
        """Ask no more; what was answered stays."""
        asking = self._asking
        if asking is not None and asking.round.id == round_id:
            asking.stop()

    def look(self, round_id: str) -> Round:
        """How it stands. Raises: NotFound."""
        return self._with_progress(self._book.get(round_id))

    def all(self, prompt_set_id: str | None = None) -> tuple[Round, ...]:
        """Newest first: all, or those of one set."""
        return tuple(map(self._with_progress, self._book.all(prompt_set_id)))

    def remove(self, round_id: str) -> None:
        """Give up a round's answers; votes on it stay. Raises: NotFound."""
        asking = self._asking
        if asking is not None and asking.round.id == round_id:
            self.close()
        self._book.remove(round_id)

    def close(self) -> None:
        """Ask no more, and wait until that has ended, for as long as it should take."""
        if self._asking is not None:
            self._asking.stop()
            self._asking.join(LEAVE_SECONDS)

    # -- voting --------------------------------------------------------------------------------------------------

    def sheet(self, round_id: str, at: int) -> Sheet:
        """One prompt with its answers. Raises: NotFound: it is not answered."""
        found, answered = self._book.get(round_id), self._book.answer(round_id, at)
        answers = tuple(Answer(contestant=found.entrants[who].contestant, text=text) for who, text in answered.said)
        vote = self._box.vote(answered.vote_id) if answered.vote_id is not None else None
        return Sheet(at=at, prompt=found.prompts[at], answers=answers, vote=vote)

    def answered(self, round_id: str) -> tuple[int, ...]:
        """The prompts that are answered, from 0, in their order."""
        return tuple(self._book.answered(round_id))

    def next_open(self, round_id: str, after: int = -1) -> int | None:
        """The first answered prompt without a vote behind `after`, or else of all; None where each has one."""
        open_ones = [at for at, is_voted in self._book.answered(round_id).items() if not is_voted]
        return next((at for at in open_ones if at > after), open_ones[0] if open_ones else None)

    def vote(self, round_id: str, at: int, outcome: Outcome, winner: int | None = None, is_blind: bool = True) -> str:
        """Cast a vote on a prompt, in place of the one that it has; its id. `winner` is a place among the answers.

        Raises:
            NotFound: it is not answered.
            ConfigError: that is no vote.
        """
        found, sheet = self._book.get(round_id), self.sheet(round_id, at)
        asked = _messages(found.system, sheet.prompt)
        settings = {**asdict(found.sampling), "blind": is_blind}
        settings.pop("seed")
        vote_id = self._votes.add(
            asked, sheet.answers, outcome, winner,
            seed=found.sampling.seed, settings=settings, prompt_set_id=found.prompt_set_id,
        )  # fmt: skip
        self._book.note_vote(round_id, at, vote_id)
        if sheet.vote is not None:
            self._votes.remove(sheet.vote.id)
        return vote_id

    def take_back(self, round_id: str, at: int) -> None:
        """Take the vote on a prompt back, if it has one. Raises: NotFound: it is not answered."""
        sheet = self.sheet(round_id, at)
        self._book.note_vote(round_id, at, None)
        if sheet.vote is not None:
            self._votes.remove(sheet.vote.id)

    # -- within --------------------------------------------------------------------------------------------------

    def _require_rest(self) -> None:
        if self._asking is not None and self._asking.goes_on:
            raise ConfigError("Another prompt set is being asked", hint="Wait until it is done, or stop it")

    def _start(self, found: Round) -> None:
        answered = self._book.answered(found.id)
        todo = [at for at in range(len(found.prompts)) if at not in answered]
        self._asking = _Asking(found, todo, self._ask, self._keep)
        self._asking.start()

    def _keep(self, round_id: str, at: int, texts: Sequence[str]) -> None:
        said = list(enumerate(texts))
        self._chance.shuffle(said)
        self._book.record(round_id, at, said)

    def _with_progress(self, found: Round) -> Round:
        asking = self._asking
        if asking is None or asking.round.id != found.id:
            return found
        return replace(found, is_asking=asking.goes_on, seconds_left=asking.seconds_left(), problem=asking.problem)


class _Asking:
    """The threads that ask one round. `keep` gets what all entrants answered to a prompt, in their order."""

    def __init__(
        self, found: Round, todo: Sequence[int], ask: Ask, keep: Callable[[str, int, Sequence[str]], None]
    ) -> None:
        self.round = found
        self.problem: RunProblem | None = None
        self._ask, self._keep = ask, keep
        self._todo = deque(todo)
        self._left, self._done, self._began = len(todo), 0, time.monotonic()
        self._counting, self._stopped = threading.Lock(), threading.Event()
        lanes = max(1, min(BULK_ROWS // len(found.entrants), len(todo)))
        self._lanes = [threading.Thread(target=self._run, name=f"round-{lane}", daemon=True) for lane in range(lanes)]

    @property
    def goes_on(self) -> bool:
        return any(lane.is_alive() for lane in self._lanes)

    def start(self) -> None:
        for lane in self._lanes:
            lane.start()

    def stop(self) -> None:
        self._stopped.set()

    def join(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        for lane in self._lanes:
            lane.join(max(0.0, deadline - time.monotonic()))

    def seconds_left(self) -> float | None:
        """From how long those took that were answered since it began; None before the first and after the last."""
        with self._counting:
            if not self._done or not self._left or self._stopped.is_set():
                return None
            return (time.monotonic() - self._began) / self._done * self._left

    def _run(self) -> None:
        """Ask prompt after prompt, until there is none or it is to stop."""
        try:
            while self._todo and not self._stopped.is_set():
                with self._counting:
                    at = self._todo.popleft() if self._todo else None
                if at is not None and (texts := self._answer(at)) is not None:
                    self._keep(self.round.id, at, texts)
                    with self._counting:
                        self._done, self._left = self._done + 1, self._left - 1
        except UserError as error:
            self._fail(RunProblem(title=error.title, detail=error.detail, hint=error.hint))
        except Exception:  # the last who can tell the person
            log.exception("A round could not be asked")
            self._fail(RunProblem(title="Something broke on our side", hint="The app's log has the details"))

    def _fail(self, problem: RunProblem) -> None:
        """The first thing that goes wrong ends all lanes; what that brings about in the others is not told."""
        with self._counting:
            if not self._stopped.is_set():
                self.problem = problem
            self._stopped.set()

    def _answer(self, at: int) -> list[str] | None:
        """What each entrant says; None where it is to stop before all have."""
        asked = _messages(self.round.system, self.round.prompts[at])
        sampling, entrants = self.round.sampling, self.round.entrants
        # nothing of earlier answers serves again, so that what is said does not depend on what was asked before
        panes = [Pane(adapter=one.adapter, messages=asked, sampling=sampling, keeps=False) for one in entrants]
        texts, waited = [""] * len(panes), set(range(len(panes)))
        updates = self._ask(panes, self.round.base_model)
        with closing(updates):  # type: ignore[type-var]
            for update in updates:
                if self._stopped.is_set():
                    return None
                if isinstance(update, Delta):
                    texts[update.pane] += update.text
                    waited -= {update.pane} if update.done else set()
        if waited:
            raise RunError(f"Prompt {at + 1} was not answered to its end", hint="Ask the rest again")
        return texts


def _messages(system: str, prompt: str) -> tuple[Message, ...]:
    before = (Message(role="system", content=system),) if system.strip() else ()
    return (*before, Message(role="user", content=prompt))
