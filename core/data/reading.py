"""A person's file becomes records, or one error that says what to change.

Rows stream from the file format through the row format; a row that cannot be trained on is a `Problem` in the stream.
`stream_records` holds nothing but the first rows, by which the row format is told. `read_dataset` collects all, for
callers with little data; nothing is left out there unless the caller agreed to it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from core.data.formats.converting import NotDesired, converter
from core.data.formats.detection import detect, samples
from core.data.formats.findings import found
from core.data.formats.first_rows import Columns, shape_of
from core.data.formats.mapping import Detection, Mapping, Unclear, check_mapping
from core.data.readers.files import Rows, Table, open_table
from core.data.readers.json_rows import rows_of_lines
from core.data.readers.texts import Text
from core.data.records import Record
from core.data.rows import BadRow, Problem, Row, problem_of
from core.errors import DataError

__all__ = ["Problem", "Reading", "RecordStream", "read_dataset", "stream_records"]

_ROWS_TO_DETECT = 100
_ROWS_TO_NAME = 10
MAX_BYTES = 1 << 30  # of a file whose records are all held in memory
MAX_ROWS = 10_000_000  # each is held in memory while a file is read, however short it is


class RecordStream:
    """The records of a file, made by `stream_records`, that can be gone through once; a row that cannot be trained on
    is a `Problem` among them.

    `detection` says what the columns mean, or may mean: who goes through the records of one that is not sure gets those
    of its likeliest mapping. `file_format` is the table's. `columns` are those of the first rows and what lies in their
    objects, each with a value, cut short. `json_lines` is the text whose lines `of_lines` makes the same records of,
    where there is one.
    """

    def __init__(self, rows: Rows, table: Table, detection: Detection, columns: dict[str, str]) -> None:
        self.detection, self.file_format, self.columns = detection, table.file_format, columns
        self.json_lines: Text | None = table.json_lines
        self._rows, self._table = rows, table
        self._not_desired = 0

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a person should know of how the file was read; all of it once the records have been gone through."""
        counts = (f"{self._not_desired:,} answers that are marked as not desired were left out",)
        own: tuple[str, ...] = getattr(self._table, "remarks", ())
        return (*own, *self.detection.remarks, *counts[: bool(self._not_desired)])

    def __iter__(self) -> Iterator[Record | Problem]:
        return self._converted(self._rows)

    def of_lines(self, numbered: Iterable[tuple[int, bytes | None]]) -> Iterator[Record | Problem]:
        """What some of the lines of `json_lines` are, each of which comes with its number, and is None if too long."""
        assert self.json_lines is not None
        return self._converted(rows_of_lines(numbered, self.json_lines.name))

    def _converted(self, rows: Rows) -> Iterator[Record | Problem]:
        convert = converter(self.detection.mapping)
        for item in rows:
            if isinstance(item, Problem):
                yield item
                continue
            try:
                record = convert(item)
            except NotDesired:
                self._not_desired += 1
            except BadRow as error:
                yield problem_of(item, error)
            else:
                yield record


def stream_records(table: Table, name: str, mapping: Mapping | None = None) -> RecordStream:
    """The records of `table`, which the person calls `name`, its columns taken as `mapping` says or as they tell.

    Raises:
        DataError: there is no row, none of the first can be read, or `mapping` names a column that none of them has.
        Unclear: nobody says what the columns mean, and they fit nothing.
        ConfigError: `mapping` is none by which a row can be read.
    """
    rows_of_table = table.rows
    head = list(itertools.islice(rows_of_table, _ROWS_TO_DETECT))
    if not head:
        raise DataError(f"{name} is empty: it has 0 rows", hint="Add at least one row")
    if all(_is_talk(item) for item in head):
        head, rows_of_table = list(map(_as_turns, head)), map(_as_turns, rows_of_table)
        table = replace(table, json_lines=None)  # a row is more than its line
    tables = [item.values for item in head if isinstance(item, Row) and isinstance(item.values, dict)]
    if not tables:
        raise _unreadable(head, name)
    columns = Columns.of(tables)
    if mapping is None:
        detection = detect([item for item in head if isinstance(item, Row)], name)
    else:
        check_mapping(mapping, columns.names)
        detection = found(columns, mapping, "The columns were mapped by hand")
    return RecordStream(itertools.chain(head, rows_of_table), table, detection, samples(columns))


def _is_talk(item: Row | Problem) -> bool:
    """Whether a row is no object but a list of texts, said in turn."""
    return isinstance(item, Row) and isinstance(item.values, list) and shape_of(item.values) == "texts"


def _as_turns(item: Row | Problem) -> Row | Problem:
    if isinstance(item, Row) and isinstance(item.values, list):
        return Row(number=item.number, values={"turns": item.values})
    return item


def _unreadable(head: list[Row | Problem], name: str) -> DataError:
    """The refusal of a file no row of which has columns, so that nothing can be said of those that follow."""
    first = head[0]
    if isinstance(first, Row):
        try:
            converter(Mapping(format="text", columns={"text": "text"}))(first)
        except BadRow as error:
            first = problem_of(first, error)
    assert isinstance(first, Problem)
    count = "none of the first" if len(head) == _ROWS_TO_DETECT else "none of the"
    detail = f"and {count} {len(head)} rows of {name} can be trained on" if len(head) > 1 else ""
    return DataError(first.title, detail, first.hint)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a dataset file holds. `problems` are the rows that were left out."""

    records: tuple[Record, ...]
    file_format: str
    row_format: str
    problems: tuple[Problem, ...]
    detection: Detection
    remarks: tuple[str, ...] = ()


def read_dataset(
    path: Path, name: str | None = None, skip_bad_rows: bool = False, mapping: Mapping | None = None
) -> Reading:
    """The records of the file at `path`.

    Args:
        path: where the file lies.
        name: what the person calls it; its suffix decides the format, and errors mention it.
        skip_bad_rows: leave rows that cannot be trained on out, and list them, instead of refusing the file.
        mapping: what the columns mean, where they do not tell.

    Raises:
        DataError: the file cannot be read, holds no row, or holds rows that cannot be trained on.
        Unclear: nobody says what the columns mean, and they may mean several things, or nothing.
        ConfigError: `mapping` is none by which a row can be read.
    """
    name = name or path.name
    table = open_table(path, name, MAX_BYTES)
    stream = stream_records(table, name, mapping)
    if not stream.detection.is_sure:
        raise unsure(stream, name)
    records, problems = _collected(stream, name)
    if problems and not (skip_bad_rows and records):
        raise refusal(problems, len(problems), len(records) + len(problems), name)
    if not records:
        raise DataError(f"No row of {name} is left", " ".join(stream.remarks), "Add rows that can be trained on")
    return Reading(
        records=tuple(records),
        file_format=stream.file_format,
        row_format=stream.detection.title,
        problems=tuple(problems),
        detection=stream.detection,
        remarks=stream.remarks,
    )


def unsure(stream: RecordStream, name: str) -> Unclear:
    """The refusal of a file whose columns may mean several things."""
    title = f"What the columns of {name} mean is not clear"
    return Unclear(title, stream.detection.why, stream.columns, stream.detection)


def _collected(stream: RecordStream, name: str) -> tuple[list[Record], list[Problem]]:
    """All records and problems, no more than can be held."""
    records: list[Record] = []
    problems: list[Problem] = []
    for count, item in enumerate(stream, start=1):
        if count > MAX_ROWS:
            raise DataError(f"{name} has more than {MAX_ROWS:,} rows", hint="Split it, or keep a part of it")
        if isinstance(item, Problem):
            problems.append(item)
        else:
            records.append(item)
    return records, problems


def refusal(problems: Sequence[Problem], count: int, rows: int, name: str) -> DataError:
    """The first problem in full, and which other rows have one; of the `count` problems that `rows` rows have,
    `problems` are the first.
    """
    first, *others = problems
    if count == rows:
        detail = f"and none of the {rows} rows of {name} can be trained on" if others else ""
        return DataError(first.title, detail, first.hint)
    numbers = ", ".join(str(problem.row) for problem in others[:_ROWS_TO_NAME])
    more = " …" if count - 1 > _ROWS_TO_NAME else ""
    what = "1 more row has a problem" if count == 2 else f"{count - 1:,} more rows have problems"
    detail = f"and {what}: {numbers}{more}" if others else ""
    return DataError(first.title, detail, f"{first.hint}, or let bad rows be left out")
