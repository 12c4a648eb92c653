"""File formats: from a file's suffix and bytes to numbered rows of columns, one after another.

The suffix decides how a file is read; the content is checked against it, because a wrong suffix otherwise gives an
error that blames a line. Rows come as a stream. A row that cannot be read becomes a `Problem` in the stream, so that
one broken line does not hide the others; a file that cannot be read at all raises `DataError`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import orjson

from core.data.decoding import decode
from core.data.disguises import PARQUET_MAGIC, binary_kind, text_kind
from core.data.documents import rows_of_document
from core.data.rows import Problem, Row
from core.errors import DataError

MAX_BYTES = 1 << 30

Rows: TypeAlias = Iterator[Row | Problem]

_DELIMITERS = ",;\t|"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """An opened dataset file: what it is, and its rows as a stream that can be gone through once."""

    file_format: str
    rows: Rows


def open_table(path: Path, name: str) -> Table:
    """The rows of the file at `path`, which the person calls `name`; its suffix decides the format.

    Raises:
        DataError: the file is missing, too large, of another format than its name says, or unreadable.
    """
    suffix = Path(name).suffix.lower()
    data_bytes = _read_bytes(path, name, suffix)
    if suffix == ".parquet":
        return Table(file_format="Parquet", rows=_parquet_rows(data_bytes, name))
    file_format, reader = _TEXT_FORMATS[suffix]
    decoded = decode(data_bytes, name)
    read_as = f" (read as {decoded.guessed})" if decoded.guessed else ""
    return Table(file_format=file_format + read_as, rows=reader(decoded.text, name))


def _read_bytes(path: Path, name: str, suffix: str) -> bytes:
    if suffix not in SUFFIXES:
        raise DataError(f"{name} is of a kind that cannot be read", hint=f"Use a file of {', '.join(SUFFIXES)}")
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            limit = f"Split it, or keep a part of at most {MAX_BYTES / 1e9:.1f} GB"
            raise DataError(f"{name} is too large to read: it has {size / 1e9:.1f} GB", hint=limit)
        data = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or "it cannot be read").lower()
        raise DataError(f"{name} cannot be opened", reason, "Check the path and that you may read it") from None
    _check_disguise(data[:4096], name, suffix)
    return data


def _check_disguise(head: bytes, name: str, suffix: str) -> None:
    kind = binary_kind(head)
    if suffix == ".parquet":
        kind = "" if head.startswith(PARQUET_MAGIC) or not head else kind or text_kind(head) or "something else"
    elif not kind and suffix not in (".txt", ".md") and text_kind(head) == "a web page":
        kind = "a web page"
    if kind:
        raise _not_as_named(name, kind, f"Choose a file that really is {suffix}")


def _not_as_named(name: str, looks_like: str, hint: str) -> DataError:
    return DataError(f"{name} is not what its name says: it looks like {looks_like}", hint=hint)


# JSON


def _json_lines(text: str, name: str) -> Rows:
    _check_json_lines(text, name)
    for number, line in _lines(text):
        try:
            yield Row(number=number, values=_parse(line))
        except ValueError as error:
            title = f"Line {number} of {name} is not valid JSON: {_reason(error)}"
            yield Problem(row=number, title=title, hint="Correct the line or remove it")


def _check_json_lines(text: str, name: str) -> None:
    _, first = next(_lines(text), (1, ""))
    if not first or isinstance(_parsed(first), dict):
        return
    document = _parsed(text)
    if isinstance(document, (list, dict)):
        kind = "a JSON list" if isinstance(document, list) else "one JSON object over several lines"
        raise _not_as_named(name, kind, f"Rename it to {_renamed(name, '.json')}, or write one object a line")
    if _parsed(first) is None and not any(line.lstrip().startswith(("{", "[")) for _, line in _lines(text)):
        hint = "Rename it to .csv, .tsv or .txt, or write one object a line"
        raise _not_as_named(name, "a table or plain text", hint)


def _json_document(text: str, name: str) -> Rows:
    if not text.strip():
        return iter(())
    try:
        document = _parse(text)
    except ValueError as error:
        if _are_json_lines(text):
            raise _not_as_named(name, "JSON Lines", f"Rename it to {_renamed(name, '.jsonl')}") from None
        raise DataError(f"{name} is not valid JSON", _reason(error, with_line=True), "Correct the file") from None
    return rows_of_document(document, name)


def _check_not_json(text: str, name: str) -> None:
    if text.lstrip().startswith(("{", "[")) and (_parsed(text) is not None or _are_json_lines(text)):
        raise _not_as_named(name, "JSON", "Rename it to .json, or to .jsonl where it has one object a line")


def _are_json_lines(text: str) -> bool:
    """Whether the first two lines that are not blank are JSON objects."""
    lines = _lines(text)
    return all(isinstance(_parsed(next(lines, (0, ""))[1]), dict) for _ in range(2))


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers. Only `\\n` ends a line: JSON may hold U+2028 unescaped."""
    for number, line in enumerate(io.StringIO(text, newline="\n"), start=1):
        if not line.isspace():
            yield number, line.rstrip("\n")


def _parse(text: str) -> Any:
    """The JSON value of `text`. The standard parser gets a second try: it knows the NaN that Python writes.

    Raises:
        ValueError: `text` is not JSON.
    """
    try:
        return orjson.loads(text)
    except ValueError:
        pass
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _parsed(text: str) -> Any:
    try:
        return _parse(text)
    except ValueError:
        return None


def _reason(error: ValueError, with_line: bool = False) -> str:
    if not isinstance(error, json.JSONDecodeError):
        return str(error)
    line = f"line {error.lineno}, " if with_line else ""
    return f"{error.msg.removesuffix(' at')} at {line}column {error.colno}"


def _renamed(name: str, suffix: str) -> str:
    return Path(name).with_suffix(suffix).name


# Tables and text


def _comma_table(text: str, name: str) -> Rows:
    return _table(text, name, ",")


def _tab_table(text: str, name: str) -> Rows:
    return _table(text, name, "\t")


def _table(text: str, name: str, usual: str) -> Rows:
    """Rows numbered by the line they begin on, as a spreadsheet does, the header being line 1."""
    _check_not_json(text, name)
    csv.field_size_limit(2**31 - 1)  # the default refuses cells above 128 kB; a long document is no mistake
    reader = csv.reader(io.StringIO(text, newline="\n"), delimiter=_delimiter(text, usual), strict=True)
    columns = _header(reader, name)
    yield from _table_rows(reader, columns, name)


def _delimiter(text: str, usual: str) -> str:
    """The delimiter that gives the header the most cells; `usual` where several do."""
    _, header = next(_lines(text), (1, ""))
    candidates = usual + _DELIMITERS.replace(usual, "")
    return max(candidates, key=lambda delimiter: _count_cells(header, delimiter))


def _count_cells(header: str, delimiter: str) -> int:
    """How many cells a header has by a delimiter; none where it cannot be read, which is told when it is."""
    try:
        return len(next(csv.reader([header], delimiter=delimiter), []))
    except csv.Error:
        return 0


def _header(reader: Any, name: str) -> list[str]:
    try:
        cells = [cell.strip() for cell in next((cells for cells in reader if cells), [])]
    except csv.Error as error:
        hint = "Correct its quotes and line ends"
        raise DataError(f"The header of {name} cannot be read", _in_our_words(error), hint) from None
    named = [cell for cell in cells if cell]
    if repeated := next((cell for cell in named if named.count(cell) > 1), ""):
        raise DataError(f"{name} has two columns named {repeated!r}", hint="Rename or remove one of them")
    return cells


def _table_rows(reader: Any, columns: list[str], name: str) -> Rows:
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield _broken_cells(start, name, _in_our_words(error))
            continue
        if cells is None:
            return
        if len(cells) == len(columns):
            named = {column: cell for column, cell in zip(columns, cells, strict=True) if column}
            yield Row(number=start, values=named)
        elif cells:
            title = f"Line {start} of {name} has {len(cells)} cells where the header has {len(columns)}"
            yield Problem(row=start, title=title, hint="Put cells that hold the delimiter in double quotes")


def _in_our_words(error: csv.Error) -> str:
    """What is wrong with a line; the library gives advice to programmers."""
    said = str(error)
    if "end of data" in said:
        return "a quote is opened and never closed"
    return "a carriage return stands alone, outside of quotes" if "new-line character" in said else said


def _broken_cells(line: int, name: str, reason: str) -> Problem:
    title = f"Line {line} of {name} is not valid CSV: {reason}"
    return Problem(row=line, title=title, hint="Correct its quotes: a quote inside a quoted cell is written twice")


def _paragraphs(text: str, name: str) -> Rows:
    """Paragraphs as rows with a `text` column, numbered by the line they begin on."""
    _check_not_json(text, name)
    paragraph: list[str] = []
    last = 0
    for number, line in _lines(text):
        if paragraph and number > last + 1:
            yield Row(number=last + 1 - len(paragraph), values={"text": "\n".join(paragraph)})
            paragraph = []
        paragraph.append(line)
        last = number
    if paragraph:
        yield Row(number=last + 1 - len(paragraph), values={"text": "\n".join(paragraph)})


# Parquet


def _parquet_rows(data: bytes, name: str) -> Rows:
    import pyarrow  # lazily: few files need it, and it is large

    from core.data.unpacked import unpacked_bytes

    number = size = 0
    try:
        file = _parquet_file(data, name) if data else None
        for batch in file.iter_batches(batch_size=1024) if file else ():
            size += sum(unpacked_bytes(column) for column in batch.columns)
            _check_unpacked_size(size, name)
            for values in batch.to_pylist():
                number += 1
                yield Row(number=number, values=values)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{name} is damaged", f"after row {number}: {error}", "Write the Parquet file again") from None


def _parquet_file(data: bytes, name: str) -> Any:
    """The opened file, which gives text as the dictionaries that it lies in."""
    import pyarrow
    from pyarrow import parquet

    from core.data.unpacked import text_columns

    file = parquet.ParquetFile(pyarrow.BufferReader(data))
    groups = range(file.metadata.num_row_groups)
    _check_unpacked_size(sum(file.metadata.row_group(group).total_byte_size for group in groups), name)
    return parquet.ParquetFile(pyarrow.BufferReader(data), read_dictionary=text_columns(file))


def _check_unpacked_size(size: int, name: str) -> None:
    if size > MAX_BYTES:
        limit = f"Split it, or keep a part of at most {MAX_BYTES / 1e9:.1f} GB"
        raise DataError(f"{name} is too large to read: it unpacks to more than {MAX_BYTES / 1e9:.1f} GB", hint=limit)


_TEXT_FORMATS: dict[str, tuple[str, Callable[[str, str], Rows]]] = {
    ".jsonl": ("JSON Lines", _json_lines),
    ".ndjson": ("JSON Lines", _json_lines),
    ".json": ("JSON", _json_document),
    ".csv": ("CSV", _comma_table),
    ".tsv": ("TSV", _tab_table),
    ".txt": ("plain text", _paragraphs),
    ".md": ("plain text", _paragraphs),
}
SUFFIXES = (*_TEXT_FORMATS, ".parquet")
