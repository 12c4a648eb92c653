"""What passes between the file formats and the row formats: rows as they were found, and what is wrong with some."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of a file before its meaning is known; `values` is a dict of columns wherever the row is sound."""

    number: int
    values: object


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why one row cannot be trained on, told as in `UserError`; `row` counts as `source_row` does."""

    row: int
    title: str
    hint: str


class BadRow(Exception):
    """Raised on a row that cannot become a record. `what` completes the sentence that begins `Row 41 …`."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint


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
