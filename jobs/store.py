"""Datasets, runs, adapters and users in SQLite.

A run's row is moved from state to state only by the functions here that name the states they start from; one that
finds the run elsewhere changes nothing and says so. Two schedulers on one home can therefore both follow a run: the
first to see its end wins, and the second finds it ended.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, case, delete, insert, select, update

from core.config import RunConfig, to_dict
from core.errors import NotFound, RunError
from jobs import queueing, states, tables
from jobs.ballot_box import BallotBox
from jobs.database import Database
from jobs.home import Home
from jobs.ids import new_id
from jobs.keys import Keys
from jobs.launchers.local import Worker
from jobs.machine import CPU
from jobs.queueing import one
from jobs.round_book import RoundBook
from jobs.rows import Attempt, attempt_of, dataset_of, run_of
from jobs.shelf import Shelf
from jobs.states import Move, Outcome, RunState, Wish
from jobs.views import Adapter, Dataset, Run, RunProblem


class Store:
    """The database under `home`, migrated when opened. `clock` gives Unix seconds."""

    def __init__(self, home: Home, clock: Callable[[], float] = time.time) -> None:
        self.home = home
        self._clock = clock
        self._database = Database(home.database)
        self._database.migrate()
        self.keys = Keys(self._database, clock)
        self.shelf = Shelf(self._database, home, clock)
        self.ballot_box = BallotBox(self._database, clock)
        self.round_book = RoundBook(self._database, clock)

    def close(self) -> None:
        """Give back every connection."""
        self._database.close()

    @property
    def problem(self) -> str:
        """Why nothing could be written when it was last tried; empty where it could."""
        return self._database.problem

    def try_to_write(self) -> None:
        """Raises: RunError, where nothing can be written still."""
        self._database.try_to_write()

    # -- datasets ------------------------------------------------------------------------------------------------

    def add_dataset(self, values: dict[str, Any]) -> Dataset:
        """Register a dataset whose folder is in place; a known `example_key` gives the dataset that is there."""
        with self._database.write() as connection:
            known = one(connection, select(tables.datasets).filter_by(example_key=values.get("example_key")))
            if values.get("example_key") is None or known is None:
                connection.execute(insert(tables.datasets).values(created_at=self._clock(), **values))
                known = one(connection, select(tables.datasets).filter_by(id=values["id"]))
        assert known is not None
        return dataset_of(known)

    def datasets(self) -> tuple[Dataset, ...]:
        """Newest first."""
        with self._database.read() as connection:
            rows = connection.execute(
                select(tables.datasets).order_by(tables.datasets.c.created_at.desc(), tables.datasets.c.id.desc())
            ).mappings()
            return tuple(dataset_of(row) for row in rows)

    def dataset(self, dataset_id: str) -> Dataset:
        """Raises: NotFound."""
        return dataset_of(self._find(select(tables.datasets).filter_by(id=dataset_id), "dataset", dataset_id))

    def example_dataset(self, example_key: str) -> Dataset | None:
        """The dataset that was made of this example, if there is one."""
        with self._database.read() as connection:
            row = one(connection, select(tables.datasets).filter_by(example_key=example_key))
            return dataset_of(row) if row is not None else None

    # -- runs ----------------------------------------------------------------------------------------------------

    def add_run(self, run_id: str, config: RunConfig, key: str | None) -> Run:
        """Queue a run whose folder is in place, or give the run that was submitted under `key` before."""
        return self.add_runs({run_id: config}, key)[0]

    def add_runs(self, configs: Mapping[str, RunConfig], key: str | None, group: str | None = None) -> tuple[Run, ...]:
        """Queue all of these runs, by their ids, one behind the other; their folders are in place. Or give those that
        were submitted under `key` before.
        """
        with self._database.write() as connection:
            known = _submitted_as(connection, key)
            if known:
                return known
            times = queueing.apart([self._clock()] * len(configs))
            for (run_id, config), now in zip(configs.items(), times, strict=True):
                values: dict[str, Any] = {"id": run_id, "submit_key": key, "state": "queued", "group": group}
                values |= {"dataset_id": config.data.dataset_id, "created_at": now}
                values["queued_at"] = queueing.at_the_end(connection, now)
                connection.execute(insert(tables.runs).values(config=json.dumps(to_dict(config)), **values))
                key = None  # the first stands for all
        return tuple(map(self.run, configs))

    def submitted_as(self, key: str | None) -> tuple[Run, ...]:
        """What was submitted under `key`: a run, or a group of them in their order; nothing where there is neither."""
        with self._database.read() as connection:
            return _submitted_as(connection, key)

    def group(self, group: str) -> tuple[Run, ...]:
        """The runs of a group, as they were queued.

        Raises:
            NotFound: there is no such group.
        """
        with self._database.read() as connection:
            runs = _in_group(connection, group)
        if not runs:
            raise NotFound(f"There is no group {group}", hint="List the runs to see their groups")
        return runs

    def cancel_waiting(self, group: str) -> int:
        """Give up those runs of a group that wait, all at once; how many these were."""
        move, values = states.AT_ONCE["keep"], _ending(None, self._clock())
        with self._database.write() as connection:
            change = update(tables.runs).where(tables.runs.c.group == group, tables.runs.c.state.in_(move.sources))
            return connection.execute(change.values(state=move.target, **values)).rowcount

    def runs(self) -> tuple[Run, ...]:
        """Newest first."""
        with self._database.read() as connection:
            return tuple(
                run_of(row)
                for row in connection.execute(
                    _RUNS.order_by(tables.runs.c.created_at.desc(), tables.runs.c.id.desc())
                ).mappings()
            )

    def run(self, run_id: str) -> Run:
        """Raises: NotFound."""
        return run_of(self._find(_RUNS.where(tables.runs.c.id == run_id), "run", run_id))

    def active_runs(self) -> tuple[Run, ...]:
        """The runs that hold a device."""
        with self._database.read() as connection:
            return tuple(run_of(row) for row in connection.execute(_RUNS.where(queueing.IS_ACTIVE)).mappings())

    def queue(self) -> tuple[Run, ...]:
        """The runs that wait, the next one first."""
        with self._database.read() as connection:
            waiting = _RUNS.filter(tables.runs.c.state == "queued").order_by(*queueing.QUEUE)
            return tuple(run_of(row) for row in connection.execute(waiting).mappings())

    def free_devices(self, devices: Sequence[str]) -> tuple[str, ...]:
        """Those of `devices` that have no run."""
        with self._database.read() as connection:
            return queueing.free(connection, devices)

    def next_device(self, devices: Sequence[str]) -> str | None:
        """One of `devices` that is free while a run waits; only a hint, since another process may be faster."""
        with self._database.read() as connection:
            free = queueing.free(connection, devices)
            return free[0] if free and one(connection, queueing.WAITING) is not None else None

    def reorder(self, run_id: str, by: int) -> None:
        """Let a waiting run go so many places back in the queue, or forward where `by` is below 0. It becomes as urgent
        as it has to be for that; the others stay as they are.

        Raises:
            NotFound: there is no such run.
            RunError: it does not wait.
        """
        with self._database.write() as connection:
            rows = list(connection.execute(queueing.WAITING).mappings())
            place = next((place for place, row in enumerate(rows) if row["id"] == run_id), None)
            if place is not None:
                times = sorted(row["queued_at"] for row in rows)
                moved = rows.pop(place)
                target = max(0, place + by)
                passed = [row["priority"] for row in (rows[target:place] if by < 0 else rows[place:target])]
                priority = max([moved["priority"], *passed]) if by < 0 else min([moved["priority"], *passed])
                rows.insert(target, moved)
                connection.execute(update(tables.runs).filter_by(id=run_id).values(priority=priority))
                for row, queued_at in zip(rows, queueing.apart(times), strict=True):
                    connection.execute(update(tables.runs).filter_by(id=row["id"]).values(queued_at=queued_at))
                return
        run = self.run(run_id)
        raise RunError(f"The run {run.name} is not in the queue: it is {run.state}")

    def set_priority(self, run_id: str, priority: int) -> None:
        """How urgent a run is; the more urgent ones are started first, whenever they came.

        Raises:
            NotFound: there is no such run.
        """
        with self._database.write() as connection:
            connection.execute(update(tables.runs).filter_by(id=run_id).values(priority=priority))
        self.run(run_id)

    def annotate(self, run_id: str, tags: Sequence[str], note: str) -> None:
        """Raises: NotFound."""
        with self._database.write() as connection:
            values = {"tags": json.dumps(list(tags), ensure_ascii=False), "note": note}
            connection.execute(update(tables.runs).filter_by(id=run_id).values(**values))
        self.run(run_id)

    def claim(self, launch: Callable[[str, str], Worker], devices: Sequence[str] = (CPU,)) -> Attempt | None:
        """Start the most urgent of the runs that wait, of these the one that has waited longest; None where there is
        nothing to start, or every device has its run.

        `launch` is called with the run's id and its device while this process alone may write, so no other can start
        the same run. What it started must wait for word before it acts: only once this returns is the start on record.
        """
        with self._database.write() as connection:
            free, row = queueing.free(connection, devices), one(connection, queueing.WAITING)
            if row is None or not free:
                return None
            events = self.home.run(row["id"]).events
            values: dict[str, Any] = {
                "state": states.CLAIM.target,
                "attempt": row["attempt"] + 1,
                "events_offset": events.stat().st_size if events.exists() else 0,
                "started_at": row["started_at"] or self._clock(),
            }
            worker = launch(row["id"], free[0])
            values |= {"pid": worker.pid, "birth": worker.birth, "device": free[0]}
            connection.execute(update(tables.runs).filter_by(id=row["id"]).values(**values))
            return attempt_of({**row, **values})

    def attempts(self) -> tuple[Attempt, ...]:
        """Every active run's attempt."""
        with self._database.read() as connection:
            rows = connection.execute(select(tables.runs).where(queueing.IS_ACTIVE)).mappings()
            return tuple(attempt_of(row) for row in rows)

    def begin_steps(self, attempt: Attempt) -> None:
        """From preparing to running; a run that was asked to end meanwhile stays so."""
        with self._database.write() as connection:
            _move(connection, attempt.run_id, states.BEGIN, attempt=attempt.number)

    def fail_to_start(self, run_id: str, problem: RunProblem) -> None:
        """From queued to failed: its worker could not even be launched."""
        with self._database.write() as connection:
            _move(connection, run_id, states.REFUSE, _ending(problem, self._clock()))

    def end(self, attempt: Attempt, outcome: Outcome, problem: RunProblem | None = None) -> bool:
        """From any active state to what became of it. False where somebody else saw the end first."""
        with self._database.write() as connection:
            wish = connection.execute(select(tables.runs.c.wish).filter_by(id=attempt.run_id)).scalar()
            if wish == "cancel" and outcome in ("paused", "interrupted"):  # asked for after we had looked
                outcome, problem = "cancelled", None
            values = _ending(problem, self._clock())
            return _move(connection, attempt.run_id, states.end(outcome), values, attempt.number)

    def finish(self, attempt: Attempt, adapter: dict[str, Any]) -> bool:
        """From any active state to finished, with its adapter registered. False where somebody else did it first."""
        with self._database.write() as connection:
            values = _ending(None, self._clock())
            moved = _move(connection, attempt.run_id, states.end("finished"), values, attempt.number)
            if moved:
                row = {"id": new_id(), "run_id": attempt.run_id, "created_at": self._clock(), **adapter}
                connection.execute(insert(tables.adapters).values(**row))
            return moved

    def ask_to_end(self, run_id: str, wish: Wish) -> RunState:
        """Note the wish on an active run; one that holds no device is paused or cancelled at once. Says the state that
        the run is in now.

        Raises:
            NotFound: there is no such run.
            RunError: it has ended already, or stands where that cannot be asked of it.
        """
        at_once, asked = states.AT_ONCE[wish], states.ASKED[wish]
        with self._database.write() as connection:
            if _move(connection, run_id, at_once, _ending(None, self._clock())):
                return at_once.target
            if _move(connection, run_id, asked, {"wish": wish}):
                return asked.target
        run = self.run(run_id)
        if run.has_ended:
            raise RunError(f"The run {run.name} has already ended ({run.state})")
        what = "paused" if wish == "pause" else "stopped"
        hint = "Resume it first" if run.state == "paused" else ""
        raise RunError(f"The run {run.name} cannot be {what}: it is {run.state}", hint=hint)

    def requeue(self, run_id: str, wish: Wish | None = None) -> Run:
        """Queue a run at rest again, to go on from its last checkpoint; or to end there, as `wish` says.

        Raises:
            NotFound: there is no such run.
            RunError: it is not one that can go on.
        """
        fresh: dict[str, Any] = {"ended_at": None, "wish": wish, "pid": None, "birth": None}
        fresh |= {"error_title": None, "error_detail": None, "error_hint": None}
        with self._database.write() as connection:
            fresh["queued_at"] = queueing.at_the_end(connection, self._clock())
            moved = _move(connection, run_id, states.REQUEUE, fresh)
        run = self.run(run_id)
        if not moved:
            what = "kept" if wish == "keep" else "resumed"
            raise RunError(f"The run {run.name} cannot be {what}: it is {run.state}")
        return run

    # -- adapters ------------------------------------------------------------------------------------------------

    def adapters(self) -> tuple[Adapter, ...]:
        """Those that are not deleted, newest first."""
        return self.shelf.all()

    def adapter(self, adapter_id: str) -> Adapter:
        """Raises: NotFound, where it is deleted too."""
        return self.shelf.get(adapter_id)

    # -- users ---------------------------------------------------------------------------------------------------

    def users(self) -> dict[str, str]:
        """Everybody's password's hash, by name."""
        with self._database.read() as connection:
            rows = connection.execute(select(tables.users)).mappings()
            return {row["name"]: row["password_hash"] for row in rows}

    def put_user(self, name: str, password_hash: str) -> None:
        """Add a user, or change one's password."""
        with self._database.write() as connection:
            connection.execute(delete(tables.users).filter_by(name=name))
            values = {"name": name, "password_hash": password_hash, "created_at": self._clock()}
            connection.execute(insert(tables.users).values(**values))

    def drop_user(self, name: str) -> bool:
        """Whether there was one."""
        with self._database.write() as connection:
            return connection.execute(delete(tables.users).filter_by(name=name)).rowcount == 1

    def _find(self, query: Select[Any], kind: str, wanted: str) -> RowMapping:
        with self._database.read() as connection:
            row = one(connection, query)
        if row is None:
            raise NotFound(f"There is no {kind} {wanted}", hint=f"List the {kind}s to see their ids")
        return row


_RUNS = (
    select(tables.runs, tables.datasets.c.name.label("dataset_name"))
    .add_columns(case((tables.adapters.c.deleted_at.is_(None), tables.adapters.c.id)).label("adapter_id"))
    .add_columns(tables.adapters.c.eval_loss)
    .join(tables.datasets, tables.runs.c.dataset_id == tables.datasets.c.id)
    .outerjoin(tables.adapters, tables.adapters.c.run_id == tables.runs.c.id)
)


def _submitted_as(connection: Connection, key: str | None) -> tuple[Run, ...]:
    row = None if key is None else one(connection, _RUNS.where(tables.runs.c.submit_key == key))
    if row is None:
        return ()
    return (run_of(row),) if row["group"] is None else _in_group(connection, row["group"])


def _in_group(connection: Connection, group: str) -> tuple[Run, ...]:
    rows = connection.execute(_RUNS.where(tables.runs.c.group == group).order_by(tables.runs.c.created_at)).mappings()
    return tuple(map(run_of, rows))


def _move(
    connection: Connection, run_id: str, move: Move, values: Mapping[str, Any] | None = None, attempt: int | None = None
) -> bool:
    """Make the move if the run stands where it begins (and in that attempt), with other values; whether it was made."""
    change = update(tables.runs).where(tables.runs.c.id == run_id, tables.runs.c.state.in_(move.sources))
    if attempt is not None:
        change = change.where(tables.runs.c.attempt == attempt)
    return connection.execute(change.values(state=move.target, **(values or {}))).rowcount == 1


def _ending(problem: RunProblem | None, now: float) -> dict[str, Any]:
    values: dict[str, Any] = {"ended_at": now}
    if problem is not None:
        values |= {"error_title": problem.title, "error_detail": problem.detail, "error_hint": problem.hint}
    return values
