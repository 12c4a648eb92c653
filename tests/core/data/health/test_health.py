"""Faults that were planted are found, all of them and nothing else."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest

from core.data.formats.converting import converter
from core.data.formats.detection import detect
from core.data.health.check import HealthCheck, examine
from core.data.health.report import KINDS, Health, likes_of, rows_of
from core.data.health.text_columns import columns_of
from core.data.reading import read_dataset
from core.data.records import Conversation, Labeled, Message, Passage
from core.data.rows import BadRow, Row, problem_of
from tests.core.data.health.planted import health_of, rows_by_kind, sound_rows, talk, with_answer, with_inserted, words

EXAMPLES = Path(__file__).parents[4] / "examples"
SEEDS = range(5)


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_found_in_sound_rows(seed: int, tmp_path: Path) -> None:
    records = sound_rows(random.Random(seed), 400)

    assert rows_by_kind(health_of(records, tmp_path), tmp_path) == {}


@pytest.mark.parametrize("name", ["captain.jsonl", "to_json.jsonl"])
def test_nothing_is_found_in_the_examples(name: str, tmp_path: Path) -> None:
    records = list(read_dataset(EXAMPLES / name).records)

    found = rows_by_kind(health_of(records, tmp_path), tmp_path)

    assert not {kind for kind in found if KINDS[kind].severity == "error"}
    assert sum(map(len, found.values())) <= 0.02 * len(records), found


@pytest.mark.parametrize("seed", SEEDS)
def test_planted_faults_are_found_and_nothing_else(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    records = sound_rows(chance, 600)
    places = chance.sample(range(300, 600), 60)
    blank, mute, turned, late, twice, broken, lost, steered, short, long = (
        sorted(places[begin : begin + 6]) for begin in range(0, 60, 6)
    )
    for at in blank:
        records[at] = talk(
            at + 1, ("user", chance.choice(["", " \n", "\u3000\u00a0"])), ("assistant", words(chance, 30))
        )
    for at in mute:
        records[at] = with_answer(records[at], chance.choice(["", "\t", "\u2003"]))
    for at in turned:
        records[at] = talk(at + 1, ("assistant", words(chance, 9)), ("assistant", words(chance, 30)))
    for at in late:
        user, answer = records[at].messages
        records[at] = replace(records[at], messages=(user, Message(role="system", content=words(chance, 5)), answer))
    for at in twice:
        user, answer = records[at].messages
        records[at] = replace(records[at], messages=(Message(role="user", content=words(chance, 5)), user, answer))
    for at in broken:
        word = chance.choice(["grün", "naïve", "déjà", "“quoted”", "señor", "Привет"])
        records[at] = with_inserted(chance, records[at], word.encode().decode("latin-1"))
    for at in lost:
        records[at] = with_inserted(chance, records[at], "caf\ufffd")
    for at in steered:
        records[at] = with_inserted(chance, records[at], chance.choice(["\x1b[31m", "a\x08b", "\x7f", "\x07"]))
    for at in short:
        records[at] = with_answer(records[at], chance.choice(["ok", "-", "7"]))
    for at in long:
        records[at] = with_answer(records[at], words(chance, 2500))

    found = rows_by_kind(health_of(records, tmp_path), tmp_path)

    rows = {
        "empty": blank,
        "missing_answers": mute,
        "roles": sorted(turned + late + twice),
        "garbled": sorted(broken + lost),
        "control_characters": steered,
        "short_answers": short,
        "long_rows": long,
    }
    assert found == {kind: [at + 1 for at in each] for kind, each in rows.items()}


@pytest.mark.parametrize("seed", SEEDS)
def test_copies_and_contradictions_are_told_apart(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    records = sound_rows(chance, 500)
    copied, answered = chance.sample(range(100, 500), 12), chance.sample(range(100, 500), 12)
    answered = [at for at in answered if at not in copied]
    copies, others = {}, {}
    for at in copied:
        copies[at + 1] = chance.randint(1, 100)
        records[at] = replace(records[copies[at + 1] - 1], source_row=at + 1)
    for at in answered:
        others[at + 1] = chance.randint(1, 100)
        question = records[others[at + 1] - 1].messages[0]
        records[at] = replace(records[at], messages=(question, records[at].messages[1]))

    health = health_of(records, tmp_path, batch=37)

    folder = tmp_path / "health"
    assert set(rows_by_kind(health, tmp_path)) == {"duplicates", "contradictions"}
    assert (
        dict(zip(rows_of(folder, "duplicates").tolist(), likes_of(folder, "duplicates").tolist(), strict=True))
        == copies
    )
    told = zip(rows_of(folder, "contradictions").tolist(), likes_of(folder, "contradictions").tolist(), strict=True)
    assert dict(told) == others


def test_texts_that_are_cut_elsewhere_are_no_copies(tmp_path: Path) -> None:
    records = [
        talk(1, ("user", "ab"), ("assistant", "c"), ("user", "d"), ("assistant", "e")),
        talk(2, ("user", "a"), ("assistant", "bc"), ("user", "d"), ("assistant", "e")),
        talk(3, ("system", "ab"), ("user", "cd"), ("assistant", "e")),
        talk(4, ("user", "abcd"), ("assistant", "e")),
        talk(5, ("user", "abc"), ("assistant", "de")),
        Passage(text="abcde", source_row=6),
        Labeled(text="abcd", label="e", source_row=7),
        Labeled(text="ab", text_pair="cd", label="e", source_row=8),
    ]

    assert rows_by_kind(health_of(records, tmp_path), tmp_path) == {}


def test_the_same_text_with_another_class_is_a_contradiction(tmp_path: Path) -> None:
    labels = ["yes", "no", "yes", "yes", "no"]
    texts = ["one thing", "two things", "one thing", "two things", "three things"]
    records = [Labeled(text=text, label=label, source_row=row)
               for row, (text, label) in enumerate(zip(texts, labels, strict=True), 1)]  # fmt: skip

    health = health_of(records, tmp_path)

    assert rows_by_kind(health, tmp_path) == {"duplicates": [3], "contradictions": [4]}
    assert health.labels == (("yes", 3), ("no", 2)) and not health.is_imbalanced


def test_a_class_of_one_row_and_an_imbalance_are_told(tmp_path: Path) -> None:
    names = ["spam"] * 40 + ["ham"] * 3 + ["eggs"]
    records = [Labeled(text=f"mail number {row}", label=name, source_row=row) for row, name in enumerate(names, 1)]

    health = health_of(records, tmp_path)

    assert rows_by_kind(health, tmp_path) == {"lone_labels": [44]}
    assert health.is_imbalanced and health.classes == 3


def test_several_tools_may_answer_in_a_row(tmp_path: Path) -> None:
    record = talk(
        1, ("system", "s"), ("user", "u"), ("assistant", "call"), ("tool", "a"), ("tool", "b"), ("assistant", "c")
    )

    assert rows_by_kind(health_of([record], tmp_path), tmp_path) == {}


REFUSED = [
    ({"prompt": "p", "completion": ""}, "missing_answers"),
    ({"prompt": "p"}, "missing_answers"),
    ({"prompt": " ", "completion": "c"}, "empty"),
    ({"messages": [{"role": "user", "content": "u"}]}, "missing_answers"),
    ({"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": " "}]}, "missing_answers"),
    ({"messages": [{"role": "user", "content": ""}, {"role": "assistant", "content": "a"}]}, "empty"),
    ({"messages": [{"role": "wizard", "content": "u"}]}, "unreadable"),
    ({"question": "q", "answer": ""}, "missing_answers"),
    ({"instruction": "i", "output": 5}, "unreadable"),
    ({"text": "  "}, "empty"),
    ({"question": "q", "answer": {"text": []}}, "missing_answers"),
    ({"chosen": "x"} | {"prompt": "p", "chosen": ""}, "missing_answers"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "kind"), REFUSED)
def test_a_refused_row_is_of_the_kind_that_its_refusal_says(
    values: dict[str, object], kind: str, tmp_path: Path
) -> None:
    whole = {"prompt": "p", "completion": "c"} if "prompt" in values else {**values, **{
        key: "x" for key, value in values.items() if not isinstance(value, list)}}  # fmt: skip
    mapping = detect([Row(number=1, values=whole)], "rows.jsonl").mapping
    row = Row(number=7, values=values)
    with pytest.raises(BadRow) as refusal:
        converter(mapping)(row)
    check = HealthCheck(tmp_path)

    check.add([problem_of(row, refusal.value)])

    health = check.finish()
    assert [(finding.kind, finding.first) for finding in health.findings] == [(kind, (7,))]
    assert (health.rows, health.records) == (1, 0)


def test_how_records_are_batched_changes_nothing(tmp_path: Path) -> None:
    chance = random.Random(3)
    records = sound_rows(chance, 200) + sound_rows(random.Random(3), 50)
    records = [replace(record, source_row=row) for row, record in enumerate(records, 1)]

    whole, parts = (health_of(records, tmp_path / str(size), size) for size in (250, 7))

    assert whole == parts and whole.found("duplicates")


def test_a_health_survives_json(tmp_path: Path) -> None:
    records = [
        *sound_rows(random.Random(1), 20),
        *sound_rows(random.Random(1), 3),
        Labeled(text="t", label="l", source_row=9),
    ]
    health = health_of(records, tmp_path)

    assert Health.from_dict(orjson.loads(orjson.dumps(health.to_dict()))) == health


def test_the_profile_of_tokens_adds_its_kinds_in_their_place(tmp_path: Path) -> None:
    health = health_of([*sound_rows(random.Random(1), 20), *sound_rows(random.Random(1), 3)], tmp_path)

    cut = health.with_tokens(tmp_path / "health", np.array([9, 4, 4]), np.array([], np.int64))

    assert [finding.kind for finding in cut.findings] == ["duplicates", "over_limit"]
    assert {"over_limit", "no_labels"} <= set(cut.checked)
    assert rows_of(tmp_path / "health", "over_limit").tolist() == [4, 9]
    again = cut.with_tokens(tmp_path / "health", np.array([], np.int64), np.array([], np.int64))
    assert again.found("over_limit") is None and rows_of(tmp_path / "health", "over_limit").tolist() == []


def test_no_rows_are_a_health_too(tmp_path: Path) -> None:
    health = HealthCheck(tmp_path).finish()

    assert (health.rows, health.findings) == (0, ())


def test_what_is_kept_of_a_row_is_a_few_bytes() -> None:
    records = [talk(row, ("user", "u" * 500), ("assistant", "a" * 5000)) for row in range(1000)]
    examined = examine(columns_of(records))

    kept = sum(getattr(examined, name).nbytes for name in ("rows", "asked", "answered", "letters", "reply"))

    assert kept <= 40 * len(records)


def test_characters_are_counted_and_not_bytes(tmp_path: Path) -> None:
    records: list[Conversation] = [
        talk(1, ("user", "Grüße, 世界"), ("assistant", "été")),
        talk(2, ("user", "a"), ("assistant", "b")),
    ]

    assert health_of(records, tmp_path).longest == (1, len("Grüße, 世界été"))
