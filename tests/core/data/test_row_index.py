"""Any row of a records file, found by its number and by the row that it came of."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.data.records import Passage, write_records
from core.data.row_index import STRIDE, RecordWriter, index_of, open_records, write_indexed


def passages(source_rows: list[int]) -> list[Passage]:
    return [Passage(text="é" * (row % 7 + 1), source_row=row) for row in source_rows]


@given(
    gaps=st.lists(st.integers(1, 5), min_size=1, max_size=3 * STRIDE),
    first=st.integers(0, 900),
    count=st.integers(0, 40),
)
@settings(max_examples=60, deadline=None)
def test_any_rows_are_those_of_the_whole_list(
    tmp_path_factory: pytest.TempPathFactory, gaps: list[int], first: int, count: int
) -> None:
    rows = passages([sum(gaps[: at + 1]) for at in range(len(gaps))])
    path = tmp_path_factory.mktemp("rows") / "records.jsonl"
    assert write_indexed(rows, path) == len(rows)
    found = open_records(path)
    assert len(found) == len(rows) and list(found) == rows
    assert list(found.at(first, count)) == rows[first : first + count]
    for wanted in {1, first, rows[-1].source_row, rows[-1].source_row + 1, rows[len(rows) // 2].source_row}:
        expected = next((at for at, row in enumerate(rows) if row.source_row >= wanted), len(rows))
        assert found.number_from(wanted) == expected


def test_a_file_without_an_index_is_given_the_same_one(tmp_path: Path) -> None:
    rows = passages(list(range(1, 2 * STRIDE + 3)))
    write_indexed(rows, tmp_path / "ours.jsonl")
    write_records(rows, tmp_path / "old.jsonl")
    assert list(open_records(tmp_path / "old.jsonl").at(STRIDE, 2)) == rows[STRIDE : STRIDE + 2]
    assert index_of(tmp_path / "old.jsonl").read_bytes() == index_of(tmp_path / "ours.jsonl").read_bytes()


def test_rows_that_come_in_parts_are_indexed_as_if_they_came_at_once(tmp_path: Path) -> None:
    rows = passages(list(range(1, STRIDE + 30)))
    with RecordWriter(tmp_path / "parts.jsonl") as writer:
        for at in range(0, len(rows), 7):
            writer.write(rows[at : at + 7])
    write_indexed(rows, tmp_path / "whole.jsonl")
    assert index_of(tmp_path / "parts.jsonl").read_bytes() == index_of(tmp_path / "whole.jsonl").read_bytes()


def test_no_rows_are_no_rows(tmp_path: Path) -> None:
    assert write_indexed([], tmp_path / "none.jsonl") == 0
    found = open_records(tmp_path / "none.jsonl")
    assert len(found) == 0 and found.at(0, 5) == () and found.number_from(1) == 0
