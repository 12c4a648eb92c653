"""Near-duplicates are those that a slow comparison of all sets of words finds, but for a few at the limit."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.data.health.near_duplicates import FEWEST, SIMILAR, common_shingles, groups_of, shingles_of
from core.data.health.near_search import record_columns
from core.data.health.report import likes_of, rows_of
from core.data.health.text_columns import columns_of
from core.data.records import Conversation, Labeled, Message, Passage, Record, to_line
from tests.core.data.health.planted import health_of, sound_rows, talk, with_answer, words

SEEDS = range(4)


def similarities(records: Sequence[Record]) -> dict[tuple[int, int], float]:
    """How similar any two rows are that have enough text, the later first, by comparing all with all."""
    columns = columns_of(records)
    common = set(common_shingles([columns]).tolist())
    found = shingles_of(columns)
    sets = [set(found.hashes[found.owners == at].tolist()) - common for at in range(len(records))]
    return {
        (records[one].source_row, records[other].source_row):
            len(sets[one] & sets[other]) / len(sets[one] | sets[other])
        for one in range(len(records)) if len(sets[one]) >= FEWEST
        for other in range(one) if len(sets[other]) >= FEWEST
    }  # fmt: skip


def edited(chance: random.Random, record: Conversation, row: int, share: float) -> Conversation:
    """`record` as row `row`, with that share of its answer's words replaced."""
    said = record.messages[-1].content.split()
    for at in chance.sample(range(len(said)), round(share * len(said))):
        said[at] = words(chance, 1)[:-1]
    return replace(with_answer(record, " ".join(said)), source_row=row)


@pytest.mark.parametrize("seed", SEEDS)
def test_few_are_missed_and_few_are_wrong(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    records = sound_rows(chance, 250)
    for row in range(251, 401):
        records.append(edited(chance, records[chance.randrange(250)], row, chance.choice([0.02, 0.05, 0.1, 0.2, 0.4])))
    known = similarities(records)
    near = {later for (later, _), similarity in known.items() if similarity >= SIMILAR}
    clear = {later for (later, _), similarity in known.items() if similarity >= 0.9}

    health_of(records, tmp_path)

    folder = tmp_path / "health"
    found = set(rows_of(folder, "near_duplicates").tolist())
    copies = set(rows_of(folder, "duplicates").tolist())
    assert clear - copies <= found
    assert len(found & near) >= 0.8 * len(near - copies)
    assert len(found & near) >= 0.8 * len(found)
    for later, earlier in zip(rows_of(folder, "near_duplicates"), likes_of(folder, "near_duplicates"), strict=True):
        assert known[int(later), int(earlier)] >= SIMILAR - 0.15


@pytest.mark.parametrize("seed", SEEDS)
def test_case_and_punctuation_and_white_space_make_no_difference(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    records = sound_rows(chance, 100)
    answer = records[40].messages[-1].content
    records.append(replace(with_answer(records[40], answer.upper().replace(" ", ",\n  ") + "!"), source_row=101))

    health_of(records, tmp_path)

    assert rows_of(tmp_path / "health", "near_duplicates").tolist() == [101]
    assert likes_of(tmp_path / "health", "near_duplicates").tolist() == [41]


def test_rows_of_one_template_are_no_near_duplicates(tmp_path: Path) -> None:
    chance = random.Random(5)
    template = words(chance, 80)
    records = [
        talk(
            row,
            ("system", words(random.Random(1), 50)),
            ("user", f"{template} {words(chance, 12)}"),
            ("assistant", words(chance, 10)),
        )
        for row in range(1, 301)
    ]
    assert max(len(record.messages[1].content) for record in records) > 4 * len(records[0].messages[2].content)

    health_of(records, tmp_path)

    assert rows_of(tmp_path / "health", "near_duplicates").tolist() == []


def test_short_rows_that_differ_in_a_word_are_left_alone(tmp_path: Path) -> None:
    records = [talk(row, ("user", f"What is {row} plus {row}?"), ("assistant", str(2 * row))) for row in range(1, 200)]

    health_of(records, tmp_path)

    assert rows_of(tmp_path / "health", "near_duplicates").tolist() == []


def test_texts_without_blanks_between_words_are_compared_too(tmp_path: Path) -> None:
    chance = random.Random(2)
    letters = [chr(code) for code in range(0x4E00, 0x5200)]
    texts = ["".join(chance.choices(letters, k=120)) for _ in range(50)]
    texts.append(texts[7][:60] + "山" + texts[7][61:])
    records = [Passage(text=text, source_row=row) for row, text in enumerate(texts, 1)]

    health_of(records, tmp_path)

    assert rows_of(tmp_path / "health", "near_duplicates").tolist() == [51]
    assert likes_of(tmp_path / "health", "near_duplicates").tolist() == [8]


def test_groups_are_led_by_their_first_row() -> None:
    rows, like = np.array([5, 7, 9, 20]), np.array([2, 5, 7, 19])

    assert groups_of(rows, like).tolist() == [2, 2, 2, 19]


def test_a_file_of_records_gives_the_columns_of_its_records() -> None:
    chance = random.Random(9)
    talks: list[Record] = [*sound_rows(chance, 20)]
    talks[3] = replace(talks[3], tools='[{"name": "f"}]')
    talks[5] = Conversation(source_row=6, messages=(
        Message(role="user", content="u"), Message(role="assistant", content="", tool_calls="[1]"),
        Message(role="tool", content="t", name="f"), Message(role="assistant", content="a", weight=0),
        Message(role="assistant", content="b")))  # fmt: skip
    passages: list[Record] = [Passage(text=words(chance, 9) + "\u2028é", source_row=row) for row in (3, 8, 9)]
    labeled: list[Record] = [
        Labeled(text="t", text_pair="p", label="l", source_row=4),
        Labeled(text="t", label="l", source_row=5),
    ]
    for records in (talks, passages, labeled, labeled[::-1]):
        parts = record_columns(b"".join(map(to_line, records)))

        texts = {
            int(row): [part.text_of(at) for at in range(part.first[number], part.first[number + 1])]
            for part in parts for number, row in enumerate(part.rows)
        }  # fmt: skip
        whole = columns_of(records)
        assert texts == {
            int(row): [whole.text_of(at) for at in range(whole.first[number], whole.first[number + 1])]
            for number, row in enumerate(whole.rows)
        }
