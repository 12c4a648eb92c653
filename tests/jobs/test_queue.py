"""Which run is started next, and where."""

from __future__ import annotations

import sqlite3

import pytest

from core.errors import NotFound, RunError
from jobs import machine
from jobs.home import Home
from jobs.launchers.local import Worker
from jobs.machine import only
from jobs.scheduler import Scheduler
from jobs.store import Store
from tests.jobs.conftest import add_dataset_row, make_database, queue_run
from tests.jobs.host import scheduler_on
from tests.jobs.waiting import wait_for

GPUS = ("cuda:0", "cuda:1")


@pytest.fixture
def waiting(store: Store) -> Store:
    """Four runs wait: R1, R2, R3 and R4."""
    add_dataset_row(store)
    for number in (1, 2, 3, 4):
        queue_run(store, f"R{number}")
    return store


def order(store: Store) -> list[str]:
    return [run.id for run in store.queue()]


def claimed(store: Store, devices: tuple[str, ...] = ("cpu",)) -> tuple[str, str] | None:
    attempt = store.claim(lambda run_id, device: Worker(1, f"{run_id} on {device}"), devices)
    if attempt is None:
        return None
    assert attempt.worker.birth == f"{attempt.run_id} on {attempt.device}"
    return attempt.run_id, attempt.device


def test_those_that_came_first_are_first(waiting: Store) -> None:
    assert order(waiting) == ["R1", "R2", "R3", "R4"] and claimed(waiting) == ("R1", "cpu")


@pytest.mark.parametrize(
    ("moved", "by", "expected"),
    [
        ("R3", -1, ["R1", "R3", "R2", "R4"]),
        ("R4", -9, ["R4", "R1", "R2", "R3"]),
        ("R1", 2, ["R2", "R3", "R1", "R4"]),
        ("R2", 9, ["R1", "R3", "R4", "R2"]),
        ("R2", 0, ["R1", "R2", "R3", "R4"]),
    ],
)
def test_a_run_changes_places(waiting: Store, moved: str, by: int, expected: list[str]) -> None:
    waiting.reorder(moved, by)
    assert order(waiting) == expected and claimed(waiting) == (expected[0], "cpu")


def test_urgent_runs_are_first_and_a_run_that_is_moved_before_them_is_as_urgent(waiting: Store) -> None:
    waiting.set_priority("R3", 1)
    waiting.set_priority("R1", -1)
    assert order(waiting) == ["R3", "R2", "R4", "R1"]
    waiting.reorder("R1", -3)
    assert order(waiting) == ["R1", "R3", "R2", "R4"]
    assert [run.priority for run in waiting.queue()] == [1, 1, 0, 0]
    waiting.reorder("R3", 2)
    assert [(run.id, run.priority) for run in waiting.queue()] == [("R1", 1), ("R2", 0), ("R4", 0), ("R3", 0)]


def test_only_what_waits_has_a_place(waiting: Store) -> None:
    claimed(waiting)
    with pytest.raises(RunError, match="not in the queue: it is preparing"):
        waiting.reorder("R1", 1)
    with pytest.raises(NotFound):
        waiting.reorder("R9", 1)
    with pytest.raises(NotFound):
        waiting.set_priority("R9", 1)


def test_every_device_gets_one_run_and_a_free_one_the_next(waiting: Store) -> None:
    assert waiting.next_device(GPUS) == "cuda:0"
    first, second = claimed(waiting, GPUS), claimed(waiting, GPUS)
    assert (first, second) == (("R1", "cuda:0"), ("R2", "cuda:1"))
    assert claimed(waiting, GPUS) is None and waiting.next_device(GPUS) is None
    assert [run.device for run in waiting.active_runs()] == ["cuda:0", "cuda:1"]
    (attempt,) = (attempt for attempt in waiting.attempts() if attempt.run_id == "R1")
    waiting.end(attempt, "failed")
    assert waiting.next_device(GPUS) == "cuda:0" and claimed(waiting, GPUS) == ("R3", "cuda:0")
    assert waiting.run("R1").device is None


def test_a_worker_sees_its_own_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert only("cuda:1") == only("cpu") == {}  # where there is none
    monkeypatch.setattr(machine, "gpu_names", lambda: ("one", "another"))
    assert only("cuda:1") == {"CUDA_VISIBLE_DEVICES": "1"} and only("cpu") == {"CUDA_VISIBLE_DEVICES": ""}


def drain(scheduler: Scheduler, store: Store) -> int:
    """Tick until every run has ended; how many were carried out at once at most."""
    most = 0

    def is_done() -> bool:
        nonlocal most
        scheduler.tick()
        most = max(most, len(store.active_runs()))
        return all(run.has_ended for run in store.runs())

    wait_for(is_done)
    scheduler.close()
    return most


def test_two_devices_carry_out_two_runs_at_once(waiting: Store) -> None:
    assert drain(scheduler_on(waiting.home.path, "finishes", devices=lambda: GPUS), waiting) == 2
    assert {run.state for run in waiting.runs()} == {"finished"}


def test_a_run_that_fails_does_not_stop_the_next(waiting: Store) -> None:
    drain(scheduler_on(waiting.home.path, "fails"), waiting)
    assert [run.state for run in waiting.runs()] == ["failed"] * 4


def test_a_home_from_before_the_queue_keeps_its_runs(home: Home) -> None:
    make_database(home, "0001")
    with sqlite3.connect(home.database) as database:
        database.execute("INSERT INTO datasets VALUES ('D', NULL, 'rows', 3, 'jsonl', 'messages', 0, 0)")
        text = '{"name": "old", "data": {"dataset_id": "D"}}'
        values = f"'R1', NULL, 'D', '{text}', 'queued', 0, 0, NULL, NULL, 0, NULL, NULL, 0, NULL, NULL, NULL, NULL"
        database.execute(f"INSERT INTO runs VALUES ({values})")
    store = Store(home)
    (run,) = store.queue()
    assert (run.id, run.name, run.priority) == ("R1", "old", 0) and claimed(store) == ("R1", "cpu")
    store.close()
