"""Rows out of JSON: one object a line, or one document that holds them all.

A line is handed to the parser as the bytes that it is, which checks them itself; nothing else touches it. A document is
parsed whole while it is small. A large one is gone through piece by piece (`core.data.readers.json_stream`), which
finds the rows of a list, but cannot turn columns into rows.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from core.data.readers.documents import rows_of_document
from core.data.readers.json_stream import is_list_of_objects, streamed_rows
from core.data.readers.texts import Rows, Text, too_long
from core.data.rows import Problem, Row
from core.errors import DataError

WHOLE_DOCUMENT_BYTES = 64 << 20


def json_lines(text: Text) -> Rows:
    """The rows of a file with one JSON object a line, numbered by line.

    Raises:
        DataError: it is something else than JSON Lines.
    """
    _check_json_lines(text)
    numbered = (line for first, lines in text.lines() for line in enumerate(lines, first))
    return rows_of_lines(numbered, text.name)


def rows_of_lines(numbered: Iterable[tuple[int, bytes | None]], name: str) -> Rows:
    """What lines of a file `name` hold; each comes with its number, and is None where it is too long."""
    parse = orjson.loads
    for number, line in numbered:
        try:
            values = parse(line)  # type: ignore[arg-type]  # a line that is too long (None) is refused as well
        except ValueError:
            yield from _second_try(line, number, name)
        else:
            yield Row(number=number, values=values)


def _second_try(line: bytes | None, number: int, name: str) -> Rows:
    """What a line holds that is not plain JSON: nothing, the NaN that Python writes, or a mistake."""
    if line is None:
        yield too_long(number, name)
        return
    content = line.decode()
    if not content or content.isspace():
        return
    try:
        yield Row(number=number, values=parse_json(content))
    except ValueError as error:
        title = f"Line {number} of {name} is not valid JSON: {_reason(error)}"
        yield Problem(row=number, title=title, hint="Correct the line or remove it")


def _check_json_lines(text: Text) -> None:
    _, first = next(text.head_lines(), (1, ""))
    if not first or isinstance(_parsed(first), dict):
        return
    if kind := _document_kind(text):
        raise not_as_named(text.name, kind, "Rename it so that it ends in .json, or write one object a line")
    if _parsed(first) is None and not any(line.lstrip().startswith(("{", "[")) for _, line in text.head_lines()):
        hint = "Rename it so that it ends in .csv, .tsv or .txt, or write one object a line"
        raise not_as_named(text.name, "a table or plain text", hint)


def _document_kind(text: Text) -> str:
    """What a text is that is one JSON document; an empty string for all else, as far as its head tells."""
    document = _parsed(text.head) if text.is_whole else None
    if isinstance(document, list) or (not text.is_whole and is_list_of_objects(text.head)):
        return "a JSON list"
    is_begun = not text.is_whole and next(text.head_lines(), (1, ""))[1].strip() == "{"
    return "one JSON object over several lines" if isinstance(document, dict) or is_begun else ""


def json_document(text: Text) -> Rows:
    """The rows of a JSON document, numbered from 1.

    Raises:
        DataError: it is not JSON, or holds no rows.
    """
    blocks = text.blocks()
    begin: list[bytes] = []
    for block in blocks:
        begin.append(block)
        if sum(map(len, begin)) > WHOLE_DOCUMENT_BYTES:
            _check_not_lines(text)
            return streamed_rows(itertools.chain(begin, blocks), text.name)
    return _rows_of_whole(b"".join(begin).decode(), text)


def _rows_of_whole(content: str, text: Text) -> Iterator[Row]:
    if not content.strip():
        return iter(())
    try:
        document = parse_json(content)
    except ValueError as error:
        _check_not_lines(text)
        raise DataError(f"{text.name} is not valid JSON", _reason(error, with_line=True), "Correct the file") from None
    return rows_of_document(document, text.name)


def _check_not_lines(text: Text) -> None:
    if _are_json_lines(text):
        raise not_as_named(text.name, "JSON Lines", "Rename it so that it ends in .jsonl")


def check_not_json(text: Text) -> None:
    """Refuse what is called a table or plain text, and is JSON.

    Raises:
        DataError: it is.
    """
    if not text.head.lstrip().startswith(("{", "[")):
        return
    if (text.is_whole and _parsed(text.head) is not None) or is_list_of_objects(text.head) or _are_json_lines(text):
        hint = "Rename it so that it ends in .json, or in .jsonl where it has one object a line"
        raise not_as_named(text.name, "JSON", hint)


def _are_json_lines(text: Text) -> bool:
    """Whether the first two lines that are not blank are JSON objects."""
    lines = text.head_lines()
    return all(isinstance(_parsed(next(lines, (0, ""))[1]), dict) for _ in range(2))


def not_as_named(name: str, looks_like: str, hint: str) -> DataError:
    """What is said of a file whose content is something else than its suffix says."""
    return DataError(f"{name} is not what its name says: it looks like {looks_like}", hint=hint)


def parse_json(text: str) -> Any:
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
        return parse_json(text)
    except ValueError:
        return None


def _reason(error: ValueError, with_line: bool = False) -> str:
    if not isinstance(error, json.JSONDecodeError):
        return str(error)
    line = f"line {error.lineno}, " if with_line else ""
    return f"{error.msg.removesuffix(' at')} at {line}column {error.colno}"
