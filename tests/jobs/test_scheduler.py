"""Runs are started, followed and ended with real processes, killed for real."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import psutil
import pytest

from core.errors import RunError
from jobs import store as store_module
from jobs.home import PROJECT
from jobs.journal import read_events, write_wish
from jobs.launchers.local import LocalLauncher
from jobs.processes import signal_group
from jobs.scheduler import Patience, Scheduler
from jobs.states import RunState, Wish
from jobs.store import Store
from jobs.views import Run
from tests.jobs.conftest import add_dataset_row, queue_run
from tests.jobs.host import scheduler_on
from tests.jobs.waiting import wait_for

HASTE = Patience(preparing=0.2, kill=0.2, cancel=0.3, keep=0.5, leave=0.2, gone=0.2)

Begin = Callable[..., Scheduler]


@pytest.fixture
def begin(store: Store) -> Iterator[Begin]:
    """Gives schedulers whose workers behave as asked, on a home where `R1` is queued. No worker outlives the test."""
    add_dataset_row(store)
    queue_run(store, "R1")
    schedulers: list[Scheduler] = []

    def begin(behavior: str, patience: Patience = HASTE, **options: object) -> Scheduler:
        schedulers.append(scheduler_on(store.home.path, behavior, patience=patience, **options))
        return schedulers[-1]

    yield begin
    for attempt in store.attempts():
        signal_group(attempt.worker.pid, attempt.worker.birth, signal.SIGKILL)
    for scheduler in schedulers:
        for child in scheduler._launcher._children.values():
            child.wait(30)
        scheduler.close()


def until(scheduler: Scheduler, store: Store, *states: RunState) -> Run:
    """Tick until the run is in one of `states`."""

    def look() -> Run | None:
        scheduler.tick()
        run = store.run("R1")
        return run if run.state in states else None

    return wait_for(look)


def starts(store: Store) -> list[str]:
    file = store.home.run("R1").path / "starts"
    return file.read_text().splitlines() if file.exists() else []


def test_a_run_that_finishes_registers_its_adapter(begin: Begin, store: Store) -> None:
    run = until(begin("finishes"), store, "finished")
    adapter = store.adapter(run.adapter_id or "")
    assert (adapter.run_id, adapter.name, adapter.base_model) == ("R1", "run R1", "starter")
    assert (adapter.rank, adapter.alpha, adapter.targets) == (4, 8.0, ("q_proj",))
    assert (adapter.eval_loss, adapter.base_eval_loss, adapter.bytes) == (1.5, 2.5, len(b"weights"))
    assert len(adapter.fingerprint) == 8
    assert run.started_at is not None and run.ended_at is not None and run.pid is None


def test_a_finished_event_without_an_adapter_is_a_failure(begin: Begin, store: Store) -> None:
    run = until(begin("finishes_without_adapter"), store, "failed", "finished")
    assert run.state == "failed" and run.error is not None and "no adapter" in run.error.title
    assert store.adapters() == ()


def test_a_workers_own_account_of_a_failure_is_kept(begin: Begin, store: Store) -> None:
    error = until(begin("fails"), store, "failed").error
    assert error is not None
    assert (error.title, error.detail, error.hint) == ("The loss is not a number", "step 7", "Lower the learning rate")


def test_a_killed_worker_leaves_its_run_interrupted_and_names_the_signal(begin: Begin, store: Store) -> None:
    scheduler = begin("heeds")
    pid = until(scheduler, store, "running").pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    error = until(scheduler, store, "interrupted").error
    assert error is not None and error.title == "The worker died (signal 9)" and "Resume" in error.hint
    assert not psutil.pid_exists(pid)  # nor is it a zombie


@pytest.mark.parametrize(
    ("before", "now", "is_named"), [(1, 2, True), (2, 2, False), (None, 2, False), (1, None, False)]
)
def test_a_kill_for_want_of_memory_is_named_where_the_system_counted_it(
    begin: Begin, store: Store, monkeypatch: pytest.MonkeyPatch, before: int | None, now: int | None, is_named: bool
) -> None:
    monkeypatch.setattr("jobs.scheduler.oom_kills", lambda: before)
    scheduler = begin("heeds")
    pid = until(scheduler, store, "running").pid
    assert pid is not None
    monkeypatch.setattr("jobs.scheduler.oom_kills", lambda: now)
    os.kill(pid, signal.SIGKILL)
    error = until(scheduler, store, "interrupted").error
    assert error is not None and ("ran out of memory" in error.title) == is_named


def test_a_worker_that_leaves_silently_is_told_by_its_exit_code(begin: Begin, store: Store) -> None:
    error = until(begin("leaves_silently"), store, "interrupted").error
    assert error is not None and "exit code 3" in error.title


def test_stopping_keeps_what_was_learned(begin: Begin, store: Store) -> None:
    scheduler = begin("heeds", Patience())
    until(scheduler, store, "running")
    assert store.ask_to_end("R1", "keep") == "stopping"
    run = until(scheduler, store, "finished")
    assert run.adapter_id is not None


def test_a_paused_run_goes_on_when_it_is_resumed(begin: Begin, store: Store) -> None:
    scheduler = begin("heeds", Patience())
    pid = until(scheduler, store, "running").pid
    assert store.ask_to_end("R1", "pause") == "pausing"
    run = until(scheduler, store, "paused")
    assert run.is_at_rest and not run.has_ended and run.error is None and run.adapter_id is None
    assert pid is not None and not psutil.pid_exists(pid)
    store.requeue("R1")
    until(scheduler, store, "running")
    store.ask_to_end("R1", "keep")
    assert until(scheduler, store, "finished").adapter_id is not None


def test_a_run_that_was_paused_by_a_full_disk_says_so_until_it_goes_on(begin: Begin, store: Store) -> None:
    scheduler = begin("runs_out_of_disk")
    error = until(scheduler, store, "paused").error
    assert error is not None
    assert (error.title, error.detail, error.hint) == ("The disk is full", "2 MB are needed", "Make room, then resume")
    store.requeue("R1")
    assert until(scheduler, store, "finished").error is None


@pytest.mark.parametrize(("wishes", "state"), [(("pause", "keep"), "finished"), (("pause", "cancel"), "cancelled")])
def test_a_pause_may_become_an_end(begin: Begin, store: Store, wishes: tuple[Wish, ...], state: RunState) -> None:
    scheduler = begin("heeds", Patience())
    until(scheduler, store, "running")
    for wish in wishes:
        store.ask_to_end("R1", wish)
    assert until(scheduler, store, "paused", "finished", "cancelled").state == state


def test_a_run_paused_while_it_prepares_is_paused(begin: Begin, store: Store) -> None:
    scheduler = begin("prepares_forever")
    until(scheduler, store, "preparing")
    wait_for(lambda: starts(store))
    store.ask_to_end("R1", "pause")
    assert until(scheduler, store, "paused", "interrupted").error is None


def test_cancelling_gives_no_adapter(begin: Begin, store: Store) -> None:
    scheduler = begin("heeds", Patience())
    until(scheduler, store, "running")
    store.ask_to_end("R1", "cancel")
    assert until(scheduler, store, "cancelled").adapter_id is None


def test_a_worker_that_prepares_and_does_not_heed_is_terminated(begin: Begin, store: Store) -> None:
    scheduler = begin("prepares_forever", replace(HASTE, kill=1000.0))
    pid = until(scheduler, store, "preparing").pid
    wait_for(lambda: starts(store))
    store.ask_to_end("R1", "cancel")
    assert until(scheduler, store, "cancelled", "interrupted").state == "cancelled"
    assert pid is not None and not psutil.pid_exists(pid)


def test_a_run_stopped_while_it_prepares_is_interrupted_and_can_be_resumed(begin: Begin, store: Store) -> None:
    scheduler = begin("prepares_forever")
    until(scheduler, store, "preparing")
    wait_for(lambda: starts(store))
    store.ask_to_end("R1", "keep")
    error = until(scheduler, store, "interrupted", "cancelled").error
    assert error is not None and "before its first step" in error.title


@pytest.mark.parametrize(("wish", "state"), [("cancel", "cancelled"), ("keep", "interrupted")])
def test_a_worker_that_ignores_everything_is_killed(begin: Begin, store: Store, wish: str, state: RunState) -> None:
    scheduler = begin("ignores_everything")
    until(scheduler, store, "running")
    store.ask_to_end("R1", wish)  # type: ignore[arg-type]
    assert until(scheduler, store, "cancelled", "interrupted").state == state


def test_a_frozen_worker_is_killed_when_cancelled(begin: Begin, store: Store) -> None:
    scheduler = begin("heeds")
    pid = until(scheduler, store, "running").pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    store.ask_to_end("R1", "cancel")
    until(scheduler, store, "cancelled")
    assert not psutil.pid_exists(pid)


def test_a_worker_that_stays_after_its_last_event_is_ended(begin: Begin, store: Store) -> None:
    scheduler = begin("finishes_but_stays")
    until(scheduler, store, "running", "finished")
    assert until(scheduler, store, "finished", "interrupted").state == "finished"


def test_the_next_run_waits_until_the_worker_has_gone(begin: Begin, store: Store) -> None:
    scheduler = begin("finishes_but_stays", replace(HASTE, leave=1000.0))
    until(scheduler, store, "running")
    queue_run(store, "R2")
    wait_for(lambda: "finished" in store.home.run("R1").events.read_text())
    scheduler.tick()
    assert [(run.id, run.state) for run in store.runs()] == [("R2", "queued"), ("R1", "running")]


def test_a_resumed_run_is_judged_by_its_new_events_alone(begin: Begin, store: Store) -> None:
    scheduler = begin("fails")
    until(scheduler, store, "failed")
    store.requeue("R1")
    again = begin("finishes")
    assert until(again, store, "finished", "failed").state == "finished"
    events, _ = read_events(store.home.run("R1").events)
    assert [event.event for event in events] == ["failed", "started", "step", "finished"]


def test_a_wish_of_an_earlier_attempt_is_not_heard_again(begin: Begin, store: Store) -> None:
    scheduler = begin("heeds", Patience())
    until(scheduler, store, "running")
    store.ask_to_end("R1", "cancel")
    until(scheduler, store, "cancelled")
    write_wish(store.home.run("R1").control, "cancel")
    store.requeue("R1")
    until(scheduler, store, "running")


def test_a_killed_app_finds_its_run_again(begin: Begin, store: Store) -> None:
    command = [sys.executable, "-m", "tests.jobs.host", str(store.home.path), "heeds"]
    app = subprocess.Popen(command, cwd=PROJECT)
    pid = wait_for(lambda: store.run("R1").state == "running" and store.run("R1").pid)
    app.kill()
    app.wait()
    restarted = begin("heeds", Patience())
    restarted.tick()
    run = store.run("R1")
    assert (run.state, run.pid) == ("running", pid)
    store.ask_to_end("R1", "keep")
    until(restarted, store, "finished")
    events, _ = read_events(store.home.run("R1").events)
    steps = [event.step for event in events if event.event == "step"]
    assert steps == list(range(1, len(steps) + 1))
    assert len(starts(store)) == 1


def test_a_run_whose_app_and_worker_were_killed_is_interrupted(begin: Begin, store: Store) -> None:
    command = [sys.executable, "-m", "tests.jobs.host", str(store.home.path), "heeds"]
    app = subprocess.Popen(command, cwd=PROJECT)
    pid = wait_for(lambda: store.run("R1").state == "running" and store.run("R1").pid)
    app.kill()
    app.wait()
    os.kill(int(pid), signal.SIGKILL)
    error = until(begin("heeds"), store, "interrupted").error
    assert error is not None and error.title == "The worker is gone"


def test_another_process_with_the_workers_pid_is_not_taken_for_it(begin: Begin, store: Store) -> None:
    scheduler = begin("heeds")
    until(scheduler, store, "running")
    (attempt,) = store.attempts()
    with store._database.write() as connection:
        connection.exec_driver_sql("UPDATE runs SET pid = ?", (os.getpid(),))  # it lives, but was born at another time
    until(begin("heeds"), store, "interrupted")
    os.killpg(attempt.worker.pid, signal.SIGKILL)
    wait_for(lambda: scheduler._launcher.exit_code(attempt.worker) is not None)


def test_a_worker_whose_start_is_not_on_record_does_nothing(begin: Begin, store: Store) -> None:
    scheduler = begin("finishes")
    launcher = scheduler._launcher
    worker = launcher.launch(store.home.run("R1"))
    child = launcher._children[worker]
    assert child.stdin is not None
    child.stdin.close()  # what happens when its parent dies
    assert child.wait(30) == 0
    assert starts(store) == []


def test_a_worker_that_cannot_be_launched_fails_its_run(begin: Begin, store: Store) -> None:
    scheduler = begin("finishes")
    scheduler._launcher.command = ("/nonexistent/program",)
    error = until(scheduler, store, "failed").error
    assert error is not None and "could not be started" in error.title


def test_room_is_made_before_a_run_starts_and_only_then(begin: Begin, store: Store) -> None:
    asked: list[int] = []
    scheduler = begin("finishes", make_room=lambda device: asked.append(len(starts(store))))
    until(scheduler, store, "finished")
    scheduler.tick()
    assert asked == [0]


def test_the_thread_starts_what_is_queued_when_woken(begin: Begin, store: Store) -> None:
    scheduler = begin("finishes", replace(HASTE, tick=0.05))
    scheduler.start()
    wait_for(lambda: store.run("R1").state == "finished")


def test_a_run_whose_folder_has_gone_fails_and_the_next_is_started(begin: Begin, store: Store) -> None:
    queue_run(store, "R2")
    shutil.rmtree(store.home.run("R1").path)
    scheduler = begin("finishes")
    scheduler.tick()
    run = store.run("R1")
    assert run.state == "failed" and run.error is not None and "folder is not there" in run.error.title
    assert wait_for(lambda: (scheduler.tick(), store.run("R2").state == "finished")[1])


def test_a_start_that_cannot_be_put_on_record_leaves_no_worker_and_fails_nothing(
    begin: Begin, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = begin("finishes")
    launched: list[int] = []
    launch = LocalLauncher.launch

    def count(*arguments: Any) -> Any:
        worker = launch(*arguments)
        launched.append(worker.pid)
        monkeypatch.setattr(store_module, "attempt_of", refuse)
        return worker

    def refuse(row: object) -> None:
        raise RunError("Nothing can be saved: database or disk is full")

    monkeypatch.setattr(LocalLauncher, "launch", count)
    with pytest.raises(RunError, match="disk is full"):
        scheduler.tick()
    monkeypatch.undo()
    assert store.run("R1").state == "queued" and starts(store) == []
    assert len(launched) == 1 and not psutil.pid_exists(launched[0])
    until(scheduler, store, "finished")


def test_who_only_asks_is_told_of_the_dead_and_starts_nothing(begin: Begin, store: Store) -> None:
    queue_run(store, "R2")
    first = begin("ignores_everything")
    first.tick()
    (attempt,) = store.attempts()
    os.kill(attempt.worker.pid, signal.SIGKILL)
    asking = begin("ignores_everything")
    asking.settle()
    assert store.run("R1").state == "interrupted" and store.run("R2").state == "queued"


def test_a_cancel_between_a_look_and_the_end_is_heard(begin: Begin, store: Store) -> None:
    scheduler = begin("ignores_everything")
    scheduler.tick()
    (attempt,) = store.attempts()
    store.ask_to_end("R1", "cancel")
    store.end(attempt, "paused")
    signal_group(attempt.worker.pid, attempt.worker.birth, signal.SIGKILL)
    assert store.run("R1").state == "cancelled"
