"""Rounds in the database: prompt sets that were asked of several, with the answers and what was voted on each."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from sqlalchemy import RowMapping, delete, func, insert, select, update

from core.errors import NotFound
from core.generate.requests import Blend, Sampling
from jobs import tables
from jobs.ballot_box import Contestant
from jobs.database import Database
from jobs.ids import new_id
from jobs.queueing import one
from jobs.views import RunProblem


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrant:
    """Who takes part: as a `contestant` of votes, and as the chat is asked for it."""

    contestant: Contestant
    adapter: str | Blend | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """A set's prompts asked of some entrants: how many are `answered` by all of them, and how many of these `voted`
    on. `is_asking` while it goes on, `seconds_left` once that can be told, and `problem` is what ended it early.
    """

    id: str
    prompt_set_id: str
    prompts: tuple[str, ...]
    entrants: tuple[Entrant, ...]
    base_model: str | None
    system: str
    sampling: Sampling
    created_at: datetime
    answered: int
    voted: int
    is_asking: bool = False
    seconds_left: float | None = None
    problem: RunProblem | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """One prompt's answers: which entrant said what, in the order in which they are shown, and the vote's id."""

    said: tuple[tuple[int, str], ...]
    vote_id: str | None


class RoundBook:
    """The rounds of one home. `clock` gives Unix seconds."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database, self._clock = database, clock

    def add(
        self,
        prompt_set_id: str,
        prompts: Sequence[str],
        entrants: Sequence[Entrant],
        base_model: str | None,
        system: str,
        sampling: Sampling,
    ) -> str:
        """Keep a round of which nothing is answered; its id."""
        values = {"id": new_id(), "prompt_set_id": prompt_set_id, "base_model": base_model, "system": system}
        plain = {
            "prompts": json.dumps(prompts),
            "entrants": json.dumps([asdict(entrant) for entrant in entrants]),
            "sampling": json.dumps(asdict(sampling)),
        }
        with self._database.write() as connection:
            connection.execute(insert(tables.rounds).values(**values, **plain, created_at=self._clock()))
        return values["id"] or ""

    def all(self, prompt_set_id: str | None = None) -> tuple[Round, ...]:
        """Newest first: all, or those of one set."""
        order = tables.rounds.c
        query = select(tables.rounds).order_by(order.created_at.desc(), order.id.desc())
        if prompt_set_id is not None:
            query = query.where(order.prompt_set_id == prompt_set_id)
        with self._database.read() as connection:
            rows = connection.execute(query).mappings().all()
        return tuple(self._round_of(row) for row in rows)

    def get(self, round_id: str) -> Round:
        """Raises: NotFound."""
        with self._database.read() as connection:
            row = one(connection, select(tables.rounds).where(tables.rounds.c.id == round_id))
        if row is None:
            raise NotFound("This round is not there any more", hint="Reload the page")
        return self._round_of(row)

    def remove(self, round_id: str) -> None:
        """Give up a round with its answers; votes on it stay. Raises: NotFound."""
        self.get(round_id)
        answers = tables.round_answers
        with self._database.write() as connection:
            connection.execute(delete(answers).where(answers.c.round_id == round_id))
            connection.execute(delete(tables.rounds).where(tables.rounds.c.id == round_id))

    def record(self, round_id: str, at: int, said: Sequence[tuple[int, str]]) -> None:
        """Keep what all entrants answered to prompt `at`."""
        values = {"round_id": round_id, "at": at, "answers": json.dumps(said)}
        with self._database.write() as connection:
            connection.execute(insert(tables.round_answers).values(**values))

    def answered(self, round_id: str) -> dict[int, bool]:
        """The prompts that are answered, in their order, and whether they are voted on."""
        answers = tables.round_answers
        query = select(answers.c.at, tables.votes.c.id).outerjoin(tables.votes, answers.c.vote_id == tables.votes.c.id)
        with self._database.read() as connection:
            rows = connection.execute(query.where(answers.c.round_id == round_id).order_by(answers.c.at)).all()
        return {at: vote_id is not None for at, vote_id in rows}

    def answer(self, round_id: str, at: int) -> Answered:
        """What was answered to prompt `at`. Raises: NotFound."""
        answers = tables.round_answers
        with self._database.read() as connection:
            row = one(connection, select(answers).where(answers.c.round_id == round_id, answers.c.at == at))
        if row is None:
            raise NotFound(f"Prompt {at + 1} is not answered", hint="Ask the rest first")
        return Answered(tuple((entrant, text) for entrant, text in json.loads(row["answers"])), row["vote_id"])

    def note_vote(self, round_id: str, at: int, vote_id: str | None) -> None:
        """Remember which vote was cast on prompt `at`; None where it was taken back."""
        answers = tables.round_answers
        with self._database.write() as connection:
            change = update(answers).where(answers.c.round_id == round_id, answers.c.at == at)
            connection.execute(change.values(vote_id=vote_id))

    def _round_of(self, row: RowMapping) -> Round:
        answers = tables.round_answers
        counts = select(func.count(), func.count(tables.votes.c.id)).select_from(
            answers.outerjoin(tables.votes, answers.c.vote_id == tables.votes.c.id)
        )
        with self._database.read() as connection:
            answered, voted = connection.execute(counts.where(answers.c.round_id == row["id"])).one()
        return Round(
            id=row["id"],
            prompt_set_id=row["prompt_set_id"],
            prompts=tuple(json.loads(row["prompts"])),
            entrants=tuple(map(_entrant_of, json.loads(row["entrants"]))),
            base_model=row["base_model"],
            system=row["system"],
            sampling=Sampling(**json.loads(row["sampling"])),
            created_at=datetime.fromtimestamp(row["created_at"], UTC),
            answered=answered,
            voted=voted,
        )


def _entrant_of(values: dict[str, object]) -> Entrant:
    adapter, contestant = values["adapter"], values["contestant"]
    assert isinstance(contestant, dict)
    if isinstance(adapter, list):
        adapter = tuple((ref, strength) for ref, strength in adapter)
    return Entrant(contestant=Contestant(**contestant), adapter=adapter)  # type: ignore[arg-type]
