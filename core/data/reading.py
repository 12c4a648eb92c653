"""A person's file becomes records, or one error that says what to change.

Rows stream from the file format through the row format; a row that cannot be trained on is collected as a `Problem`.
Nothing is left out unless the caller agreed to it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from core.data.files import Rows, open_table
from core.data.formats import RowFormat, detect, to_record
from core.data.records import Record
from core.data.rows import BadRow, Problem, Row
from core.errors import DataError

__all__ = ["Problem", "Reading", "read_dataset"]

_ROWS_TO_DETECT = 100
_ROWS_TO_NAME = 10
MAX_ROWS = 10_000_000  # each is held in memory while a file is read, however short it is


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a dataset file holds. `problems` are the rows that were left out."""

    records: tuple[Record, ...]
    file_format: str
    row_format: str
    problems: tuple[Problem, ...]


def read_dataset(path: Path, name: str | None = None, skip_bad_rows: bool = False) -> Reading:
    """The records of the file at `path`.

    Args:
        path: where the file lies.
        name: what the person calls it; its suffix decides the format, and errors mention it.
        skip_bad_rows: leave rows that cannot be trained on out, and list them, instead of refusing the file.

    Raises:
        DataError: the file cannot be read, holds no row, or holds rows that cannot be trained on.
    """
    name = name or path.name
    table = open_table(path, name)
    head = list(itertools.islice(table.rows, _ROWS_TO_DETECT))
    if not head:
        raise DataError(f"{name} is empty: it has 0 rows", hint="Add at least one row")
    row_format = _row_format(head, name)
    found = list(_records(_bounded(itertools.chain(head, table.rows), name), row_format))
    problems = tuple(item for item in found if isinstance(item, Problem))
    records = tuple(item for item in found if not isinstance(item, Problem))
    if problems and not (skip_bad_rows and records):
        raise _refusal(problems, len(found), name)
    return Reading(
        records=records,
        file_format=table.file_format,
        row_format=row_format.name if row_format else "",
        problems=problems,
    )


def _bounded(rows: Rows, name: str) -> Rows:
    """`rows`, no more than can be held."""
    for count, item in enumerate(rows, start=1):
        if count > MAX_ROWS:
            raise DataError(f"{name} has more than {MAX_ROWS:,} rows", hint="Split it, or keep a part of it")
        yield item


def _row_format(head: list[Row | Problem], name: str) -> RowFormat | None:
    """The row format, or None where no row at the head has columns, so that each of them is a problem of its own."""
    rows = [item for item in head if isinstance(item, Row)]
    return detect(rows, name) if any(isinstance(row.values, dict) for row in rows) else None


def _records(rows: Rows, row_format: RowFormat | None) -> Iterator[Record | Problem]:
    nothing_known = RowFormat(name="", convert=_refuse)
    for item in rows:
        if isinstance(item, Problem):
            yield item
            continue
        try:
            yield to_record(item, row_format or nothing_known)
        except BadRow as error:
            yield Problem(row=item.number, title=f"Row {item.number} {error.what}", hint=error.hint)


def _refuse(columns: object, number: int) -> Record:
    raise BadRow("comes after too many rows that cannot be read", "Correct the first rows")


def _refusal(problems: tuple[Problem, ...], rows: int, name: str) -> DataError:
    """The first problem in full, and which other rows have one."""
    first, *others = problems
    if len(problems) == rows:
        detail = f"and none of the {rows} rows of {name} can be trained on" if others else ""
        return DataError(first.title, detail, first.hint)
    numbers = ", ".join(str(problem.row) for problem in others[:_ROWS_TO_NAME])
    more = " …" if len(others) > _ROWS_TO_NAME else ""
    what = "1 more row has a problem" if len(others) == 1 else f"{len(others):,} more rows have problems"
    detail = f"and {what}: {numbers}{more}" if others else ""
    return DataError(first.title, detail, f"{first.hint}, or let bad rows be left out")
