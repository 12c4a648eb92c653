"""Rows out of CSV and TSV, numbered by the line they begin on, as a spreadsheet does, the header being line 1."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any

from core.data.readers.headers import (
    NO_HEADER,
    checked_header,
    find_separator,
    has_header,
    numbered_columns,
    sample_rows,
)
from core.data.readers.json_rows import check_not_json
from core.data.readers.sources import MAX_ROW_BYTES
from core.data.readers.texts import Rows, Text
from core.data.rows import Problem, Row
from core.errors import DataError

_ENDLESS = f"a row is longer than {MAX_ROW_BYTES >> 20} MB; perhaps a quote is never closed"


def comma_table(text: Text) -> Rows:
    """The rows of a file whose cells are expected to have commas between them.

    Raises:
        DataError: it is JSON, or its header cannot be read.
    """
    return _table(text, ",")


def tab_table(text: Text) -> Rows:
    """As `comma_table`, with tabs."""
    return _table(text, "\t")


def _table(text: Text, usual: str) -> Rows:
    check_not_json(text)
    csv.field_size_limit(MAX_ROW_BYTES)  # the default refuses cells above 128 kB; a long document is no mistake
    start = _whole_lines(text)
    separator = find_separator(start, usual)
    if separator.remark:
        text.remarks.append(separator.remark)
    _check_first_row(text, start, separator.sign)
    rows = sample_rows(start, separator)
    is_named = has_header(rows)
    if not is_named:
        text.remarks.append(NO_HEADER)
        return _rows(text, separator.sign, numbered_columns(len(rows[0])), is_named)
    columns = checked_header(rows[0], text.name) if rows else None
    return _rows(text, separator.sign, columns, is_named)


def _whole_lines(text: Text) -> list[str]:
    """The lines of the head with their ends, without one that is cut."""
    lines = text.head.split("\n")
    ends = [line + "\n" for line in lines[:-1]]
    return ends + [lines[-1]] if text.is_whole and lines[-1] else ends


def _check_first_row(text: Text, start: list[str], sign: str) -> None:
    reader = csv.reader(start, delimiter=sign, strict=True)
    try:
        next((cells for cells in reader if cells), None)
    except csv.Error as error:
        hint = "Correct its quotes and line ends"
        raise DataError(f"The header of {text.name} cannot be read", _in_our_words(error), hint) from None


def _rows(text: Text, sign: str, columns: list[str] | None, is_named: bool) -> Rows:
    """All rows; the first is skipped where it names the columns."""
    lines = _CellLines(text)
    reader = csv.reader(lines, delimiter=sign, strict=True)
    if columns is None:
        return
    if is_named:
        next(cells for cells in reader if cells)
    yield from _table_rows(reader, lines, columns, text.name)


class _CellLines:
    """The lines of a table for the CSV parser, which takes several where a cell holds line breaks.

    `number` is that of the last line taken. More than `MAX_ROW_BYTES` for one row end in an error of that row alone.
    """

    def __init__(self, text: Text) -> None:
        self.number = 0
        self._row_bytes = 0
        self._lines = (numbered for first, lines in text.lines() for numbered in enumerate(lines, first))

    def begin_row(self) -> int:
        """The number of the line that the next row begins on."""
        self._row_bytes = 0
        return self.number + 1

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.number, line = next(self._lines)
        self._row_bytes += MAX_ROW_BYTES + 1 if line is None else len(line)
        if line is None or self._row_bytes > MAX_ROW_BYTES:
            raise csv.Error(_ENDLESS)
        return line.decode() + "\n"


def _table_rows(reader: Any, lines: _CellLines, columns: list[str], name: str) -> Rows:
    is_any_unnamed, width = not all(columns), len(columns)
    while True:
        start = lines.begin_row()
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield _broken_cells(start, name, _in_our_words(error))
            continue
        if cells is None:
            return
        if len(cells) == width:
            values = dict(zip(columns, cells, strict=True))
            if is_any_unnamed:
                values.pop("", None)
            yield Row(number=start, values=values)
        elif cells:
            title = f"Line {start} of {name} has {len(cells)} cells where the header has {width}"
            yield Problem(row=start, title=title, hint="Put cells that hold the delimiter in double quotes")


def _in_our_words(error: csv.Error) -> str:
    """What is wrong with a line; the library gives advice to programmers."""
    said = str(error)
    if "end of data" in said:
        return "a quote is opened and never closed"
    if "field larger" in said:
        return _ENDLESS
    return "a carriage return stands alone, outside of quotes" if "new-line character" in said else said


def _broken_cells(line: int, name: str, reason: str) -> Problem:
    title = f"Line {line} of {name} is not valid CSV: {reason}"
    return Problem(row=line, title=title, hint="Correct its quotes: a quote inside a quoted cell is written twice")
