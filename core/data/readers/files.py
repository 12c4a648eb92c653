"""File formats: from a file's suffix and bytes to numbered rows of columns, one after another.

The suffix decides how a file is read; the content is checked against it, because a wrong suffix otherwise gives an
error that blames a line. Rows come as a stream, of which no more is held than a row and a few megabytes. A row that
cannot be read becomes a `Problem` in the stream, so that one broken line does not hide the others; a file that cannot
be read at all raises `DataError`, perhaps only where it breaks.

    one file            its rows, numbered as each format does
    the same as .gz     unpacked while it is read
    a folder, a zip     the rows of its files of one kind, sorted by name: a file's rows are numbered on from those
                        before it
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from core.data.readers.archives import MAX_FILES, member_source, members, opened_zip_at
from core.data.readers.disguises import GZIP_MAGIC, PARQUET_MAGIC, ZIP_MAGICS, binary_kind, text_kind
from core.data.readers.excel import excel_rows
from core.data.readers.json_rows import json_document, json_lines, not_as_named
from core.data.readers.paragraphs import paragraphs
from core.data.readers.parquet_rows import parquet_rows
from core.data.readers.sources import MAX_BYTES, Source, file_source, unopened
from core.data.readers.suffixes import (
    KINDS,
    PLAIN_TEXT,
    SUFFIXES,
    kind_of_file,
    same_kind,
    suffix_of,
    told_apart,
    unknown_kind,
)
from core.data.readers.tables import comma_table, tab_table
from core.data.readers.texts import Rows, Text, open_text
from core.data.rows import Problem, Row
from core.errors import DataError

__all__ = ["MAX_BYTES", "SUFFIXES", "Rows", "Table", "open_files", "open_folder", "open_path", "open_table"]

_Sources: TypeAlias = Iterator[tuple[Source, str]]  # with the suffix that each is read by

_FILES_TO_PLACE = 20  # of which a remark says where their rows begin


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """An opened dataset: what it is, and its rows as a stream that can be gone through once.

    `remarks` are phrases on how it was read, such as `semicolons between cells`. More may come while the rows are gone
    through. `json_lines` is the text whose lines are the rows, one JSON value each, where that is what it is; it can be
    read again.
    """

    file_format: str
    rows: Rows
    json_lines: Text | None = None
    remarks: Sequence[str] = field(default_factory=list)


def open_table(path: Path, name: str, max_bytes: int = MAX_BYTES) -> Table:
    """The rows of the file at `path`, which the person calls `name`; its suffix decides the format.

    Raises:
        DataError: the file is missing, too large, of another format than its name says, or unreadable.
    """
    suffix = suffix_of(name)
    if suffix.name == ".zip" and not suffix.is_gzip:
        return _open_zip(path, name, max_bytes)
    if suffix.name not in KINDS:
        raise unknown_kind(name)
    return _open_source(file_source(path, name, max_bytes, _is_gzip(path, name)), suffix.name)


def open_path(path: Path, name: str | None = None) -> Table:
    """The folder or the file at `path`, which the person calls `name`; as `open_folder` and `open_table`."""
    return open_folder(path) if path.is_dir() else open_table(path, name or path.name)


def open_folder(folder: Path, max_bytes: int = MAX_BYTES) -> Table:
    """The rows of the dataset files of one kind in `folder` and the folders in it.

    Raises:
        DataError: there is no such folder, or no file of a kind that can be read, or there are several kinds.
    """
    name = folder.name or str(folder)
    paths = [(path.relative_to(folder).as_posix(), path) for path in _files_in(folder, name)]
    return _open_named(paths, name, max_bytes)


def open_files(paths: Sequence[Path], name: str, max_bytes: int = MAX_BYTES) -> Table:
    """The rows of several files of one kind, in the order given; `name` is what the person calls them all.

    Raises:
        DataError: one cannot be opened, they are of several kinds, or too large together.
    """
    return _open_named([(path.name, path) for path in paths], name, max_bytes)


def _open_named(paths: Sequence[tuple[str, Path]], name: str, max_bytes: int) -> Table:
    """Files under the names that a person knows them by."""
    names = [shown for shown, _ in paths]
    kind = same_kind(names, name)
    size = sum(path.stat().st_size for _, path in paths)
    if size > max_bytes:
        hint = f"Keep a part of at most {max_bytes / 1e9:.1f} GB"
        raise DataError(f"{name} is too large to read: it has {size / 1e9:.1f} GB", hint=hint)
    sources = (
        (file_source(path, shown, max_bytes, _is_gzip(path, shown)), suffix_of(shown).name)
        for shown, path in paths
        if kind_of_file(shown) == kind
    )
    return _joined(kind, sources, _Remarks([told_apart(names, kind)]))


def _files_in(folder: Path, name: str) -> list[Path]:
    """The files in a folder and its folders, sorted; hidden ones and what is no plain file left out."""
    try:
        next(folder.iterdir(), None)
    except OSError as error:
        raise unopened(name, error) from None
    found: list[Path] = []
    for place, folders, files in os.walk(folder):
        folders[:] = [each for each in folders if not each.startswith(".")]
        found += [Path(place, each) for each in files if not each.startswith(".") and Path(place, each).is_file()]
        if len(found) > MAX_FILES:
            raise DataError(f"{name} holds more than {MAX_FILES:,} files", hint="Choose a folder of the dataset alone")
    return sorted(found, key=lambda path: path.relative_to(folder).parts)


def _open_zip(path: Path, name: str, max_bytes: int) -> Table:
    head = next(file_source(path, name, max_bytes, is_gzip=False).blocks(), b"")
    if not head.startswith(ZIP_MAGICS):
        looks_like = binary_kind(head) or text_kind(head) or "something else"
        raise not_as_named(name, looks_like, "Choose a file that really is .zip")
    with opened_zip_at(path, name, max_bytes) as archive:
        names = [info.filename for info in members(archive, name)]
    kind = same_kind(names, name)
    return _joined(kind, _zip_sources(path, name, max_bytes, kind), _Remarks([told_apart(names, kind)]))


def _zip_sources(path: Path, name: str, max_bytes: int, kind: str) -> _Sources:
    with opened_zip_at(path, name, max_bytes) as archive:
        for info in members(archive, name):
            if kind_of_file(info.filename) == kind:
                yield member_source(archive, info, name), suffix_of(info.filename).name


class _Remarks(list[str]):
    """Remarks, each of which is made once."""

    def append(self, remark: str) -> None:
        if remark not in self:
            super().append(remark)


def _joined(kind: str, sources: _Sources, remarks: _Remarks) -> Table:
    return Table(file_format=kind, rows=_rows_behind_one_another(sources, remarks), remarks=remarks)


def _rows_behind_one_another(sources: _Sources, remarks: _Remarks) -> Rows:
    before = 0
    for count, (source, suffix) in enumerate(sources):
        if 0 < count <= _FILES_TO_PLACE:
            remarks.append(f"{source.name} follows after row {before:,}")
        last = before
        for item in _open_source(source, suffix, remarks).rows:
            moved = _moved(item, before) if before else item
            last = moved.number if isinstance(moved, Row) else moved.row
            yield moved
        before = last


def _moved(item: Row | Problem, rows: int) -> Row | Problem:
    """The same, numbered `rows` later."""
    if isinstance(item, Row):
        return Row(number=item.number + rows, values=item.values)
    return replace(item, row=item.row + rows)


def _open_source(source: Source, suffix: str, remarks: _Remarks | None = None) -> Table:
    remarks = _Remarks() if remarks is None else remarks
    kind = KINDS[suffix]
    _check_disguise(next(source.blocks(), b""), source.name, suffix)
    if suffix == ".parquet":
        return Table(file_format=kind, rows=parquet_rows(source), remarks=remarks)
    if suffix == ".xlsx":
        return Table(file_format=kind, rows=excel_rows(source, remarks), remarks=remarks)
    text = open_text(source, remarks)
    read_as = f" (read as {text.encoding.codec})" if text.encoding.is_guessed else ""
    read = _TEXT_READERS[suffix]
    lines = text if read is json_lines else None
    return Table(file_format=kind + read_as, rows=read(text), json_lines=lines, remarks=remarks)


def _is_gzip(path: Path, name: str) -> bool:
    """Whether a file is called `.gz`, which it then has to be."""
    if not suffix_of(name).is_gzip:
        return False
    head = next(file_source(path, name, MAX_BYTES, is_gzip=False).blocks(), b"")
    if head and not head.startswith(GZIP_MAGIC):
        looks_like = binary_kind(head) or text_kind(head) or "something else"
        raise not_as_named(name, looks_like, "Leave .gz out of its name")
    return True


def _check_disguise(head: bytes, name: str, suffix: str) -> None:
    kind = binary_kind(head)
    if expected := _MAGICS.get(suffix):
        kind = "" if head.startswith(expected) or not head else kind or text_kind(head) or "something else"
    elif not kind and KINDS[suffix] != PLAIN_TEXT and text_kind(head) == "a web page":
        kind = "a web page"
    if kind:
        raise not_as_named(name, kind, f"Choose a file that really is {suffix}")


_MAGICS = {".parquet": (PARQUET_MAGIC,), ".xlsx": ZIP_MAGICS}
_TEXT_READERS: dict[str, Callable[[Text], Rows]] = {
    ".jsonl": json_lines,
    ".ndjson": json_lines,
    ".json": json_document,
    ".csv": comma_table,
    ".tsv": tab_table,
    ".txt": paragraphs,
    ".md": paragraphs,
}
