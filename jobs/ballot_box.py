"""Votes and sets of prompts in the database, as rows and as what the rest of the house knows them by."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

from sqlalchemy import ColumnElement, RowMapping, delete, insert, select, update

from core.data.records import Message
from core.errors import NotFound
from jobs import tables
from jobs.database import Database
from jobs.ids import new_id
from jobs.queueing import one

Outcome: TypeAlias = Literal["win", "tie", "both bad"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """Who answered: the base (without `adapter_id`), an adapter by id, or what `key` names, such as a blend; the same
    weights at another `strength` are another contestant. `label` is what it was called then.
    """

    key: str
    label: str
    adapter_id: str | None = None
    fingerprint: str = ""
    strength: float = 1.0

    @property
    def identity(self) -> tuple[str, str, float]:
        """What two contestants share that are one, whatever they were called."""
        return self.key, self.fingerprint, self.strength


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one of them said."""

    contestant: Contestant
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """One judgement: of the `answers` to `prompt`, number `winner` was the best, all were as good, or all were bad."""

    id: str
    prompt: tuple[Message, ...]
    answers: tuple[Answer, ...]
    outcome: Outcome
    winner: int | None
    seed: int
    created_at: datetime
    settings: dict[str, Any] = field(default_factory=dict)
    prompt_set_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSet:
    """Prompts that are asked together."""

    id: str
    name: str
    prompts: tuple[str, ...]
    created_at: datetime


class BallotBox:
    """The votes of one home. `clock` gives Unix seconds."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database, self._clock = database, clock

    def add_prompt_set(self, name: str, prompts: tuple[str, ...]) -> PromptSet:
        """Keep a set of prompts."""
        set_id = new_id()
        values = {"id": set_id, "name": name, "prompts": json.dumps(prompts), "created_at": self._clock()}
        with self._database.write() as connection:
            connection.execute(insert(tables.prompt_sets).values(**values))
        return self.prompt_set(set_id)

    def change_prompt_set(self, set_id: str, name: str, prompts: tuple[str, ...]) -> PromptSet:
        """Give a set another name and other prompts; votes on it stay. Raises: NotFound."""
        with self._database.write() as connection:
            change = update(tables.prompt_sets).where(tables.prompt_sets.c.id == set_id)
            connection.execute(change.values(name=name, prompts=json.dumps(prompts)))
        return self.prompt_set(set_id)

    def prompt_sets(self) -> tuple[PromptSet, ...]:
        """Newest first."""
        order = tables.prompt_sets.c
        with self._database.read() as connection:
            rows = connection.execute(select(tables.prompt_sets).order_by(order.created_at.desc(), order.id.desc()))
            return tuple(map(_prompt_set_of, rows.mappings()))

    def prompt_set(self, set_id: str) -> PromptSet:
        """Raises: NotFound."""
        with self._database.read() as connection:
            row = one(connection, select(tables.prompt_sets).where(tables.prompt_sets.c.id == set_id))
        if row is None:
            raise NotFound(f"There is no prompt set {set_id}", hint="List the sets to see their ids")
        return _prompt_set_of(row)

    def remove_prompt_set(self, set_id: str) -> None:
        """Give a set up, with the answers to it; the votes on it stay, without one. Raises: NotFound."""
        self.prompt_set(set_id)
        rounds = select(tables.rounds.c.id).where(tables.rounds.c.prompt_set_id == set_id)
        with self._database.write() as connection:
            connection.execute(delete(tables.round_answers).where(tables.round_answers.c.round_id.in_(rounds)))
            connection.execute(delete(tables.rounds).where(tables.rounds.c.prompt_set_id == set_id))
            connection.execute(update(tables.votes).where(_of_set(set_id)).values(prompt_set_id=None))
            connection.execute(delete(tables.prompt_sets).where(tables.prompt_sets.c.id == set_id))

    def add_vote(self, values: dict[str, Any]) -> str:
        """Keep a vote's row; its id."""
        vote_id = new_id()
        with self._database.write() as connection:
            connection.execute(insert(tables.votes).values(id=vote_id, created_at=self._clock(), **values))
        return vote_id

    def remove_vote(self, vote_id: str) -> None:
        """Take a vote back. Raises: NotFound."""
        with self._database.write() as connection:
            removed = connection.execute(delete(tables.votes).where(tables.votes.c.id == vote_id)).rowcount
        if not removed:
            raise NotFound(f"There is no vote {vote_id}", hint="Reload the page")

    def vote(self, vote_id: str) -> Vote | None:
        """One vote; None where it was taken back."""
        with self._database.read() as connection:
            row = one(connection, select(tables.votes).where(tables.votes.c.id == vote_id))
        return None if row is None else _vote_of(row)

    def votes(self, prompt_set_id: str | None = None) -> tuple[Vote, ...]:
        """All, or those on one set, in the order in which they were cast."""
        query = select(tables.votes).order_by(tables.votes.c.created_at, tables.votes.c.id)
        if prompt_set_id is not None:
            query = query.where(_of_set(prompt_set_id))
        with self._database.read() as connection:
            return tuple(map(_vote_of, connection.execute(query).mappings()))


def _of_set(set_id: str) -> ColumnElement[bool]:
    return tables.votes.c.prompt_set_id.is_not_distinct_from(set_id)


def as_row(answers: tuple[Answer, ...], prompt: tuple[Message, ...], settings: dict[str, Any]) -> dict[str, str]:
    """What of a vote is kept as JSON."""
    said = [asdict(answer) for answer in answers]
    asked = [{"role": message.role, "content": message.content} for message in prompt]
    return {"answers": json.dumps(said), "prompt": json.dumps(asked), "settings": json.dumps(settings)}


def _vote_of(row: RowMapping) -> Vote:
    answers = tuple(
        Answer(contestant=Contestant(**answer["contestant"]), text=answer["text"])
        for answer in json.loads(row["answers"])
    )
    return Vote(
        id=row["id"],
        prompt=tuple(Message(**message) for message in json.loads(row["prompt"])),
        answers=answers,
        outcome=row["outcome"],
        winner=row["winner"],
        seed=row["seed"],
        created_at=datetime.fromtimestamp(row["created_at"], UTC),
        settings=json.loads(row["settings"]),
        prompt_set_id=row["prompt_set_id"],
    )


def _prompt_set_of(row: RowMapping) -> PromptSet:
    moment = datetime.fromtimestamp(row["created_at"], UTC)
    return PromptSet(id=row["id"], name=row["name"], prompts=tuple(json.loads(row["prompts"])), created_at=moment)
