"""Files of texts with labels."""

from __future__ import annotations

from typing import Any

import pytest

from core.data.reading import read_dataset
from core.data.records import Conversation, Labeled, Passage
from core.errors import DataError
from tests.core.data.samples import Writer, as_csv, as_parquet, json_lines

ROWS = [{"text": "So slow!", "label": "complaint"}, {"text": " Thank you. ", "label": " praise "}]
EXPECTED = [("So slow!", None, "complaint"), (" Thank you. ", None, "praise")]


def labeled(records: tuple[Any, ...]) -> list[tuple[str, str | None, str]]:
    assert all(isinstance(record, Labeled) for record in records)
    return [(record.text, record.text_pair, record.label) for record in records]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", json_lines(ROWS)),
        ("a.csv", as_csv(ROWS)),
        ("a.tsv", as_csv(ROWS, "\t")),
        ("a.parquet", as_parquet(ROWS)),
    ],
)
def test_labeled_texts_are_read_from_every_kind_of_table(write: Writer, name: str, content: Any) -> None:
    reading = read_dataset(write(name, content))
    assert labeled(reading.records) == EXPECTED
    assert (reading.row_format, reading.problems) == ("text and label", ())


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"Sentence": "S", "Category": "x"}, ("S", None, "x")),
        ({"review": "S", "sentiment": "good", "id": 3}, ("S", None, "good")),
        ({"text": "S", "label": 3}, ("S", None, "3")),
        ({"text": "S", "label": 1.0}, ("S", None, "1")),
        ({"text": "S", "label": False}, ("S", None, "false")),
        ({"text": "S", "label": 1, "label_text": "good"}, ("S", None, "good")),
        ({"premise": "P", "hypothesis": "H", "label": "entailed"}, ("P", "H", "entailed")),
        ({"sentence1": "P", "sentence2": "H", "label": 0}, ("P", "H", "0")),
        ({"question": "Q?", "sentence": "S", "label": 0}, ("Q?", "S", "0")),
        ({"title": "T", "text": "S", "class": "news"}, ("S", None, "news")),
    ],
)
def test_texts_and_labels_go_by_many_names(write: Writer, row: dict[str, Any], expected: Any) -> None:
    assert labeled(read_dataset(write("a.jsonl", json_lines([row]))).records) == [expected]


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"prompt": "Hi", "completion": "Ho", "label": True}, Conversation),
        ({"instruction": "Hi", "output": "Ho", "category": "x"}, Conversation),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "topic": "x"},
         Conversation),
        ({"text": "plain", "source": "somewhere"}, Passage),
    ],
)  # fmt: skip
def test_a_label_beside_an_answer_makes_no_labeled_text(write: Writer, row: dict[str, Any], kind: type) -> None:
    (record,) = read_dataset(write("a.jsonl", json_lines([row]))).records
    assert isinstance(record, kind)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"text": "S", "label": None}, "Row 3 has a label that is null, not text"),
        ({"text": "S"}, "Row 3 has no label; add label"),
        ({"text": "S", "label": "  "}, "Row 3 has an empty label"),
        ({"text": "S", "label": ["a", "b"]}, "Row 3 has a label that is a list, not text"),
        ({"text": "S", "label": 0.5}, "Row 3 has a label that is a number, not text"),
        ({"text": " ", "label": "a"}, "Row 3 has an empty text"),
        ({"label": "a"}, "Row 3 has no text"),
    ],
)
def test_a_row_without_a_text_or_a_label_is_refused_or_left_out(
    write: Writer, row: dict[str, Any], sentence: str
) -> None:
    path = write("a.jsonl", json_lines([*ROWS, row]))
    with pytest.raises(DataError, match=sentence):
        read_dataset(path)
    reading = read_dataset(path, skip_bad_rows=True)
    assert labeled(reading.records) == EXPECTED and [problem.row for problem in reading.problems] == [3]


def test_a_pair_needs_both_texts(write: Writer) -> None:
    rows = [{"premise": "P", "hypothesis": "H", "label": "a"}, {"premise": "P", "hypothesis": "", "label": "b"}]
    with pytest.raises(DataError, match="Row 2 has an empty hypothesis"):
        read_dataset(write("a.jsonl", json_lines(rows)))
