"""Rows out of an Excel workbook: those of its first sheet that has any, numbered as Excel numbers them.

openpyxl in its streaming mode, because it keeps one row at a time. The fast reader in Rust (calamine) lays every sheet
out in memory from its first to its last cell: two cells in opposite corners, 5 kB on disk, ended the whole process for
want of 550 GB. Values come as text, as a workbook that is saved as CSV gives them; of formulas the stored result.

What has to be held whole, the workbook's table of texts, is bounded by what the file says that it unpacks to.
"""

from __future__ import annotations

import itertools
import warnings
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, time
from typing import IO, Any, TypeAlias
from zipfile import BadZipFile

from core.data.readers.archives import opened_zip
from core.data.readers.headers import NO_HEADER, checked_header, has_header, numbered_columns
from core.data.readers.sources import Source
from core.data.readers.texts import Remarks, Rows
from core.data.rows import Row
from core.errors import DataError

MAX_UNPACKED_BYTES = 1 << 29
_MAX_ROWS = 1 << 20  # Excel's own limit
_ROWS_TO_COMPARE = 100
_ROWS_AT_ONCE = 256
_SHEETS_TO_NAME = 5
_LARGEST_WHOLE = 1e15  # up to which a number is as exact as Excel shows it

_Numbered: TypeAlias = tuple[int, list[str]]
# What openpyxl lets through of a workbook that is broken in one of very many ways.
_BROKEN = (
    ArithmeticError, AssertionError, AttributeError, BadZipFile, EOFError, LookupError, OSError, RuntimeError,
    SyntaxError, TypeError, ValueError, zlib.error,
)  # fmt: skip


def excel_rows(source: Source, remarks: Remarks) -> Rows:
    """The rows of a workbook.

    Args:
        remarks: told which sheet is read, once the rows are asked for.

    Raises:
        DataError: it is damaged, or would unpack to too much; perhaps only after some rows.
    """
    with source.anywhere() as file:
        if not file.seek(0, 2):
            return
        with opened_zip(file, source.name, min(source.max_bytes, MAX_UNPACKED_BYTES)):
            file.seek(0)
        with ExitStack() as opened:
            workbook = _open_workbook(file, source.name)
            opened.callback(workbook.close)
            yield from _rows(_filled_sheet(workbook, source.name, remarks), source.name, remarks)


def _open_workbook(file: IO[bytes], name: str) -> Any:
    from openpyxl import load_workbook  # lazily: few files need it

    with _quietly(name):
        return load_workbook(file, read_only=True, data_only=True, keep_links=False)


def _filled_sheet(workbook: Any, name: str, remarks: Remarks) -> Iterator[_Numbered]:
    """The rows of the first sheet that has any, blank ones left out; the others are named in a remark."""
    sheets = list(workbook.worksheets)
    for sheet in sheets:
        rows = _sheet_rows(sheet, name)
        if (first := next(rows, None)) is None:
            continue
        others = [repr(other.title) for other in sheets if other is not sheet]
        if others:
            more = " …" if len(others) > _SHEETS_TO_NAME else ""
            remarks.append(f"read from the sheet {sheet.title!r}, not from {', '.join(others[:_SHEETS_TO_NAME])}{more}")
        return itertools.chain([first], rows)
    return iter(())


def _sheet_rows(sheet: Any, name: str) -> Iterator[_Numbered]:
    """The numbers and cells of the rows of a sheet that are not blank."""
    sheet.reset_dimensions()  # what it says of its own size is often wrong
    rows = sheet.iter_rows(values_only=True)
    first = 1
    while True:
        with _quietly(name):
            portion = [[_as_text(cell) for cell in cells] for cells in itertools.islice(rows, _ROWS_AT_ONCE)]
        for number, cells in enumerate(portion, start=first):
            if any(cells):
                yield number, cells
        first += len(portion)
        if len(portion) < _ROWS_AT_ONCE:
            return
        if first - 1 > _MAX_ROWS:
            raise DataError(f"{name} has rows beyond Excel's last one", f"{_MAX_ROWS:,}", "Save it again with Excel")


@contextmanager
def _quietly(name: str) -> Iterator[None]:
    """Without the library's warnings, which are about looks, and with its errors told as one of ours."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except _BROKEN as error:
        reason = str(error) or type(error).__name__
        hint = "Save it again as .xlsx, or as CSV"
        raise DataError(f"{name} is damaged, or no Excel workbook", reason, hint) from None


def _as_text(value: object) -> str:
    """A cell as CSV would have it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, datetime) and value.time() == time(0):
        return value.date().isoformat()
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, float) and value.is_integer() and abs(value) < _LARGEST_WHOLE:
        return str(int(value))
    return str(value)


def _rows(numbered: Iterator[_Numbered], name: str, remarks: Remarks) -> Rows:
    sample = list(itertools.islice(numbered, _ROWS_TO_COMPARE))
    if not sample:
        return
    _, first = sample[0]
    if has_header([cells for _, cells in sample]):
        columns, sample = checked_header(first, name), sample[1:]
    else:
        remarks.append(NO_HEADER)
        columns = numbered_columns(len(first))
    has_extra = False
    for number, cells in itertools.chain(sample, numbered):
        filled = [*cells, *[""] * (len(columns) - len(cells))]
        has_extra = has_extra or any(cell for column, cell in itertools.zip_longest(columns, filled) if not column)
        yield Row(number=number, values={column: cell for column, cell in zip(columns, filled, strict=False) if column})
    if has_extra:
        remarks.append("cells in columns without a name were left out")
