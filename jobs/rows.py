"""Rows of the database as what the rest of the house knows them by."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import RowMapping

from core.config import RunConfig, parse
from jobs.launchers.local import Worker
from jobs.origins import Origin
from jobs.states import ACTIVE_STATES, RunState, Wish
from jobs.views import Adapter, Dataset, Run, RunProblem


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An active run as the scheduler follows it: which worker carries it out, and since which byte of its events."""

    run_id: str
    number: int
    state: RunState
    worker: Worker
    device: str
    events_offset: int
    wish: Wish | None


def adapter_of(row: RowMapping, home: Path) -> Adapter:
    """A row of `adapters`, joined with its run's config, which says how and for what it was trained. Of one without a
    run its origin says so.
    """
    values = dict(row)
    folder, config, source = home / values.pop("folder"), values.pop("config"), values.pop("source")
    del values["emptied_at"]
    values |= {"targets": tuple(json.loads(values["targets"])), "created_at": _moment(values["created_at"])}
    values["deleted_at"] = _moment(values["deleted_at"])
    if config is not None:
        run = _config(config)
        values |= {"method": run.method, "task": run.task}
    if source is not None:
        origin = Origin.parse(json.loads(source))
        values |= {"origin": origin, "method": origin.method, "task": origin.task}
    return Adapter(path=folder, **values)


def dataset_of(row: RowMapping) -> Dataset:
    """A row of `datasets`."""
    values = {key: value for key, value in row.items() if key != "example_key"}
    return Dataset(**{**values, "created_at": _moment(row["created_at"])})


def attempt_of(row: RowMapping | dict[str, Any]) -> Attempt:
    """A row of `runs` whose worker has been launched."""
    worker = Worker(pid=row["pid"], birth=row["birth"])
    return Attempt(
        run_id=row["id"],
        number=row["attempt"],
        state=row["state"],
        worker=worker,
        device=row["device"],
        events_offset=row["events_offset"],
        wish=row["wish"],
    )


def run_of(row: RowMapping) -> Run:
    """A row of `runs`, joined with the names that `jobs.store` gives it."""
    config = _config(row["config"])
    problem = None
    if row["error_title"] is not None:
        problem = RunProblem(title=row["error_title"], detail=row["error_detail"], hint=row["error_hint"])
    return Run(
        id=row["id"],
        name=config.name,
        state=row["state"],
        config=config,
        dataset_name=row["dataset_name"],
        created_at=_moment(row["created_at"]),
        started_at=_moment(row["started_at"]),
        ended_at=_moment(row["ended_at"]),
        pid=row["pid"] if row["state"] in ACTIVE_STATES else None,
        device=row["device"] if row["state"] in ACTIVE_STATES else None,
        priority=row["priority"],
        wish=row["wish"] if row["state"] in ("queued", *ACTIVE_STATES) else None,
        error=problem,
        adapter_id=row["adapter_id"],
        group=row["group"],
        eval_loss=row["eval_loss"],
        tags=tuple(json.loads(row["tags"])),
        note=row["note"],
    )


@functools.lru_cache(maxsize=4096)
def _config(text: str) -> RunConfig:
    """The config that a row holds; rows are read again and again, and a config never changes."""
    return parse(json.loads(text))


def _moment(seconds: float | None) -> Any:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
