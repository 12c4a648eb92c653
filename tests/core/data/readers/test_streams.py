"""What is too large to be held: rows come one after another, whatever the size, the line, or what it unpacks to."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow  # type: ignore[import-untyped]
import pytest
from pyarrow import parquet

import core.data.readers.json_rows
from core.data.readers.files import open_table
from core.data.readers.json_stream import streamed_rows
from core.data.readers.sources import HEAD_BYTES
from core.data.rows import Problem, Row
from core.errors import DataError
from jobs.home import PROJECT
from tests.core.data.samples import PAIRS, Writer, as_csv, as_parquet, json_lines

MEGABYTE = 10**6
CHILD = """if True:
    import sys
    from pathlib import Path
    from core.data.readers.files import open_table
    from core.data.rows import Problem
    path = Path(sys.argv[1])
    import core.data.readers.json_rows
    core.data.readers.json_rows.WHOLE_DOCUMENT_BYTES = 2_000_000
    rows = problems = 0
    for item in open_table(path, path.name).rows:
        rows += 1
        if isinstance(item, Problem):
            problems += 1
            print(item.title)
    from tests.core.data.own_peak import own_peak_bytes
    print(rows, problems, own_peak_bytes())
"""


def read_in_child(path: Path) -> tuple[int, int, int, str]:
    """Rows, problems and peak memory of a process of its own that reads `path`, and what it says of problems."""
    command = [sys.executable, "-c", CHILD, str(path)]
    child = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    *said, last = child.stdout.splitlines()
    rows, problems, peak = map(int, last.split())
    return rows, problems, peak, "\n".join(said)


def values_of(path: Path) -> list[Any]:
    return [item.values for item in open_table(path, path.name).rows if isinstance(item, Row)]


def parquet_in_groups(rows: list[dict[str, str]]) -> bytes:
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(rows), sink, row_group_size=5000)
    return bytes(sink.getvalue())


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.json", "a.txt", "a.parquet", "a.jsonl.gz"])
def test_memory_does_not_grow_with_the_number_of_rows(write: Writer, name: str) -> None:
    """Six times the rows in the same memory: were they held, it would be 60 MB more."""
    formats: dict[str, Callable[[list[dict[str, str]]], Any]] = {
        "a.jsonl": json_lines, "a.csv": as_csv, "a.json": json.dumps, "a.parquet": parquet_in_groups,
        "a.txt": lambda rows: "\n\n".join(row["prompt"] + row["completion"] for row in rows),
        "a.jsonl.gz": lambda rows: gzip.compress(json_lines(rows).encode(), 1),
    }  # fmt: skip
    peaks = []
    for count in (10_000, 60_000):
        rows = [{"prompt": f"question {number} ", "completion": f"{number} words " * 70} for number in range(count)]
        found, problems, peak, _ = read_in_child(write(name, formats[name](rows)))
        assert (found, problems) == (count, 0)
        peaks.append(peak)
    assert peaks[1] - peaks[0] < 25 * MEGABYTE, peaks


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.csv"])
def test_a_line_of_half_a_gigabyte_is_a_problem_of_that_row_alone_and_takes_little_memory(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    line = '{"text": "%s"}\n' if name == "a.jsonl" else "%s\n\n"
    begin, end = line.split("%s")
    with path.open("wb") as file:
        file.write(b"text\n" if name == "a.csv" else b"")
        file.write((line % "first").encode() + begin.encode())
        file.seek(500 * MEGABYTE)  # nothing is written in between: the disk keeps no room for it
        file.write(end.encode() + (line % "last").encode())
    rows, problems, peak, said = read_in_child(path)
    assert (rows, problems) == (3, 1) and peak < 300 * MEGABYTE
    assert f"of {name}" in said and "longer than 64 MB" in said


def test_a_list_of_half_a_gigabyte_on_one_line_is_told_from_json_lines_by_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.write(b'[{"text": "a"}, {"text": "')
        file.truncate(500 * MEGABYTE)
    with pytest.raises(DataError, match="a JSON list"):
        open_table(path, path.name)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.json", "a.txt"])
def test_a_first_row_longer_than_what_is_looked_at_is_read_whole(write: Writer, name: str) -> None:
    long, rest = "words " * (HEAD_BYTES // 5), "more"
    content = {
        "a.jsonl": f'{{ "text": "{long}" }}\n{{ "text": "{rest}" }}\n', "a.csv": f'text\n"{long}"\n{rest}\n',
        "a.json": json.dumps([{"text": long}, {"text": rest}], indent=1), "a.txt": f"{long}\n\n{rest}",
    }[name]  # fmt: skip
    assert values_of(write(name, content)) == [{"text": long}, {"text": rest}]


def test_carriage_returns_alone_end_the_lines_of_old_macs(write: Writer) -> None:
    lines = ["prompt,completion", *(f"question {number},answer" for number in range(200_000))]
    found = values_of(write("a.csv", "\r".join(lines)))
    assert len(found) == 200_000 and found[-1] == {"prompt": "question 199999", "completion": "answer"}


def test_a_quote_that_is_never_closed_costs_no_more_than_the_row_limit(write: Writer) -> None:
    lines = "".join(f"question {number},{'words ' * 100}\n" for number in range(150_000))
    path = write("a.csv", 'prompt,completion\na,b\n"c,d\n' + lines)
    items = list(open_table(path, path.name).rows)
    assert isinstance(items[1], Problem) and items[1].row == 3 and "perhaps a quote is never closed" in items[1].title
    assert isinstance(items[-1], Row) and items[-1].number == 150_003


# ---- gzip


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt", "a.parquet"])
def test_a_file_in_gzip_reads_as_the_file_itself(write: Writer, name: str) -> None:
    contents: dict[str, Any] = {
        "a.jsonl": json_lines(PAIRS), "a.json": json.dumps(PAIRS), "a.csv": as_csv(PAIRS), "a.txt": "One\n\nTwo\n",
        "a.parquet": as_parquet(PAIRS),
    }  # fmt: skip
    plain = write(name, contents[name])
    packed = write(name + ".gz", gzip.compress(plain.read_bytes()))
    assert open_table(packed, packed.name).file_format == open_table(plain, plain.name).file_format
    assert list(open_table(packed, packed.name).rows) == list(open_table(plain, plain.name).rows)


def test_several_members_of_gzip_are_one_file(write: Writer) -> None:
    path = write("a.jsonl.gz", b"".join(gzip.compress(json_lines([row]).encode()) for row in PAIRS))
    assert values_of(path) == PAIRS


def test_gzip_that_unpacks_to_too_much_is_refused_once_it_has(write: Writer) -> None:
    path = write("a.jsonl.gz", gzip.compress(json_lines(PAIRS * 100_000).encode()))
    seen = 0
    with pytest.raises(DataError, match=r"unpacks to more than 0\.0 GB"):
        for _ in open_table(path, path.name, max_bytes=6 * MEGABYTE).rows:
            seen += 1
    assert 0 < seen < 200_000


@pytest.mark.parametrize("fault", ["cut", "checksum", "inside"])
def test_damaged_gzip_is_refused_by_name(write: Writer, fault: str) -> None:
    whole = bytearray(gzip.compress(json_lines(PAIRS * 1000).encode()))
    if fault == "cut":
        del whole[len(whole) // 2 :]
    else:
        whole[-6 if fault == "checksum" else len(whole) // 2] ^= 0xFF
    path = write("a.jsonl.gz", bytes(whole))
    with pytest.raises(DataError, match=r"a\.jsonl\.gz is damaged"):
        list(open_table(path, path.name).rows)


def test_what_is_called_gz_and_is_not_is_named(write: Writer) -> None:
    for content, kind in ((json_lines(PAIRS), "JSON"), (b"PK\x03\x04", "a ZIP")):
        with pytest.raises(DataError, match=f"not what its name says: it looks like {kind}"):
            open_table(write("a.jsonl.gz", content), "a.jsonl.gz")


def test_the_size_on_the_disk_is_enough_to_be_refused_and_up_to_the_limit_a_file_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json_lines(PAIRS))
    for size, is_refused in ((7_900_000_000, False), (8_100_000_000, True)):
        os.truncate(path, size)
        with pytest.raises(DataError, match="it has 8.1 GB") if is_refused else nullcontext():
            assert next(open_table(path, path.name).rows) == Row(number=1, values=PAIRS[0])


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="is no file"):
        open_table(tmp_path / "a.jsonl", "a.jsonl")


# ---- encodings that show late


def late(text: str, encoding: str) -> bytes:
    """A file whose first byte beyond ASCII comes long after what is looked at first."""
    plain = json_lines([{"text": "plain words " * 20}] * (HEAD_BYTES // 240))
    return plain.encode() + json_lines([{"text": text}, {"text": "plain"}]).encode(encoding)


@pytest.mark.parametrize(
    ("text", "encoding", "remark"),
    [
        ("Où est le café ? À côté du musée.", "utf-8", ()),
        ("Où est le café ? À côté du musée.", "cp1252", ("read as Windows-1252",)),
        ("Как приготовить борщ дома? Столица Франции называется Париж.", "cp1251", ("read as Windows-1251",)),
    ],
)
def test_an_encoding_is_told_where_it_first_shows(
    write: Writer, text: str, encoding: str, remark: tuple[str, ...]
) -> None:
    path = write("a.jsonl", late(text, encoding))
    table = open_table(path, path.name)
    assert [row.values for row in table.rows if isinstance(row, Row)][-2:] == [{"text": text}, {"text": "plain"}]
    assert tuple(table.remarks) == remark


@pytest.mark.parametrize("block", range(60, 110))
def test_an_encoding_that_shows_late_is_told_wherever_blocks_end(
    write: Writer, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    rows = [{"text": "plain words"}] * 4 + [{"text": "Où est le café ? À côté du musée."}] * 3
    path = write("a.jsonl", json_lines(rows).encode("cp1252"))
    monkeypatch.setattr("core.data.readers.sources.BLOCK_BYTES", block)
    for module in ("sources", "texts"):
        monkeypatch.setattr(f"core.data.readers.{module}.HEAD_BYTES", 50)
    assert values_of(path) == rows


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_byte_that_breaks_late_is_told_with_its_place(write: Writer, mark: bytes) -> None:
    good = mark + late("naïve café", "utf-8")
    path = write("a.jsonl", good + b'{"text": "\xe9"}\n')
    with pytest.raises(DataError, match=f"byte {len(good) + 10:,} \\(0xe9\\) is no valid UTF-8"):
        list(open_table(path, path.name).rows)
    assert len(values_of(write("b.jsonl", good))) == good.count(b"\n")


@pytest.mark.parametrize("cut", range(1, 9))
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "cp1252", "utf-32"])
def test_where_blocks_end_changes_nothing(
    write: Writer, monkeypatch: pytest.MonkeyPatch, cut: int, encoding: str
) -> None:
    """Characters, line breaks and lines are cut anywhere: every reader sees what it sees of the whole."""
    text = 'prompt;completion\r\nOù est-il?;Là-bas, à côté\r\n"une\r\nfois";déjà été\r\n'
    path = write("a.csv", text.encode(encoding))
    whole = list(open_table(path, path.name).rows)
    monkeypatch.setattr("core.data.readers.sources.BLOCK_BYTES", 4 * cut if encoding == "utf-32" else 2 * cut + 1)
    assert list(open_table(path, path.name).rows) == whole
    assert [row.values for row in whole if isinstance(row, Row)] == [
        {"prompt": "Où est-il?", "completion": "Là-bas, à côté"},
        {"prompt": "une\nfois", "completion": "déjà été"},
    ]


def test_remarks_name_the_encoding_that_was_guessed(write: Writer) -> None:
    path = write("a.txt", "Où est le café ? À côté du musée, près de la forêt.".encode("cp1252"))
    assert list(open_table(path, path.name).remarks) == ["read as Windows-1252"]


# ---- JSON piece by piece

DOCUMENTS: list[Any] = [
    PAIRS,
    [],
    [1, -2.5e10, 'a\\"b', None, True, [], {}, [[{}]], "😀é"],
    {"version": 1, "tags": ["a", "b"], "data": PAIRS, "more": {"x": [1]}},
    {"data": PAIRS},
    {"data": [{"text": f"{number}" * 40} for number in range(50)], "n": 12345678901234567890},
]


@pytest.mark.parametrize("block", [1, 2, 3, 7, 64, 10_000])
@pytest.mark.parametrize(("indent", "is_escaped"), [(None, True), (2, False)])
@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_document_in_pieces_gives_the_rows_of_the_whole(
    document: Any, indent: int | None, is_escaped: bool, block: int
) -> None:
    expected = document if isinstance(document, list) else document["data"]
    content = json.dumps(document, indent=indent, ensure_ascii=is_escaped).encode()
    blocks = (content[at : at + block] for at in range(0, len(content), block))
    rows = list(streamed_rows(blocks, "a.json"))
    assert [row.values for row in rows] == expected
    assert [row.number for row in rows] == list(range(1, len(expected) + 1))


@pytest.mark.parametrize("block", [1, 5, 1000])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('[{"a": 1}\n{"a": 2}]', r"Expecting , or \] at line 2, column 1, after row 1"),
        ('[{"a": 1},\n {"a" 2}]', r"Expecting ':' delimiter at line 2, column 7, after row 1"),
        ('[{"a": 1}', r"Expecting , or \] at line 1, column 10"),
        ('[{"a": "b', r"Unterminated string starting at line 1, column 8"),
        ('[{"a": 1}] x', r"Extra data at line 1, column 12"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": [{"x": 1}], "b": [{"x": 1}]}', r"several lists of rows \(a, b\)"),
        ('{"prompt": ["a"], "completion": ["b"]}', "holds no list of rows"),
        ('{"a": [{"x": 1}], "b": ["c"]}', "holds no list of rows"),
        ('{"messages": [{"role": "user", "content": "x"}]}', "a single conversation"),
        ("5", "a single value"),
    ],
)
def test_a_document_in_pieces_is_refused_with_the_place(content: str, says: str, block: int) -> None:
    blocks = (content[at : at + block].encode() for at in range(0, len(content), block))
    with pytest.raises(DataError, match=says):
        list(streamed_rows(blocks, "a.json"))


def test_large_documents_are_read_in_pieces_and_give_the_same(write: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("a.json", json.dumps({"about": "x", "data": PAIRS * 3}))
    whole = list(open_table(path, path.name).rows)
    monkeypatch.setattr(core.data.readers.json_rows, "WHOLE_DOCUMENT_BYTES", 10)
    assert list(open_table(path, path.name).rows) == whole
    lines = write("b.json", json_lines(PAIRS))
    with pytest.raises(DataError, match="JSON Lines"):
        open_table(lines, lines.name)


def test_a_row_of_a_document_that_never_ends_is_refused_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with path.open("wb") as file:
        file.write(b'[{"text": "a"}, {"text": "' + b"words " * 12_000_000 + b'"}]')
    with pytest.raises(DataError, match="Row 2 of a.json is longer than 64 MB"):
        list(open_table(path, path.name).rows)


# ---- Parquet


def test_rows_of_parquet_that_are_large_together_come_in_smaller_portions(write: Writer) -> None:
    rows = [{"text": str(number) * 200_000} for number in range(10)] * 60
    path = write("a.parquet", as_parquet(rows))
    assert [row.values for row in open_table(path, path.name).rows if isinstance(row, Row)] == rows


def test_a_row_of_parquet_that_is_too_large_is_a_problem_of_its_own(write: Writer) -> None:
    rows = [{"text": "a"}, {"text": "b" * 70_000_000}, {"text": "c"}]
    path = write("a.parquet", as_parquet(rows))
    first, second, third = open_table(path, path.name).rows
    assert isinstance(second, Problem) and second.row == 2 and "longer than 64 MB" in second.title
    assert [first, third] == [Row(number=1, values={"text": "a"}), Row(number=3, values={"text": "c"})]
