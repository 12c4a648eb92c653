"""Several files as one dataset: in a zip, in a folder, in a list."""

from __future__ import annotations

import gzip
import io
import json
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import core.data.readers.archives
from core.data.readers.files import Table, open_files, open_folder, open_table
from core.data.rows import Problem, Row
from core.errors import DataError
from tests.core.data.samples import PAIRS, Writer, as_csv, as_parquet, json_lines

Files = dict[str, str | bytes]
Opener = Callable[[Path, Files], Table]


def zipped(files: Files, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return sink.getvalue()


def from_zip(tmp_path: Path, files: Files) -> Table:
    path = tmp_path / "rows.zip"
    path.write_bytes(zipped(files))
    return open_table(path, path.name)


def from_folder(tmp_path: Path, files: Files) -> Table:
    folder = tmp_path / "rows"
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return open_folder(folder)


@pytest.fixture(params=[from_zip, from_folder], ids=["zip", "folder"])
def opener(request: pytest.FixtureRequest) -> Opener:
    opened: Opener = request.param
    return opened


def rows_of(table: Table) -> list[tuple[int, object]]:
    return [(item.number, item.values) for item in table.rows if isinstance(item, Row)]


def test_the_paragraphs_of_all_text_files_come_behind_one_another(opener: Opener, tmp_path: Path) -> None:
    table = opener(tmp_path, {"b.md": "# Title\n\nText.\n", "a.txt": "One\nline.\n\nTwo.\n", "deep/c.txt": "Three."})
    expected = [(1, "One\nline."), (4, "Two."), (5, "# Title"), (7, "Text."), (8, "Three.")]
    assert rows_of(table) == [(number, {"text": text}) for number, text in expected]
    assert table.file_format == "plain text" and table.remarks[0] == "read from 3 files"
    assert [remark.split(" ", 1)[0] for remark in table.remarks[1:]] == ["b.md", "deep/c.txt"]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_one_dataset_file_reads_as_it_does_alone(opener: Opener, tmp_path: Path, suffix: str) -> None:
    contents: Files = {".jsonl": json_lines(PAIRS), ".json": json.dumps(PAIRS), ".csv": as_csv(PAIRS, ";"),
                ".parquet": as_parquet(PAIRS)}  # fmt: skip
    alone = tmp_path / f"alone{suffix}"
    content = contents[suffix]
    alone.write_bytes(content if isinstance(content, bytes) else content.encode())
    expected = open_table(alone, alone.name)
    table = opener(tmp_path, {f"data{suffix}": content, "README.md": "About it.", "state.json": "{}"})
    assert rows_of(table) == rows_of(expected) and table.file_format == expected.file_format
    assert table.remarks[0] == f"read from one file, data{suffix}; left out: README.md, state.json"
    assert list(table.remarks[1:]) == list(expected.remarks)


def test_files_of_one_kind_are_joined_and_their_mistakes_named_by_file(opener: Opener, tmp_path: Path) -> None:
    table = opener(tmp_path, {"1.jsonl": json_lines(PAIRS), "2.jsonl": "oops\n" + json_lines(PAIRS[:1])})
    items = list(table.rows)
    assert [item.number if isinstance(item, Row) else item.row for item in items] == [1, 2, 3, 4]
    problem = items[2]
    assert isinstance(problem, Problem) and "Line 1 of 2.jsonl" in problem.title
    assert any(remark.startswith("2.jsonl") and remark.endswith("follows after row 2") for remark in table.remarks)


def test_packed_files_of_a_folder_are_read_beside_plain_ones(tmp_path: Path) -> None:
    files: Files = {"1.jsonl": json_lines(PAIRS[:1]), "2.jsonl.gz": gzip.compress(json_lines(PAIRS[1:]).encode())}
    assert rows_of(from_folder(tmp_path, files)) == [(1, PAIRS[0]), (2, PAIRS[1])]


def test_files_in_a_list_keep_its_order(write: Writer) -> None:
    paths = [write("b.csv", as_csv(PAIRS[:1])), write("a.csv", as_csv(PAIRS[1:]))]
    assert rows_of(open_files(paths, "the hub's")) == [(2, PAIRS[0]), (4, PAIRS[1])]


def test_what_systems_hide_is_left_out(opener: Opener, tmp_path: Path) -> None:
    files: Files = {
        "__MACOSX/._a.jsonl": b"\0",
        ".DS_Store": b"\0",
        ".hidden/b.jsonl": "x",
        "a.jsonl": json_lines(PAIRS),
    }
    if opener is from_folder:
        del files["__MACOSX/._a.jsonl"]
    table = opener(tmp_path, files)
    assert len(rows_of(table)) == 2 and list(table.remarks) == ["read from one file, a.jsonl"]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "holds no file that can be read"),
        ({"a.png": b"\x89PNG", "b.py": "x"}, r"holds no file that can be read \(a\.png, b\.py\)"),
        ({"a.jsonl": json_lines(PAIRS), "b.csv": as_csv(PAIRS)}, r"files of several kinds \(CSV, JSON Lines\)"),
    ],
)
def test_what_is_no_dataset_is_refused_with_what_was_found(
    opener: Opener, tmp_path: Path, files: Files, says: str
) -> None:
    (tmp_path / "rows").mkdir()
    with pytest.raises(DataError, match=says):
        opener(tmp_path, files)


def test_a_missing_folder_and_a_file_in_its_place_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for name in ("absent", "file"):
        with pytest.raises(DataError, match=f"{name} cannot be opened"):
            open_folder(tmp_path / name)


def test_a_folder_that_is_too_large_is_refused_by_its_size_alone(tmp_path: Path) -> None:
    for name in "ab":
        with (tmp_path / f"{name}.jsonl").open("wb") as file:
            file.truncate(5_000_000_000)
    with pytest.raises(DataError, match="it has 10.0 GB"):
        open_folder(tmp_path)


# ---- zips that mean harm


def with_flag(content: bytes, flag: int) -> bytes:
    """A zip whose table of contents and first file carry a flag."""
    changed = bytearray(content)
    for magic, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = content.index(magic) + at
        changed[place : place + 2] = struct.pack("<H", flag)
    return bytes(changed)


def a_link() -> bytes:
    sink = io.BytesIO()
    entry = zipfile.ZipInfo("a.txt")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr(entry, "/etc/passwd")
    return sink.getvalue()


def without_name() -> bytes:
    """A zip whose table of contents takes the one letter of a file's name for something else."""
    changed = bytearray(zipped({"a": "text"}))
    place = changed.index(b"PK\x01\x02") + 28
    changed[place : place + 4] = struct.pack("<HH", 0, 1)
    return bytes(changed)


GOOD = zipped({"a.txt": "text"})
HARMFUL: dict[str, tuple[bytes, str]] = {
    "a link": (a_link(), "holds a link"),
    "encrypted": (with_flag(GOOD, 0x1), "is encrypted"),
    "strongly encrypted": (with_flag(GOOD, 0x41), "is encrypted"),
    "a patch": (with_flag(GOOD, 0x20), "packed in a way that is not read"),
    "bzip2": (zipped({"a.txt": "text"}, zipfile.ZIP_BZIP2), "packed in a way that is not read"),
    "lzma": (zipped({"a.txt": "text"}, zipfile.ZIP_LZMA), "packed in a way that is not read"),
    "another zip": (zipped({"inner.zip": GOOD}), "holds another archive"),
    "a packed file": (zipped({"a.jsonl.gz": gzip.compress(b"{}")}), "holds another archive"),
    "a way out": (zipped({"../../escaped.txt": "x"}), "leads out of it"),
    "an absolute path": (zipped({"/tmp/escaped.txt": "x"}), "leads out of it"),
    "a way out of Windows": (zipped({"..\\escaped.txt": "x"}), "leads out of it"),
    "a file without a name": (without_name(), "one of its files has no name"),
    "cut": (GOOD[:-30], "is damaged"),
    "no contents": (b"PK\x03\x04" + bytes(100), "is damaged"),
    "other bytes": (zipped({"a.txt": "text"}, zipfile.ZIP_STORED).replace(b"text", b"tuxt"), "is damaged"),
    "plain text": (b"hello", "not what its name says"),
    "nothing": (b"", "not what its name says"),
}


@pytest.mark.parametrize("kind", HARMFUL)
def test_a_zip_that_means_harm_or_is_broken_is_refused_with_a_sentence(tmp_path: Path, kind: str) -> None:
    content, says = HARMFUL[kind]
    path = tmp_path / "rows.zip"
    path.write_bytes(content)
    with pytest.raises(DataError, match=says):
        list(open_table(path, path.name).rows)
    assert [each.name for each in tmp_path.iterdir()] == ["rows.zip"]


def test_what_a_zip_says_of_its_size_is_checked_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.zip"
    path.write_bytes(zipped({f"{n}.txt": b"x" * 30_000_000 for n in range(3)}))
    with pytest.raises(DataError, match="unpacks to more than 0.1 GB"):
        open_table(path, path.name, max_bytes=60_000_000)


def test_a_zip_that_lies_about_its_size_gives_no_more_than_it_says(tmp_path: Path) -> None:
    content = bytearray(zipped({"a.txt": b"x" * 5_000_000}))
    for magic, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = content.index(magic) + at
        content[place : place + 4] = struct.pack("<I", 1000)
    path = tmp_path / "rows.zip"
    path.write_bytes(content)
    with pytest.raises(DataError, match="is damaged"):
        list(open_table(path, path.name).rows)


def test_more_files_than_a_person_packs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the number that the end of the zip tells, in its short form and in the wide one, and by counting."""
    path = tmp_path / "rows.zip"
    path.write_bytes(zipped({f"{number}.txt": "x" for number in range(12)}))
    monkeypatch.setattr(core.data.readers.archives, "MAX_FILES", 11)
    with pytest.raises(DataError, match="more than 11 files"):
        open_table(path, path.name)
    content = bytearray(path.read_bytes())
    content[-12:-10] = struct.pack("<H", 3)  # a lie
    path.write_bytes(content)
    with pytest.raises(DataError, match="more than 11 files|is damaged"):
        open_table(path, path.name)
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(70_000):
            archive.writestr(f"{number}", b"")
    monkeypatch.setattr(core.data.readers.archives, "MAX_FILES", 69_999)
    with pytest.raises(DataError, match="more than 69,999 files"):
        open_table(path, path.name)
