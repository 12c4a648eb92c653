"""Rows that cannot be trained on, among rows that can."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from core.data.reading import read_dataset
from core.data.records import Message, Passage
from core.errors import DataError
from tests.core.data.samples import (
    ANSWER,
    EXPECTED,
    PAIRS,
    ROLES,
    Writer,
    as_csv,
    as_parquet,
    exchanges,
    json_lines,
)

EXAMPLES = Path(__file__).parents[4] / "examples"

GOOD = {"messages": ROLES}


def test_a_broken_line_is_named_and_left_out_on_consent(write: Writer) -> None:
    lines = [json.dumps(GOOD)] * 9
    lines[6] = '{"messages": [{"role": "user"'
    path = write("x.jsonl", "\n".join(lines))
    with pytest.raises(DataError, match=r"Line 7 of x\.jsonl is not valid JSON"):
        read_dataset(path)
    reading = read_dataset(path, skip_bad_rows=True)
    assert ([problem.row for problem in reading.problems], len(reading.records)) == ([7], 8)


def test_rows_without_an_answer_are_counted_and_left_out_on_consent(write: Writer) -> None:
    rows = [{"messages": ROLES[:1]} if number in (41, 44, 50, 61) else GOOD for number in range(1, 100)]
    path = write("x.jsonl", json_lines(rows))
    with pytest.raises(DataError) as caught:
        read_dataset(path)
    assert str(caught.value) == (
        "Row 41 has no assistant message (and 3 more rows have problems: 44, 50, 61); "
        "add one or remove the row, or let bad rows be left out."
    )
    reading = read_dataset(path, skip_bad_rows=True)
    assert [problem.row for problem in reading.problems] == [41, 44, 50, 61]
    assert [record.source_row for record in reading.records] == [n for n in range(1, 100) if n not in (41, 44, 50, 61)]


@pytest.mark.parametrize(
    ("row", "title"),
    [
        ({"prompt": 5, "completion": "a"}, "has a prompt that is a number, not text"),
        ({"prompt": "a", "completion": None}, "has a completion that is null, not text"),
        ({"prompt": "a", "completion": " \n"}, "has an empty completion"),
        ({"prompt": "", "completion": "a"}, "has an empty prompt"),
        ({"prompt": "a\x00b", "completion": "a"}, "has a NUL character in its prompt"),
        ({"prompt": "a"}, "has no completion"),
        (["a", "b"], "is a list, not an object"),
        ("a", "is text, not an object"),
        (None, "is null, not an object"),
    ],
)
def test_a_row_of_the_wrong_kind_is_named(write: Writer, row: Any, title: str) -> None:
    path = write("a.jsonl", json_lines([PAIRS[0], row]))
    with pytest.raises(DataError, match=f"^Row 2 {title}"):
        read_dataset(path)
    assert exchanges(read_dataset(path, skip_bad_rows=True).records) == EXPECTED[:1]


@pytest.mark.parametrize(
    ("messages", "title"),
    [
        ([], "has no assistant message"),
        (None, "has messages that are null"),
        ("Hi", "has messages that are text"),
        (["Hi"], "has a message that is text"),
        ([{"content": "Hi"}], "has a message without a role"),
        ([ROLES[0], {"role": "narrator", "content": "5"}, ROLES[1]], "has a message of the role 'narrator'"),
        ([ROLES[0], {"role": "assistant", "content": ""}], "has an empty assistant message"),
        ([ROLES[0], {"role": "assistant", "content": None}], "has an assistant message that is null"),
        ([{"role": "user", "content": [{"type": "image_url"}]}, ROLES[1]], "has a user message with something else"),
    ],
)
def test_a_conversation_that_cannot_be_trained_on_is_named(write: Writer, messages: Any, title: str) -> None:
    with pytest.raises(DataError, match=f"^Row 2 ({title})"):
        read_dataset(write("a.jsonl", json_lines([GOOD, {"messages": messages}])))


@pytest.mark.parametrize("skip_bad_rows", [False, True])
@pytest.mark.parametrize("rows", [[{"messages": ROLES[:1]}] * 3, ["a", "b", "c"]])
def test_a_file_of_bad_rows_alone_is_refused_even_on_consent(
    write: Writer, rows: list[Any], skip_bad_rows: bool
) -> None:
    with pytest.raises(DataError, match=r"Row 1 .*none of the 3 rows"):
        read_dataset(write("a.jsonl", json_lines(rows)), skip_bad_rows=skip_bad_rows)


@pytest.mark.parametrize(
    ("line", "title"),
    [
        ("only one", "Line 3 of a.csv has 1 cells? where the header has 2"),
        ("a,b,c", "Line 3 of a.csv has 3 cells where the header has 2"),
        ('"a"b,c', "Line 3 of a.csv is not valid CSV"),
        ("a\x00,b", "Row 3 has a NUL character in its prompt"),
    ],
)
def test_a_broken_line_of_a_table_is_named_and_left_out_on_consent(write: Writer, line: str, title: str) -> None:
    path = write("a.csv", f"prompt,completion\na,b\n{line}\nc,d\n")
    with pytest.raises(DataError, match=f"^{title}"):
        read_dataset(path)
    assert [record.source_row for record in read_dataset(path, skip_bad_rows=True).records] == [2, 4]


def test_a_quote_that_is_never_closed_is_named_by_its_line(write: Writer) -> None:
    with pytest.raises(DataError, match=r"^Line 3 of a\.csv .*never closed"):
        read_dataset(write("a.csv", 'prompt,completion\na,b\n"c,d\ne,f\ng,h\n'))


def test_a_very_long_cell_is_read_whole(write: Writer) -> None:
    text = "word " * 200_000
    assert read_dataset(write("a.csv", f'text,id\n"{text}",1\n')).records == (Passage(text=text, source_row=2),)


def test_python_s_nan_in_another_column_does_no_harm(write: Writer) -> None:
    path = write("a.jsonl", '{"prompt": "Hi", "completion": "Ahoy", "score": NaN}\n')
    assert exchanges(read_dataset(path).records) == [ANSWER]


def test_damaged_files_give_no_other_error_than_ours(write: Writer) -> None:
    dice = random.Random(0)
    wholes = {
        "a.jsonl": json_lines(PAIRS).encode(),
        "a.json": json.dumps(PAIRS).encode(),
        "a.csv": as_csv(PAIRS).encode(),
    }
    wholes["a.parquet"] = as_parquet(PAIRS)
    for name, whole in wholes.items():
        for _ in range(60):
            damaged = bytearray(whole[: dice.randint(1, len(whole))])
            for _ in range(dice.randint(0, 4)):
                damaged[dice.randrange(len(damaged))] = dice.randrange(256)
            try:
                read_dataset(write(name, bytes(damaged)))
            except DataError as error:
                assert error.title


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.jsonl")), ids=lambda path: path.name)
def test_our_own_examples_are_sound(path: Path) -> None:
    reading = read_dataset(path)
    assert len(reading.records) == sum(bool(line.strip()) for line in path.read_bytes().splitlines())
    assert all(isinstance(record, Passage) or isinstance(record.messages[-1], Message) for record in reading.records)
