"""Generated rows that are sound, and faults to plant among them."""

from __future__ import annotations

import random
import string
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from core.data.health.check import HealthCheck
from core.data.health.near_search import with_near_duplicates
from core.data.health.report import Health
from core.data.records import Conversation, Message, Record, write_records

SYLLABLES = [first + second for first in "bdfgklmnprstvw" for second in "aeiou"]


def words(chance: random.Random, count: int) -> str:
    """`count` words of a language that does not exist, with the lengths of a real one."""
    made = ("".join(chance.choices(SYLLABLES, k=chance.choice((1, 2, 2, 3, 3, 4)))) for _ in range(count))
    return " ".join(made).capitalize() + "."


def talk(row: int, *turns: tuple[str, str]) -> Conversation:
    """A conversation of `(role, content)`."""
    messages = tuple(Message(role=role, content=content) for role, content in turns)  # type: ignore[arg-type]
    return Conversation(messages=messages, source_row=row)


def sound_rows(chance: random.Random, count: int) -> list[Conversation]:
    """Rows with nothing wrong, from row 1."""
    return [
        talk(row, ("user", words(chance, chance.randint(6, 14))), ("assistant", words(chance, chance.randint(20, 60))))
        for row in range(1, count + 1)
    ]


def with_answer(record: Conversation, answer: str) -> Conversation:
    """`record`, with its last message saying something else."""
    return replace(record, messages=(*record.messages[:-1], replace(record.messages[-1], content=answer)))


def with_inserted(chance: random.Random, record: Conversation, inserted: str) -> Conversation:
    """`record`, with something between two words of its answer."""
    said = record.messages[-1].content.split()
    said.insert(chance.randint(1, len(said) - 1), inserted)
    return with_answer(record, " ".join(said))


def key_of(chance: random.Random, prefix: str, length: int, letters: str = string.ascii_letters + string.digits) -> str:
    """Something in the shape of a key; its letters differ."""
    return (
        prefix
        + "".join(chance.sample(letters, min(length, len(letters))))
        + "".join(chance.choices(letters, k=max(0, length - len(letters))))
    )


def health_of(records: Sequence[Record], folder: Path, batch: int = 100) -> Health:
    """All that is found in `records`, near-duplicates included."""
    folder.mkdir(exist_ok=True)
    check = HealthCheck(folder / "health")
    for begin in range(0, len(records), batch):
        check.add(records[begin : begin + batch])
    path = folder / "records.jsonl"
    write_records(records, path)
    if not records:
        return check.finish()
    return with_near_duplicates(check.finish(), folder / "health", path, folder / "scratch", lambda share: None, 2)


def rows_by_kind(health: Health, folder: Path) -> dict[str, list[int]]:
    """The rows of all kinds of which there are some."""
    from core.data.health.report import rows_of

    return {finding.kind: rows_of(folder / "health", finding.kind).tolist() for finding in health.findings}
