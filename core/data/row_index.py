"""Any row of a file of records, found without reading those before it.

Beside `records.jsonl` lies `records.npy`, `[marks, 3] int64`: for every `STRIDE`th record where its line begins, its
`source_row`, and how many records come before it; and last where the file ends. Source rows ascend, so both the
hundredth record and the record of line 4,711 are found by a search among the marks and at most `STRIDE` lines read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from core.data.records import Record, RecordFile, from_line, to_line

STRIDE = 256
_PLACE, _SOURCE_ROW, _BEFORE = range(3)
_NO_ROW = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordLines:
    """`n` records as the lines of such a file.

    Args:
        text: all lines, each with its end.
        starts: `[n] int64`, where in `text` each begins.
        rows: `[n] int64`, their source rows, which ascend.
    """

    text: bytes | memoryview
    starts: NDArray[np.int64]
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def of(cls, records: Sequence[Record]) -> Self:
        """The lines of `records`."""
        lines = list(map(to_line, records))
        sizes = np.array([0, *map(len, lines)], np.int64)
        rows = np.array([record.source_row for record in records], np.int64)
        return cls(text=b"".join(lines), starts=np.cumsum(sizes)[:-1], rows=rows)


def merged(one: RecordLines, other: RecordLines) -> RecordLines:
    """The lines of both in the order of their rows."""
    rows = np.concatenate([one.rows, other.rows])
    starts = np.concatenate([one.starts, other.starts + len(one.text)])
    ends = np.append(starts[1:], len(one.text) + len(other.text))
    order = np.argsort(rows, kind="stable")
    begins = np.flatnonzero(np.append(True, np.diff(order) != 1))  # of stretches that lie behind one another in `text`
    firsts, lasts = order[begins], order[np.append(begins[1:], len(order)) - 1]
    text = b"".join([one.text, other.text])
    stretches = [text[begin:end] for begin, end in zip(starts[firsts].tolist(), ends[lasts].tolist(), strict=True)]
    sizes = (ends - starts)[order]
    return RecordLines(text=b"".join(stretches), starts=np.cumsum(sizes) - sizes, rows=rows[order])


class RecordWriter:
    """Writes records to `path` as they come, and their index when it is closed."""

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, path.open("wb")
        self._marks: list[tuple[int, int, int]] = []
        self._size = self.count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        marks = [*self._marks, (self._size, _NO_ROW, self.count)]
        np.save(index_of(self._path), np.array(marks, np.int64))

    def write(self, records: Iterable[Record]) -> None:
        """Add `records`.

        Raises:
            OSError: the disk is full.
        """
        rest = iter(records)
        while batch := list(islice(rest, STRIDE)):
            self.append(RecordLines.of(batch))

    def append(self, lines: RecordLines) -> None:
        """Add records that are lines already.

        Raises:
            OSError: the disk is full.
        """
        for number in range(-self.count % STRIDE, len(lines), STRIDE):
            place = self._size + int(lines.starts[number])
            self._marks.append((place, int(lines.rows[number]), self.count + number))
        self._file.write(lines.text)
        self._size += len(lines.text)
        self.count += len(lines)


class IndexedRecords(RecordFile):
    """The records of a file with an index, of which any can be had at once."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._marks: NDArray[np.int64] = np.load(index_of(path))

    def __len__(self) -> int:
        return int(self._marks[-1, _BEFORE])

    def at(self, first: int, count: int) -> tuple[Record, ...]:
        """As many as `count` records from number `first` (from 0) on."""
        mark = max(0, int(np.searchsorted(self._marks[:, _BEFORE], first, side="right")) - 1)
        found = []
        for number, record in enumerate(self._from(mark), start=int(self._marks[mark, _BEFORE])):
            if number >= first + count:
                break
            if number >= first:
                found.append(record)
        return tuple(found)

    def number_from(self, source_row: int) -> int:
        """Which record (from 0) is the first that came of row `source_row` of the person's file, or of a later one; how
        many there are, where none did.
        """
        mark = max(0, int(np.searchsorted(self._marks[:, _SOURCE_ROW], source_row, side="left")) - 1)
        for number, record in enumerate(self._from(mark), start=int(self._marks[mark, _BEFORE])):
            if record.source_row >= source_row:
                return number
        return len(self)

    def _from(self, mark: int) -> Iterator[Record]:
        with self._path.open("rb") as file:
            file.seek(int(self._marks[mark, _PLACE]))
            for line in file:
                yield from_line(line)


def index_of(path: Path) -> Path:
    """Where the index of the records at `path` lies."""
    return path.with_suffix(".npy")


def write_indexed(records: Iterable[Record], path: Path) -> int:
    """Write `records` to `path` with their index; how many they are."""
    with RecordWriter(path) as writer:
        writer.write(records)
    return writer.count


def open_records(path: Path) -> IndexedRecords:
    """The records at `path`; an older workbench's, which have no index, are given one."""
    if not index_of(path).exists():
        _index(path)
    return IndexedRecords(path)


def _index(path: Path) -> None:
    marks: list[tuple[int, int, int]] = []
    size = count = 0
    with path.open("rb") as file:
        for line in file:
            if count % STRIDE == 0:
                marks.append((size, from_line(line).source_row, count))
            size += len(line)
            count += 1
    np.save(index_of(path), np.array([*marks, (size, _NO_ROW, count)], np.int64))
