"""Text files: their encoding, their first part at a glance, and their lines as a stream.

Only `\\n` ends a line here (other breaks have become one): JSON may hold U+2028 unescaped, and a cell a form feed.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, MutableSequence
from dataclasses import dataclass
from typing import TypeAlias

from core.data.readers.decoding import Encoding, decode_head, detect, utf8_blocks
from core.data.readers.sources import HEAD_BYTES, MAX_ROW_BYTES, Source
from core.data.rows import Problem, Row

Remarks: TypeAlias = MutableSequence[str]
Rows: TypeAlias = Iterator[Row | Problem]
Lines: TypeAlias = list[bytes | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A source of text.

    Args:
        head: its beginning, decoded.
        is_whole: whether that is all.
        remarks: what is noticed about the file, also later while it is read.
    """

    source: Source
    encoding: Encoding
    head: str
    is_whole: bool
    remarks: Remarks

    @property
    def name(self) -> str:
        """What errors call the file."""
        return self.source.name

    def blocks(self) -> Iterator[bytes]:
        """All of it as UTF-8, in blocks that end between characters.

        Raises:
            DataError: a byte that is no text, with its place.
        """
        return utf8_blocks(self.source.blocks(), self.encoding, self.name, self.remarks.append)

    def lines(self) -> Iterator[tuple[int, Lines]]:
        """All its lines without their ends, many at a time, with the number of the first of them.

        A line of more than `MAX_ROW_BYTES` is None, whatever it holds.
        """
        number, begun = 1, _Begun()
        for block in self.blocks():
            first, *others = block.split(b"\n")
            begun.add(first)
            if not others:
                continue
            lines: Lines = [begun.take(), *others[:-1]]
            begun.add(others[-1])
            yield number, lines
            number += len(lines)
        if begun.size:
            yield number, [begun.take()]

    def head_lines(self) -> Iterator[tuple[int, str]]:
        """The lines of the head that are not blank, with their numbers; the last may be cut."""
        for number, line in enumerate(io.StringIO(self.head, newline="\n"), start=1):
            if not line.isspace():
                yield number, line.rstrip("\n")


class _Begun:
    """A line whose end has not come yet."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.size = 0

    def add(self, part: bytes) -> None:
        self.size += len(part)
        if self.size <= MAX_ROW_BYTES:
            self._parts.append(part)
        else:
            self._parts.clear()

    def take(self) -> bytes | None:
        line = b"".join(self._parts) if self.size <= MAX_ROW_BYTES else None
        self._parts, self.size = [], 0
        return line


def open_text(source: Source, remarks: Remarks) -> Text:
    """The text of `source`.

    Raises:
        DataError: it cannot be opened, or is text in no encoding that is known.
    """
    raw = source.head()
    is_whole = len(raw) < HEAD_BYTES
    encoding = detect(raw, is_whole, source.name)
    if encoding.is_guessed:
        remarks.append(f"read as {encoding.common_name}")
    head = decode_head(raw, encoding, is_whole, source.name)
    return Text(source=source, encoding=encoding, head=head, is_whole=is_whole, remarks=remarks)


def too_long(number: int, name: str, what: str = "Line") -> Problem:
    """What is said of a row that is too long to be one."""
    title = f"{what} {number} of {name} is longer than {MAX_ROW_BYTES >> 20} MB"
    return Problem(row=number, title=title, hint="Split it, or correct what makes it so long")
