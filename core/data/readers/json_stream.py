"""The rows of one large JSON document, of which no more is held than a row.

The standard parser tells where a value ends that begins at some place of a text. So the text is a window: where a value
does not end in it, more is put behind it, and the value is tried again; what has been read falls off its front. The
list of rows is the document itself or, where that is an object, its one list of objects. Whatever is needed whole (an
object of columns, a single conversation) is refused above `MAX_ROW_BYTES`, with what to write in its place.

Compared with ijson on its C parser, this is as fast to a sixth, and one dependency less.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

from core.data.readers.documents import CHAT_COLUMNS, is_turn
from core.data.readers.sources import MAX_ROW_BYTES
from core.data.rows import Row
from core.errors import DataError

_BLANKS = re.compile(r"[ \t\n\r]*")
_CUT_LETTERS = 20  # within which an error may only be that a number, a word or an escape is cut
_WRITE_LINES = "Write it as JSON Lines: one row a line, in a file that ends in .jsonl"


def streamed_rows(blocks: Iterator[bytes], name: str) -> Iterator[Row]:
    """The rows of the document in `blocks` of UTF-8, numbered from 1.

    Raises:
        DataError: it is not JSON, or holds no list of rows, or several; perhaps only after some rows.
    """
    document = _Window(blocks, name)
    match document.peek():
        case "[":
            rows = _items(document)
        case "{":
            rows = _listed_in_object(document, name)
        case _:
            raise DataError(f"{name} holds no rows: it is a single value", hint="Write a list of objects")
    for number, values in enumerate(rows, start=1):
        document.row = number
        yield Row(number=number, values=values)
    document.expect_end()


def is_list_of_objects(head: str) -> bool:
    """Whether a text begins as a JSON list does whose first item is an object."""
    start = _BLANKS.match(head)
    at = start.end() if start else 0
    begun = _BLANKS.match(head, at + 1)
    if head[at : at + 1] != "[" or not begun:
        return False
    try:
        return isinstance(json.JSONDecoder().raw_decode(head, begun.end())[0], dict)
    except (ValueError, RecursionError):
        return False


def _items(document: _Window) -> Iterator[Any]:
    """The items of the list that comes next."""
    document.take("[")
    if document.peek() == "]":
        document.take("]")
        return
    while True:
        yield document.value()
        if document.take(",", "]") == "]":
            return


def _keys(document: _Window) -> Iterator[str]:
    """The keys of the object that comes next. The caller takes the value of each before it asks for another."""
    document.take("{")
    if document.peek() == "}":
        document.take("}")
        return
    while True:
        if document.peek() != '"':
            raise document.broken("Expecting a name in double quotes")
        key = str(document.value())
        document.take(":")
        yield key
        if document.take(",", "}") == "}":
            return


def _listed_in_object(document: _Window, name: str) -> Iterator[Any]:
    """The items of the one list of objects in the object that comes next, by the rules of `documents`."""
    found: list[str] = []
    keys = lists = 0
    for key in _keys(document):
        keys += 1
        lists += document.peek() == "["
        if not document.is_list_of_objects():
            document.value(_columns(name))
            continue
        found.append(key)
        if len(found) > 1:
            raise DataError(f"{name} holds several lists of rows", ", ".join(found), "Keep one of them a file")
        for item in _items(document):
            if key in CHAT_COLUMNS and is_turn(item):
                raise DataError(f"{name} is a single conversation, and too long to be one", hint=_WRITE_LINES)
            yield item
    if not found or 1 < lists == keys:
        raise _columns(name)


def _columns(name: str) -> DataError:
    title = f"{name} holds no list of rows that could be read piece by piece, and is too large to be read whole"
    return DataError(title, "columns are read up to 64 MB", _WRITE_LINES)


class _Window:
    """The part of a document that is being read: what is before it is forgotten, what comes after is still to come.

    `row` is the number of rows that have been read, for messages.
    """

    def __init__(self, blocks: Iterator[bytes], name: str) -> None:
        self.row = 0
        self._blocks, self._name = blocks, name
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._parse = json.JSONDecoder().raw_decode
        self._text, self._at = "", 0
        self._lines = self._column = 0  # before the window

    def peek(self) -> str:
        """The next character that is not blank; an empty string at the end."""
        while True:
            self._at = self._after_blanks(self._at)
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._grow():
                return ""

    def is_list_of_objects(self) -> bool:
        """Whether a list comes next whose first item is an object."""
        if self.peek() != "[":
            return False
        while (inside := self._after_blanks(self._at + 1)) >= len(self._text):
            if not self._grow():
                return False
        return self._text[inside] == "{"

    def take(self, *expected: str) -> str:
        """Go past the next character, which has to be one of `expected`."""
        found = self.peek()
        if found not in expected:
            raise self.broken(f"Expecting {' or '.join(expected)}")
        self._at += 1
        return found

    def value(self, too_long: DataError | None = None) -> Any:
        """Go past the next value. `too_long` is raised where it does not end."""
        self.peek()
        while True:
            try:
                value, end = self._parse(self._text, self._at)
            except RecursionError:
                raise self.broken("it is nested too deeply") from None
            except ValueError as error:
                place = getattr(error, "pos", self._at)
                is_cut = str(error).startswith("Unterminated string") or place > len(self._text) - _CUT_LETTERS
                if is_cut and self._grow_for_value(too_long):
                    continue
                raise self.broken(getattr(error, "msg", str(error)).removesuffix(" at"), place) from None
            if end == len(self._text) and self._grow_for_value(too_long):
                continue  # the digits of a number may go on
            if end - self._at > MAX_ROW_BYTES:
                raise too_long or self._too_long()
            self._at = end
            return value

    def expect_end(self) -> None:
        """Refuse a document behind which something else stands."""
        if self.peek():
            raise self.broken("Extra data")

    def broken(self, what: str, place: int | None = None) -> DataError:
        """What is said of a mistake at `place`, or here."""
        before = self._text[: self._at if place is None else place]
        line = self._lines + before.count("\n") + 1
        column = len(before) - before.rfind("\n") + (0 if "\n" in before else self._column)
        where = f"{what} at line {line:,}, column {column:,}" + (f", after row {self.row:,}" if self.row else "")
        return DataError(f"{self._name} is not valid JSON", where, "Correct the file")

    def _after_blanks(self, at: int) -> int:
        found = _BLANKS.match(self._text, at)
        return found.end() if found else at

    def _grow_for_value(self, too_long: DataError | None) -> bool:
        """At least double what is known of a value, so that trying it again and again costs no more than reading it."""
        known = len(self._text) - self._at
        if known > MAX_ROW_BYTES:
            raise too_long or self._too_long()
        has_grown = False
        while len(self._text) - self._at < 2 * known and self._grow():
            has_grown = True
        return has_grown

    def _too_long(self) -> DataError:
        title = f"Row {self.row + 1:,} of {self._name} is longer than {MAX_ROW_BYTES >> 20} MB"
        return DataError(title, hint=_WRITE_LINES)

    def _grow(self) -> bool:
        """Put the next block behind the window, and forget what has been read; False at the end."""
        block = next(self._blocks, None)
        if block is None:
            return False
        read = self._text[: self._at]
        self._lines += read.count("\n")
        self._column = len(read) - read.rfind("\n") - 1 + (0 if "\n" in read else self._column)
        self._text, self._at = self._text[self._at :] + self._decoder.decode(block), 0
        return True
