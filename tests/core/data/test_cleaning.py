"""What is removed is what was asked for, and no more."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.data.cleaning import leakage, remove
from core.data.encoding import Row
from core.data.health import KINDS, rows_of
from core.data.records import Record
from core.data.splits import hold_out
from core.errors import DataError
from tests.core.data.planted import health_of, rows_by_kind, sound_rows, with_answer, with_inserted


def dirty(chance: random.Random) -> list[Record]:
    """200 rows with copies, near-copies, keys and rows without an answer."""
    records = sound_rows(chance, 200)
    for at in range(100, 110):
        records[at] = replace(records[at - 100], source_row=at + 1)
    for at in range(110, 120):
        near = with_inserted(chance, records[at - 100], "well")
        records[at] = replace(near, source_row=at + 1)
    for at in range(120, 125):
        records[at] = with_inserted(chance, records[at], "AKIAJ5Q2YB7ZLX3MN6OP")
    for at in range(125, 130):
        records[at] = with_answer(records[at], "")
    return list(records)


def test_removed_kinds_are_gone_and_the_others_stay(tmp_path: Path) -> None:
    records = dirty(random.Random(0))
    health = health_of(records, tmp_path)
    folder = tmp_path / "health"
    before = rows_by_kind(health, tmp_path)
    assert set(before) - {"contradictions"} == {"duplicates", "near_duplicates", "keys", "missing_answers"}

    kept = list(remove(folder, ["duplicates", "keys"], records))

    assert [record.source_row for record in kept] == [
        row for row in range(1, 201) if row not in {*before["duplicates"], *before["keys"]}
    ]
    left = rows_by_kind(health_of(kept, tmp_path / "again"), tmp_path / "again")
    assert set(left) == set(before) - {"duplicates", "keys"}


def test_after_all_is_removed_nothing_is_found(tmp_path: Path) -> None:
    records = dirty(random.Random(1))
    health = health_of(records, tmp_path)

    kept = list(remove(tmp_path / "health", [finding.kind for finding in health.findings], records))

    assert rows_by_kind(health_of(kept, tmp_path / "again"), tmp_path / "again") == {}


def test_nothing_is_removed_where_nothing_is_asked_for(tmp_path: Path) -> None:
    records = dirty(random.Random(2))
    health_of(records, tmp_path)

    assert list(remove(tmp_path / "health", [], records)) == records


@pytest.mark.parametrize("kind", ["unreadable", "nonsense"])
def test_what_cannot_be_removed_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=kind):
        remove(tmp_path, [kind], [])


def test_a_removal_that_leaves_nothing_is_refused(tmp_path: Path) -> None:
    records = [with_answer(record, "") for record in sound_rows(random.Random(0), 3)]
    health_of(records, tmp_path)

    with pytest.raises(DataError, match="No row is left"):
        list(remove(tmp_path / "health", ["missing_answers"], records))


@pytest.mark.parametrize("seed", range(3))
def test_near_copies_on_both_sides_of_a_split_are_leakage(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    records = sound_rows(chance, 200)
    like = {}
    for at in range(120, 200):
        like[at] = chance.randrange(100)
        records[at] = replace(with_inserted(chance, records[like[at]], "well"), source_row=at + 1)
    health_of(records, tmp_path)
    found = set((rows_of(tmp_path / "health", "near_duplicates") - 1).tolist())
    held = set(chance.sample(range(200), 40))
    lead = {at: like[at] if at in found else at for at in range(200)}
    expected = sorted(
        at + 1 for at in held
        if any(other not in held and lead[other] == lead[at] for other in range(200) if other != at)
    )  # fmt: skip

    assert leakage(tmp_path / "health", np.array(sorted(held)) + 1).tolist() == expected and expected


@pytest.mark.parametrize("seed", range(3))
def test_copies_never_fall_on_both_sides_of_a_split(seed: int) -> None:
    chance = random.Random(seed)
    rows = [Row([chance.randrange(50) for _ in range(4)], [1] * 4) for _ in range(60)]
    rows += [chance.choice(rows) for _ in range(60)]
    chance.shuffle(rows)

    split = hold_out(rows, 0.3, seed)

    held = {tuple(rows[number].tokens) for number in split.held.numbers}
    assert held and not held & {tuple(rows[number].tokens) for number in split.train.numbers}


def test_every_kind_says_what_it_does() -> None:
    for kind in KINDS.values():
        assert kind.sentence.endswith(".") and not kind.title.endswith(".")
