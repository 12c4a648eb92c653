"""The queue as SQL: which runs wait and which are active, in which order they are started, where a place is free."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, func, select

from jobs import tables
from jobs.states import ACTIVE_STATES

IS_ACTIVE = tables.runs.c.state.in_(ACTIVE_STATES)
QUEUE = (tables.runs.c.priority.desc(), tables.runs.c.queued_at, tables.runs.c.id)
WAITING = select(tables.runs).filter_by(state="queued").order_by(*QUEUE)


def apart(times: Sequence[float]) -> Iterator[float]:
    """`times`, which ascend, each later than the one before."""
    last = -math.inf
    for time_ in times:
        last = max(time_, math.nextafter(last, math.inf))
        yield last


def at_the_end(connection: Connection, now: float) -> float:
    """When a run is queued that is: now, but behind all that wait, though somebody has set the clock back."""
    last = connection.execute(select(func.max(tables.runs.c.queued_at)).filter_by(state="queued")).scalar()
    return now if last is None else max(now, math.nextafter(last, math.inf))


def free(connection: Connection, devices: Sequence[str]) -> tuple[str, ...]:
    """Those of `devices` that have no run; none while an older workbench's run is active, which had no device."""
    taken = set(connection.execute(select(tables.runs.c.device).where(IS_ACTIVE)).scalars())
    return tuple(device for device in devices if device not in taken) if None not in taken else ()


def one(connection: Connection, query: Select[Any]) -> RowMapping | None:
    """The first row, if there is any."""
    return connection.execute(query.limit(1)).mappings().first()
