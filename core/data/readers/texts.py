"""Text files: their encoding, their first part at a glance, and their lines as a stream.

Only `\\n` ends a line here (other breaks have become one): JSON may hold U+2028 unescaped, and a cell a form feed.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, MutableSequence
from dataclasses import dataclass
from typing import TypeAlias

from core.data.readers.decoding import Encoding, decode_head, detect, utf8_blocks
from core.data.readers.sources import BLOCK_BYTES, HEAD_BYTES, MAX_ROW_BYTES, Source
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
        for number, block in self.line_blocks(BLOCK_BYTES):
            yield number, [None] if block is None else list(block[:-1].split(b"\n"))

    def line_blocks(self, size: int) -> Iterator[tuple[int, bytes | None]]:
        """All its lines, each with its end, in blocks of at least `size` bytes where there are so many, with the number
        of the first of them.

        A line of more than `MAX_ROW_BYTES` is None, in place of a block.
        """
        number, gathered, count = 1, list[bytes | memoryview](), 0
        for part in _whole_lines(self.blocks()):
            if part is not None:
                gathered.append(part)
                count += len(part)
            if count and (part is None or count >= size):
                block = b"".join(gathered)
                yield number, block
                number, gathered, count = number + block.count(b"\n"), [], 0
            if part is None:
                yield number, None
                number += 1
        if count:
            yield number, b"".join(gathered)

    def head_lines(self) -> Iterator[tuple[int, str]]:
        """The lines of the head that are not blank, with their numbers; the last may be cut."""
        for number, line in enumerate(io.StringIO(self.head, newline="\n"), start=1):
            if not line.isspace():
                yield number, line.rstrip("\n")


def _whole_lines(blocks: Iterator[bytes]) -> Iterator[bytes | memoryview | None]:
    """The same bytes, cut behind ends of lines alone, of which the last line gets one; None for a line too long."""
    begun = _Begun()
    for block in blocks:
        end, cut = block.find(b"\n"), block.rfind(b"\n") + 1
        if not cut:
            begun.add(block)
            continue
        begun.add(block[:end])
        line = begun.take()
        yield None if line is None else line + b"\n"
        yield memoryview(block)[end + 1 : cut]
        begun.add(block[cut:])
    if begun.size:
        line = begun.take()
        yield None if line is None else line + b"\n"


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
