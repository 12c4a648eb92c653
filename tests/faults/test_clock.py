"""FAULTS.md, row 40: a clock that is set, by an hour and more, while a run goes on and others wait."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import orjson

from core.events import StepDone
from jobs.home import PROJECT, RunFolder
from jobs.launchers.local import GATED
from jobs.store import Store
from tests.faults.moved_clock import move, moved
from tests.faults.trial import Trial
from tests.jobs.conftest import add_dataset_row, queue_run
from tests.jobs.waiting import wait_for
from tests.ui.stand_in import as_told
from ui.story import Story

HOUR = 3600.0


def test_a_clock_that_is_set_by_an_hour_changes_no_duration_and_ends_no_run(trial: Trial, tmp_path: Path) -> None:
    """An hour ahead, and two back, while the real worker steps and the scheduler follows."""
    offset = tmp_path / "offset"
    move(offset, 0)
    service = trial.service
    service._store._clock = moved(offset)
    launcher = service._scheduler._launcher
    launcher.command = (sys.executable, "-m", "tests.faults.moved_clock", str(offset), "jobs.worker", GATED)
    begin = time.monotonic()
    run = trial.begin()
    seen, pid = trial.wait_for_steps(run), trial.pid(run)
    wait_for(lambda: service.run(run.id).state == "running")
    for seconds in (HOUR, -HOUR):
        move(offset, seconds)
        seen = trial.wait_for_steps(run, seen + 200)
        now = service.run(run.id)
        assert (now.state, now.pid, now.silent_seconds) == ("running", pid, None)
    service.stop_run(run.id)
    ended = trial.rest(run)
    took = time.monotonic() - begin
    assert ended.state == "finished" and ended.error is None

    assert largest_jump(trial.folder(run)) > HOUR, "the worker's clock was not set"
    steps = [event for event in trial.events(run) if isinstance(event, StepDone)]
    assert all(0 < after.seconds - before.seconds < took for before, after in zip(steps, steps[1:], strict=False))
    story = Story()
    for event in trial.events(run):
        story.take(as_told(event))
    assert story.last is not None and 0 < story.last.seconds < took
    fewest = min(after.tokens - before.tokens for before, after in zip(steps, steps[1:], strict=False))
    assert all(speed > fewest / took for speed in story.speed.y[1:])


def largest_jump(folder: RunFolder) -> float:
    """By how much two events' times that follow each other differ at most."""
    times = [orjson.loads(line)["time"] for line in folder.events.read_bytes().splitlines()]
    return max(abs(after - before) for before, after in zip(times, times[1:], strict=False))


def test_an_app_started_under_another_clock_finds_its_run_again(trial: Trial, tmp_path: Path) -> None:
    run = trial.begin()
    seen = trial.wait_for_steps(run)
    pid = trial.pid(run)
    trial.service._scheduler.close()
    for seconds in (HOUR, -HOUR):
        move(tmp_path / "offset", seconds)
        command = [sys.executable, "-m", "tests.faults.moved_clock", str(tmp_path / "offset"), "tests.faults.look"]
        said = subprocess.run(
            [*command, str(trial.service.home), run.id], cwd=PROJECT, capture_output=True, text=True, check=True
        )
        assert said.stdout.split() == ["running", str(pid), "None"]
        seen = trial.wait_for_steps(run, seen)


def test_a_clock_that_is_set_back_lets_no_run_go_before_those_that_wait(store: Store) -> None:
    add_dataset_row(store)
    queue_run(store, "R1")
    store._clock = lambda: time.time() - HOUR
    queue_run(store, "R2")
    assert [run.id for run in store.queue()] == ["R1", "R2"]
