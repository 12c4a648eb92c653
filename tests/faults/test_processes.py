"""Workers that freeze, are ended by the system, or are told to end at the worst moment.

The worker is the real one on a tiny model where what it does matters, and a stand-in where only its end does.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from core.errors import RunError
from jobs import heartbeat
from jobs.home import RunFolder
from jobs.journal import read_events, read_wish, write_wish
from jobs.processes import signal_group
from jobs.scheduler import Scheduler
from jobs.service import Run, Service
from jobs.store import Store
from tests.chaos import _verify
from tests.faults.trial import Trial, workers, workers_of
from tests.jobs.conftest import add_dataset_row, queue_run
from tests.jobs.host import scheduler_on
from tests.jobs.waiting import wait_for
from ui.pages import run_view

CANCEL_SECONDS = 10.0
MEMORY_GROUPS = Path("/sys/fs/cgroup/memory")


# -- a worker that freezes -------------------------------------------------------------------------------------------


def test_a_frozen_worker_is_told_of_and_its_run_is_never_begun_twice(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "SILENT_SECONDS", heartbeat.EVERY_SECONDS + 1)
    run = trial.begin()
    trial.wait_for_steps(run)
    pid, service = trial.pid(run), trial.service
    assert service.run(run.id).silent_seconds is None
    os.kill(pid, signal.SIGSTOP)
    silent = wait_for(lambda: now if (now := service.run(run.id)).silent_seconds is not None else None)
    banner = run_view.problem(silent)
    assert silent.state == "running" and "Nothing was heard from the worker" in banner and "cancel the run" in banner

    with pytest.raises(RunError, match="cannot be resumed: it is running"):
        service.resume_run(run.id)
    restarted = Service(service.home, service._models_root)  # as after the app was killed, beside the first one
    for _ in range(5):
        restarted._scheduler.tick()
    assert workers_of(trial.folder(run)) == [pid]
    (attempt,) = restarted._store.attempts()
    assert (attempt.number, attempt.worker.pid, restarted.run(run.id).state) == (1, pid, "running")
    restarted.close()

    before = trial.steps(run)
    os.kill(pid, signal.SIGCONT)
    trial.wait_for_steps(run, len(before))
    wait_for(lambda: service.run(run.id).silent_seconds is None)
    service.stop_run(run.id)
    assert trial.rest(run).state == "finished"
    assert trial.steps(run) == list(range(1, len(trial.steps(run)) + 1))


def test_the_time_after_which_a_worker_counts_as_silent_is_a_minute() -> None:
    assert heartbeat.SILENT_SECONDS == 60 and heartbeat.EVERY_SECONDS <= heartbeat.SILENT_SECONDS / 5


# -- a worker that the system ends -----------------------------------------------------------------------------------


@pytest.fixture
def little_memory() -> Iterator[Path]:
    """A control group whose processes get 48 MB. Making one takes the rights of an administrator."""
    group = MEMORY_GROUPS / f"lora-workbench-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(48 * 2**20))
    except OSError as error:
        pytest.skip(f"NOT TRIED without memory: no control group can be made here ({error})")
    yield group
    group.rmdir()


def test_a_worker_that_the_system_ended_for_want_of_memory_says_so(little_memory: Path, trial: Trial) -> None:
    """For real: the worker may have less than torch takes to be imported."""
    run = trial.begin()
    (little_memory / "cgroup.procs").write_text(str(trial.pid(run)))
    ended = trial.rest(run, 120)
    assert ended.state == "interrupted" and ended.error is not None
    assert "ran out of memory" in ended.error.title and "resume" in ended.error.hint
    trial.service.resume_run(run.id)
    trial.wait_for_steps(run)
    trial.service.cancel_run(run.id)
    trial.rest(run)


# -- a worker that is told to end ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "phase",
    [pytest.param("loading", marks=pytest.mark.slow), "tokenizing", pytest.param("injecting", marks=pytest.mark.slow)],
)
def test_a_run_cancelled_while_it_prepares_is_gone_within_ten_seconds(trial: Trial, phase: str) -> None:
    run = trial.begin()
    pid = trial.pid(run)
    trial.wait_for_event(run, "preparing", phase)
    check_cancel(trial, run, pid)
    assert not (trial.folder(run).path / "checkpoints").exists() or checkpoints(trial.folder(run)) == []


@pytest.mark.parametrize("goes_on", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_run_cancelled_in_the_middle_of_a_checkpoint_leaves_whole_ones(trial: Trial, goes_on: bool) -> None:
    """Held in the middle of it by SIGSTOP; one that does not go on is killed there."""
    run = trial.begin(steps=3000, evaluations=1000)
    pid, folder = trial.pid(run), trial.folder(run)
    trial.wait_for_event(run, "saved")

    def is_writing() -> bool:
        os.kill(pid, signal.SIGSTOP)
        if list(folder.path.glob("checkpoints/tmp-*")):
            return True
        os.kill(pid, signal.SIGCONT)
        return False

    wait_for(is_writing)
    before = checkpoints(folder)
    if goes_on:
        threading.Timer(0.2, os.kill, (pid, signal.SIGCONT)).start()
    check_cancel(trial, run, pid)
    after = checkpoints(folder)
    assert after and after[-1] >= before[-1]
    for path in folder.path.glob("checkpoints/step-*"):
        _verify(path)
    if goes_on:
        assert not list(folder.path.glob("checkpoints/tmp-*"))
    trial.service.resume_run(run.id)
    begun = len(trial.steps(run))
    trial.wait_for_steps(run, begun)
    assert trial.steps(run)[begun] > after[-1]
    trial.service.cancel_run(run.id)
    trial.rest(run)
    assert not list(folder.path.glob("checkpoints/tmp-*"))


def checkpoints(folder: RunFolder) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in folder.path.glob("checkpoints/step-*"))


def check_cancel(trial: Trial, run: Run, pid: int) -> None:
    """Cancel the run: it is cancelled in time, without an adapter, and nothing of its worker is left."""
    begin = time.monotonic()
    trial.service.cancel_run(run.id)
    ended = trial.rest(run)
    assert ended.state == "cancelled" and time.monotonic() - begin <= CANCEL_SECONDS
    assert ended.error is None and ended.pid is None and trial.service.adapters() == ()
    assert workers(pid) == [] and workers_of(trial.folder(run)) == []


def test_a_cancel_that_races_the_finish_ends_the_run_once(store: Store) -> None:
    """Two schedulers follow the runs, and each is cancelled at another moment around its end."""
    add_dataset_row(store)
    schedulers = [scheduler_on(store.home.path, "finishes") for _ in range(2)]
    closing = threading.Event()
    threads = [threading.Thread(target=tick_until, args=(each, closing)) for each in schedulers]
    for thread in threads:
        thread.start()
    generator, outcomes = random.Random(0), []
    try:
        for number in range(10):
            run_id = f"R{number}"
            queue_run(store, run_id)
            outcomes.append(end_by_both(store, run_id, generator.uniform(0, 0.05)))
    finally:
        closing.set()
        for thread in threads:
            thread.join()
        for scheduler in schedulers:
            scheduler.close()
    assert [run.state for run in reversed(store.runs())] == outcomes
    finished = [f"R{number}" for number, outcome in enumerate(outcomes) if outcome == "finished"]
    assert sorted(adapter.run_id or "" for adapter in store.adapters()) == finished


def tick_until(scheduler: Scheduler, closing: threading.Event) -> None:
    while not closing.wait(0.01):
        scheduler.tick()


def end_by_both(store: Store, run_id: str, later: float) -> str:
    """Cancel the run so many seconds after its worker has begun to tell; the state that it ends in, and stays in."""
    wait_for(store.home.run(run_id).events.exists)
    time.sleep(later)
    with suppress(RunError):  # it has finished already
        store.ask_to_end(run_id, "cancel")
    ended = wait_for(lambda: run if (run := store.run(run_id)).has_ended else None)
    with pytest.raises(RunError, match="has already ended"):
        store.ask_to_end(run_id, "cancel")
    assert ended.state in ("finished", "cancelled") and ended.error is None
    return ended.state


def test_a_cancel_after_the_last_word_changes_nothing(store: Store) -> None:
    add_dataset_row(store)
    queue_run(store, "R1")
    scheduler = scheduler_on(store.home.path, "finishes_but_stays")
    events = store.home.run("R1").events
    scheduler.tick()
    wait_for(lambda: any(event.event == "finished" for event in read_events(events)[0]))
    assert store.ask_to_end("R1", "cancel") == "stopping"
    (attempt,) = store.attempts()
    scheduler.tick()
    signal_group(attempt.worker.pid, attempt.worker.birth, signal.SIGKILL)

    def look() -> Run | None:
        scheduler.tick()
        run = store.run("R1")
        return run if run.has_ended else None

    ended = wait_for(look)
    assert ended.state == "finished" and [adapter.run_id for adapter in store.adapters()] == ["R1"]
    scheduler.close()


def test_a_wish_that_two_write_at_once_is_never_read_as_another(tmp_path: Path) -> None:
    """The service writes what somebody has asked for, and the scheduler delivers it, at the same moment."""
    control, closing, broken = tmp_path / "control", threading.Event(), []
    write_wish(control, "keep")

    def write() -> None:
        while not closing.is_set():
            try:
                write_wish(control, "keep")
            except OSError as error:
                broken.append(repr(error))

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    read = {read_wish(control) for _ in range(20_000)}
    closing.set()
    for writer in writers:
        writer.join()
    assert read == {"keep"} and broken == []
