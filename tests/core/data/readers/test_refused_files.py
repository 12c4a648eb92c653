"""Files that cannot be read at all, and what is said about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import core.data.reading
from core.data.reading import read_dataset
from core.errors import DataError
from tests.core.data.samples import (
    ANSWER,
    PAIRS,
    Writer,
    as_csv,
    as_parquet,
    exchanges,
    json_lines,
)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", ""),
        ("a.jsonl", "\n \n"),
        ("a.json", ""),
        ("a.json", "[]"),
        ("a.json", '{"prompt": [], "completion": []}'),
        ("a.csv", ""),
        ("a.csv", "prompt,completion\n"),
        ("a.txt", "\n\n"),
        ("a.parquet", b""),
        ("a.parquet", as_parquet(PAIRS[:1])[:0] or as_parquet([])),
    ],
)
def test_an_empty_file_is_said_to_have_no_rows(write: Writer, name: str, content: Any) -> None:
    with pytest.raises(DataError, match="0 rows"):
        read_dataset(write(name, content))


PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


@pytest.mark.parametrize(
    ("name", "content", "looks_like"),
    [
        ("a.jsonl", PNG, "a PNG image"),
        ("a.txt", PNG, "a PNG image"),
        ("a.parquet", PNG, "a PNG image"),
        ("a.csv", b"PK\x03\x04rest", "Excel"),
        ("a.jsonl", as_parquet(PAIRS), "a Parquet file"),
        ("a.parquet", json_lines(PAIRS), "JSON"),
        ("a.jsonl", json.dumps(PAIRS), "a JSON list"),
        ("a.jsonl", json.dumps(PAIRS, indent=2), "a JSON list"),
        ("a.jsonl", json.dumps({"data": PAIRS}, indent=2), "one JSON object"),
        ("a.jsonl", as_csv(PAIRS), "a table"),
        ("a.json", json_lines(PAIRS), "JSON Lines"),
        ("a.csv", json_lines(PAIRS), "JSON"),
        ("a.txt", json_lines(PAIRS), "JSON"),
        ("a.json", "<!DOCTYPE html><html></html>", "a web page"),
        ("a.csv", "version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_named(
    write: Writer, name: str, content: Any, looks_like: str
) -> None:
    with pytest.raises(DataError, match="not what its name says") as caught:
        read_dataset(write(name, content))
    assert looks_like in caught.value.title
    assert caught.value.hint


@pytest.mark.parametrize("name", ["a.xls", "a.gz", "a.tar.gz", "noname", "a.pkl"])
def test_an_unknown_suffix_lists_the_supported_ones(write: Writer, name: str) -> None:
    supported = r"\.jsonl, \.ndjson, \.json, \.csv, \.tsv, \.txt, \.md, \.parquet, \.xlsx, \.zip, or one"
    with pytest.raises(DataError, match=supported):
        read_dataset(write(name, "x"))


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    for name in ("absent.csv", "folder.csv"):
        with pytest.raises(DataError, match="cannot be opened"):
            read_dataset(tmp_path / name)


def test_a_huge_file_is_refused_by_its_size_alone(tmp_path: Path) -> None:
    path = tmp_path / "huge.jsonl"
    with path.open("wb") as file:
        file.truncate(10_000_000_000)
    with pytest.raises(DataError, match="too large to read: it has 10.0 GB"):
        read_dataset(path)


def test_a_parquet_file_that_unpacks_to_too_much_is_refused(write: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("a.parquet", as_parquet([{"text": f"{number} " * 50} for number in range(1000)]))
    monkeypatch.setattr(core.data.reading, "MAX_BYTES", path.stat().st_size + 10)
    with pytest.raises(DataError, match="unpacks to"):
        read_dataset(path)


@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_a_damaged_parquet_file_is_refused(write: Writer, cut: float) -> None:
    whole = as_parquet(PAIRS * 50)
    with pytest.raises(DataError, match="damaged"):
        read_dataset(write("a.parquet", whole[: int(len(whole) * cut)]))


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet", "a.json"])
def test_unknown_columns_are_listed_with_what_is_expected(write: Writer, name: str) -> None:
    rows = [{"Straße": "Am Markt", "Ort": "Ulm", "Land": "DE"}]
    contents = {
        "a.jsonl": json_lines(rows),
        "a.csv": as_csv(rows),
        "a.parquet": as_parquet(rows),
        "a.json": json.dumps(rows),
    }
    with pytest.raises(DataError, match=r"found: Straße, Ort, Land.*prompt and completion"):
        read_dataset(write(name, contents[name]))


def test_columns_are_told_from_the_first_rows_together(write: Writer) -> None:
    rows = [{"id": 1}, {"prompt": "Hi"}, {"prompt": "Hi", "completion": "Ahoy"}]
    reading = read_dataset(write("a.jsonl", json_lines(rows)), skip_bad_rows=True)
    assert exchanges(reading.records) == [ANSWER]
    assert [problem.title for problem in reading.problems] == ["Row 1 has no prompt", "Row 2 has no completion"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"prompt": ["a"], "completion": ["b", "c"]}', "prompt has 1, completion has 2"),
        ('{"train": [{"text": "a"}], "test": [{"text": "b"}]}', "train, test"),
        ("5", "it is a number"),
        ('[{"text": "a"}', "line 1, column"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_json_file_without_rows_says_why(write: Writer, content: str, expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        read_dataset(write("a.json", content))


def test_a_table_with_two_columns_of_one_name_is_refused(write: Writer) -> None:
    with pytest.raises(DataError, match="two columns named 'prompt'"):
        read_dataset(write("a.csv", "prompt,prompt,completion\na,b,c\n"))
