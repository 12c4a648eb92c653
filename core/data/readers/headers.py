"""What the first rows of a table tell: what stands between its cells, and whether they begin with column names.

Between cells stands what gives the following rows as many cells as the first, not what is frequent: prose is full of
commas. A first row is taken for data only where something in it is hardly a name: a number, a whole sentence, a word
that comes again further down in its column.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from core.errors import DataError

NO_HEADER = "no line with column names was found: the columns were numbered"
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_NOTHING = "\x1f"  # which no cell holds
_ROWS_TO_COMPARE = 100
_LONGEST_NAME = 80
_NUMBER = re.compile(r"[-+]?\d+([.,]\d+)?")
_SENTENCE_END = re.compile(r"\s.*[.!?…。！？؟][\"'”’)]?$", re.DOTALL)
_USUAL_NAMES = frozenset(
    {"prompt", "completion", "question", "answer", "instruction", "input", "output", "response", "query", "system",
     "context", "messages", "conversations", "conversation", "chosen", "rejected", "text", "label", "labels",
     "sentence", "title", "content", "review", "comment", "tweet", "message", "body", "headline", "class", "category",
     "sentiment",
     "emotion", "intent", "topic", "id", "index", "name", "source", "target", "premise", "hypothesis", "language"}
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Separator:
    """What stands between the cells of a table; `remark` where that is not what its name says."""

    sign: str
    remark: str = ""


def find_separator(lines: Iterable[str], usual: str) -> Separator:
    """What stands between the cells of a table that begins with `lines`; `usual` where nothing speaks against it."""
    lines = list(lines)
    rows = {sign: _sample(lines, sign) for sign in (usual, *(sign for sign in _SEPARATORS if sign != usual))}
    several = [sign for sign in rows if rows[sign] and len(rows[sign][0]) > 1]
    if several:
        best = max(several, key=lambda sign: (_agreement(rows[sign]), len(rows[sign][0])))
        return Separator(sign=best, remark="" if best == usual else f"{_SEPARATORS[best]} between cells")
    if len(rows[usual]) > 1 and _agreement(rows[usual]) < 1:
        return Separator(sign=_NOTHING, remark=f"one column; {_SEPARATORS[usual]} in its cells are part of the text")
    return Separator(sign=usual)


def _sample(lines: list[str], sign: str) -> list[list[str]]:
    """The first rows that are not blank, as far as they can be read."""
    rows: list[list[str]] = []
    try:
        for cells in csv.reader(lines, delimiter=sign):
            if cells:
                rows.append(cells)
            if len(rows) > _ROWS_TO_COMPARE:
                break
    except csv.Error:
        return rows
    return rows


def _agreement(rows: list[list[str]]) -> float:
    """The share of rows that have as many cells as the first one; one where there are no others."""
    first, *others = rows
    return sum(len(cells) == len(first) for cells in others) / len(others) if others else 1.0


def sample_rows(lines: Iterable[str], separator: Separator) -> list[list[str]]:
    """The first rows of a table, for `has_header`."""
    return _sample(list(lines), separator.sign)


def has_header(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first of `rows` holds names of columns; true where nothing speaks against it."""
    if not rows:
        return True
    first, *others = rows
    if any(cell.strip().lower() in _USUAL_NAMES for cell in first):
        return True
    return not any(_is_no_name(cell) for cell in first) and not any(_comes_again(first, others))


def _is_no_name(cell: str) -> bool:
    text = cell.strip()
    return bool(len(text) > _LONGEST_NAME or "\n" in text or _NUMBER.fullmatch(text) or _SENTENCE_END.search(text))


def _comes_again(first: Sequence[str], others: Sequence[Sequence[str]]) -> Iterator[bool]:
    for at, cell in enumerate(first):
        yield bool(cell.strip()) and any(len(row) > at and row[at] == cell for row in others)


def numbered_columns(count: int) -> list[str]:
    """Names for columns that have none: the text itself where it is all there is."""
    return ["text"] if count == 1 else [f"column {number}" for number in range(1, count + 1)]


def checked_header(cells: Sequence[str], name: str) -> list[str]:
    """The names of columns, which may be empty.

    Raises:
        DataError: two are the same.
    """
    columns = [cell.strip() for cell in cells]
    named = [column for column in columns if column]
    if repeated := next((column for column in named if named.count(column) > 1), ""):
        raise DataError(f"{name} has two columns named {repeated!r}", hint="Rename or remove one of them")
    return columns
