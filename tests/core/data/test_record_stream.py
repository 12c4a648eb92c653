"""Records come as a stream: no row is read before it is asked for, and none is kept."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from core.data.formats.detection import Mapping
from core.data.readers.files import Table, open_table
from core.data.reading import read_dataset, stream_records
from core.data.records import Conversation, Passage
from core.data.rows import Problem, Row
from core.errors import ConfigError, DataError
from tests.core.data.samples import Writer, json_lines


class Counted:
    """Rows without end, which know how many of them were taken."""

    def __init__(self) -> None:
        self.taken = 0

    def __iter__(self) -> Iterator[Row | Problem]:
        while True:
            self.taken += 1
            yield Row(number=self.taken, values={"prompt": "Hi", "completion": "Ahoy"})


def test_no_row_is_read_before_its_record_is_asked_for() -> None:
    rows = Counted()
    stream = stream_records(Table(file_format="endless", rows=iter(rows)), "a.jsonl")
    head = rows.taken
    assert head <= 100 and stream.detection.is_sure and stream.file_format == "endless"
    records = iter(stream)
    for number in range(1, 1000):
        record = next(records)
        assert isinstance(record, Conversation) and record.source_row == number
        assert rows.taken == max(head, number)


def test_problems_come_in_their_place_and_later_rows_are_read(write: Writer) -> None:
    path = write("a.jsonl", '{"text": "a"}\n{"text": \n{"text": 5}\n{"text": "b"}\n')
    items = list(stream_records(open_table(path, "a.jsonl"), "a.jsonl"))
    assert [isinstance(item, Problem) for item in items] == [False, True, True, False]
    assert items[0] == Passage(text="a", source_row=1) and items[3] == Passage(text="b", source_row=4)
    assert [item.row for item in items if isinstance(item, Problem)] == [2, 3]


def test_columns_are_shown_with_a_value_each_and_those_inside_of_objects_too(write: Writer) -> None:
    path = write("a.jsonl", json_lines([{"text": "a\nb " * 100, "meta": {"n": 1, "by": "Ada"}, "gap": None}]))
    columns = stream_records(open_table(path, "a.jsonl"), "a.jsonl").columns
    assert list(columns) == ["text", "meta", "gap", "meta.n", "meta.by"]
    assert columns["meta.by"] == "Ada" and columns["gap"] == "" and len(columns["text"]) == 80


def test_a_mapping_by_hand_decides_whatever_the_columns_say(write: Writer) -> None:
    path = write("a.jsonl", json_lines([{"prompt": "Hi", "completion": "Ahoy", "image": "a.png"}]))
    mapping = Mapping(format="text", columns={"text": "completion"})
    stream = stream_records(open_table(path, "a.jsonl"), "a.jsonl", mapping)
    assert list(stream) == [Passage(text="Ahoy", source_row=1)]
    assert stream.detection.unused == ("prompt", "image") and "image" in " ".join(stream.remarks)
    with pytest.raises(DataError, match="There is no column 'body'"):
        read_dataset(path, mapping=Mapping(format="text", columns={"text": "body"}))
    with pytest.raises(ConfigError, match="No column is chosen"):
        read_dataset(path, mapping=Mapping(format="text", columns={}))


def test_a_file_of_undesired_answers_alone_says_so(write: Writer) -> None:
    rows = [{"prompt": "Hi", "completion": "Go away", "label": False}] * 3
    with pytest.raises(DataError, match=r"No row of a.jsonl is left .*3 answers that are marked as not desired"):
        read_dataset(write("a.jsonl", json_lines(rows)))


def test_undesired_answers_are_counted_and_no_problem(write: Writer) -> None:
    rows = [{"prompt": "Hi", "completion": "Ahoy", "label": number % 3 > 0} for number in range(1500)]
    reading = read_dataset(write("a.jsonl", json_lines(rows)))
    assert len(reading.records) == 1000 and reading.problems == ()
    assert reading.remarks == ("500 answers that are marked as not desired were left out",)


def test_an_optional_column_may_be_missing_in_some_rows(write: Writer) -> None:
    rows = [
        {"instruction": "Sum", "input": "1 2", "output": "3"},
        {"instruction": "Hi", "output": "Ahoy"},
        {"Instruction": "Other case", "OUTPUT": "Fine"},
    ]
    records = read_dataset(write("a.jsonl", json_lines(rows))).records
    asked = [record.messages[0].content for record in records if isinstance(record, Conversation)]
    assert asked == ["Sum\n\n1 2", "Hi", "Other case"]
