"""Rows out of plain text and Markdown: paragraphs, numbered by the line they begin on."""

from __future__ import annotations

from core.data.readers.json_rows import check_not_json
from core.data.readers.sources import MAX_ROW_BYTES
from core.data.readers.texts import Rows, Text, too_long
from core.data.rows import Row


def paragraphs(text: Text) -> Rows:
    """The paragraphs of a text as rows with a `text` column; blank lines stand between them.

    Raises:
        DataError: it is JSON.
    """
    check_not_json(text)
    return _paragraphs(text)


def _paragraphs(text: Text) -> Rows:
    lines: list[str] = []
    begin = size = 0
    for first, batch in text.lines():
        for number, raw in enumerate(batch, first):
            line = "" if raw is None else raw.decode()
            if raw is not None and (not line or line.isspace()):
                yield from _paragraph(lines, begin, size, text.name)
                lines, size = [], 0
                continue
            begin = begin if size else number
            size += MAX_ROW_BYTES + 1 if raw is None else len(raw) + 1
            if size <= MAX_ROW_BYTES:
                lines.append(line)
            else:
                lines.clear()
    yield from _paragraph(lines, begin, size, text.name)


def _paragraph(lines: list[str], begin: int, size: int, name: str) -> Rows:
    if size > MAX_ROW_BYTES:
        yield too_long(begin, name, "The paragraph from line")
    elif size:
        yield Row(number=begin, values={"text": "\n".join(lines)})
