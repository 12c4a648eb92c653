"""A run's whole history as a table: a row for each step, and for what was measured before the first one.

Where a run was resumed, what it had done beyond its checkpoint is left out, as it did that again. The cells are
numbers, or empty: a table can be opened by a spreadsheet, and nothing in it can be a formula.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import orjson

from core.events import EvalDone, Started
from jobs.history import Steps, Told

STEP_COLUMNS = (
    "step", "epoch", "loss", "learning_rate", "grad_norm", "tokens", "seconds", "rss_bytes", "device_bytes", "is_spike",
    "time",
)  # fmt: skip
EVAL_COLUMNS = ("eval_loss", "accuracy", "token_accuracy")
COLUMNS = (*STEP_COLUMNS, *EVAL_COLUMNS)

Row = dict[str, Any]


def rows(told: Iterable[Told]) -> list[Row]:
    """The rows in order of their steps, each with all of `COLUMNS`."""
    found: list[Row] = []
    for each in told:
        if isinstance(each, Steps):
            columns = [getattr(each, name) for name in STEP_COLUMNS]
            found += [dict(zip(STEP_COLUMNS, values, strict=True)) for values in zip(*columns, strict=True)]
        elif isinstance(each, Started):
            _cut(found, each.first_step)
        elif isinstance(each, EvalDone):
            _measured(found, each)
    return [{name: row.get(name) for name in COLUMNS} for row in found]


def _cut(found: list[Row], first_step: int) -> None:
    """Drop what an attempt that begins with `first_step` does again; one that begins anew does all of it again."""
    first = first_step if first_step > 1 else 0
    while found and found[-1]["step"] >= first:
        found.pop()


def _measured(found: list[Row], event: EvalDone) -> None:
    """Put what was measured into its step's row."""
    if not found or found[-1]["step"] != event.step:
        found.append({"step": event.step})
    found[-1] |= {"eval_loss": event.loss, "accuracy": event.accuracy, "token_accuracy": event.token_accuracy}


def as_csv(table: Sequence[Row]) -> Iterator[str]:
    """The lines of the table, ended by line feeds, with the columns' names first."""
    yield ",".join(COLUMNS) + "\n"
    for row in table:
        yield ",".join(map(_cell, row.values())) + "\n"


def as_json(table: Sequence[Row]) -> Iterator[str]:
    """The table as JSON: a list with an object a row, each on a line of its own."""
    yield "["
    for number, row in enumerate(table):
        yield ("," if number else "") + "\n" + orjson.dumps(row).decode()
    yield "\n]\n"


def _cell(value: float | bool | None) -> str:
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, bool) else repr(value)
