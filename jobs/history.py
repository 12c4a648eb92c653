"""A run's events read many at a time: the steps of a long run as columns of numbers, all else one by one.

A run of 100,000 steps has as many lines. Made into an event each, checked by pydantic, they take seconds; as columns,
parsed in blocks by orjson and checked column by column, a fraction of one (`benchmarks/pages.py` says which). What is
in no block goes the slow way, by which each line is judged alone: one that is cut short or holds no event is skipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

import orjson

from core.events import Event, StepDone
from jobs.journal import parse_event, read_lines

BLOCK_LINES = 4096
_STEP = "step"


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """Steps that follow one another, as columns of equal length; each is as `StepDone` says. `time` is when the step
    was written down, in Unix seconds.
    """

    step: Sequence[int]
    epoch: Sequence[float]
    loss: Sequence[float]
    learning_rate: Sequence[float]
    grad_norm: Sequence[float]
    tokens: Sequence[int]
    seconds: Sequence[float]
    rss_bytes: Sequence[int]
    device_bytes: Sequence[int | None]
    is_spike: Sequence[bool]
    time: Sequence[float | None]

    def __len__(self) -> int:
        return len(self.step)


Told: TypeAlias = Event | Steps

_NUMBERS, _NOTHING = {int, float}, type(None)
_DEFAULTS = {"device_bytes": None, "is_spike": False, "time": None}
_NEEDED = tuple(each.name for each in fields(Steps) if each.name not in _DEFAULTS)
_KINDS: dict[str, set[type]] = {
    **dict.fromkeys(_NEEDED, _NUMBERS), **dict.fromkeys(("step", "tokens", "rss_bytes"), {int}),
    "device_bytes": {int, _NOTHING}, "is_spike": {bool}, "time": {*_NUMBERS, _NOTHING},
}  # fmt: skip


def read_history(path: Path, offset: int = 0) -> tuple[tuple[Told, ...], int]:
    """What the whole lines of `path` from byte `offset` on tell, and the offset to go on from.

    A file that is not there holds nothing yet.
    """
    lines, offset = read_lines(path, offset)
    blocks = (lines[start : start + BLOCK_LINES] for start in range(0, len(lines), BLOCK_LINES))
    return tuple(told for block in blocks for told in _read_block(block)), offset


def one_step(event: StepDone, time: float | None = None) -> Steps:
    """A single step as columns."""
    columns: dict[str, Any] = {each.name: (getattr(event, each.name),) for each in fields(Steps) if each.name != "time"}
    return Steps(**columns, time=(time,))


def _read_block(lines: list[bytes]) -> Iterator[Told]:
    values = _parsed(lines)
    if values is None:
        yield from _one_by_one(lines)
        return
    start = 0
    for at in range(len(lines) + 1):
        if at < len(lines) and values[at].get("event") == _STEP:
            continue
        if at > start:
            yield from _steps(values[start:at], lines[start:at])
        yield from _one_by_one(lines[at : at + 1])
        start = at + 1


def _parsed(lines: list[bytes]) -> list[dict[str, Any]] | None:
    """Each line's values; None where one is no object, or cut short."""
    try:
        values: list[Any] = orjson.loads(b"[" + b",".join(lines) + b"]")
    except orjson.JSONDecodeError:
        return None
    return values if len(values) == len(lines) and set(map(type, values)) <= {dict} else None


def _steps(values: list[dict[str, Any]], lines: list[bytes]) -> Iterator[Told]:
    """The columns; or, where a value is missing or of another kind, what can be made of each line alone."""
    try:
        columns: dict[str, list[Any]] = {name: [each[name] for each in values] for name in _NEEDED}
    except KeyError:
        yield from _one_by_one(lines)
        return
    columns |= {name: [each.get(name, default) for each in values] for name, default in _DEFAULTS.items()}
    if all(set(map(type, columns[name])) <= kinds for name, kinds in _KINDS.items()):
        yield Steps(**columns)
    else:
        yield from _one_by_one(lines)


def _one_by_one(lines: list[bytes]) -> Iterator[Told]:
    for line in lines:
        event = parse_event(line)
        if isinstance(event, StepDone):
            yield one_step(event)
        elif event is not None:
            yield event
