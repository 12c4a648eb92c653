"""What passes between the file formats and the row formats: rows as they were found, and what is wrong with some."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Fault: TypeAlias = Literal["unreadable", "empty", "missing_answers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of a file before its meaning is known; `values` is a dict of columns wherever the row is sound."""

    number: int
    values: object


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why one row cannot be trained on, told as in `UserError`; `row` counts as `source_row` does, and `fault` is its
    kind among those of `core.data.health.report`.
    """

    row: int
    title: str
    hint: str
    fault: Fault = "unreadable"


class BadRow(Exception):
    """Raised on a row that cannot become a record. `what` completes the sentence that begins `Row 41 …`, `fault` is as
    that of a `Problem`.
    """

    def __init__(self, what: str, hint: str, fault: Fault = "unreadable") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint
        self.fault = fault


def problem_of(row: Row, error: BadRow) -> Problem:
    """Why `row` cannot be trained on."""
    return Problem(row=row.number, title=f"Row {row.number} {error.what}", hint=error.hint, fault=error.fault)


def kind_of(value: object) -> str:
    """What `value` is, in a reader's words, such as `a number`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    return "text" if isinstance(value, str) else f"of type {type(value).__name__}"
