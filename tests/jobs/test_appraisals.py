"""What runs learned, as workers and children measure it: at the end, on request, stopped, killed."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.instruments.past_runs import add_past_runs
from core.analysis.appraisal import FILE, Appraisal, read_appraisal, write_appraisal
from core.config import parse
from core.errors import NotFound, RunError
from core.events import Appraised, EvalDone, Event, Finished, Note, Paused, Started
from core.train.appraising import MARKER
from jobs.appraisals import Appraisals, AppraisalView
from jobs.evaluations import evaluations_in
from jobs.home import Home
from jobs.journal import EventWriter
from jobs.launchers.local import child_environment
from jobs.machine import CPU
from jobs.service import Service
from jobs.store import Store
from tests.jobs.stand_in_appraiser import BEHAVIOR
from tests.jobs.test_service_results import finish
from tests.jobs.test_worker import events_of, run_folder, start, write_config
from tests.jobs.waiting import wait_for

STAND_IN = "tests.jobs.stand_in_appraiser"


def kinds(events: tuple[Event, ...]) -> list[str]:
    return [event.event for event in events]


# ---- at the end of a worker


def test_a_worker_ends_with_what_was_learned(home: Home, tiny_model: Path) -> None:
    folder = run_folder(home, str(tiny_model))
    assert start(folder).wait(120) == 0
    events, appraisal = events_of(folder), read_appraisal(folder.path)
    assert kinds(events)[-2:] == ["appraised", "finished"] and appraisal is not None
    assert appraisal.step == 6 and len(appraisal.modules) == 14 and appraisal.trained is not None
    assert [answer.prompt for answer in appraisal.answers] == ["3?"]


def test_a_report_that_cannot_be_written_leaves_the_run_finished(home: Home, tiny_model: Path) -> None:
    folder = run_folder(home, str(tiny_model))
    (folder.path / f"{FILE}.tmp").mkdir()  # in the way of the file
    assert start(folder).wait(120) == 0
    events = events_of(folder)
    assert isinstance(events[-1], Finished) and not any(isinstance(event, Appraised) for event in events)
    assert any(isinstance(event, Note) and "could not be measured" in event.text for event in events)
    assert "Traceback" in folder.log.read_text() and folder.adapter.is_dir()


def test_a_worker_killed_while_it_measures_loses_nothing(home: Home, tiny_model: Path) -> None:
    folder = run_folder(home, str(tiny_model))
    way = folder.path / f"{FILE}.tmp"
    os.mkfifo(way)  # whoever writes there waits until somebody reads
    worker = start(folder)
    wait_for(lambda: "appraising" in kinds(events_of(folder)), 120)
    worker.send_signal(signal.SIGKILL)
    worker.wait(30)
    assert "finished" not in kinds(events_of(folder)) and (folder.path / MARKER).exists()
    before = (folder.adapter / "adapter_model.safetensors").read_bytes()
    way.unlink()
    assert start(folder).wait(120) == 0
    events = events_of(folder)
    assert isinstance(events[-1], Finished) and events[-1].steps == 6
    assert (folder.adapter / "adapter_model.safetensors").read_bytes() == before
    assert any(isinstance(event, Note) and "ended while it did so" in event.text for event in events)


def test_a_run_that_was_paused_is_measured_with_its_evaluations_from_before(home: Home, tiny_model: Path) -> None:
    folder = run_folder(home, str(tiny_model), steps=60)
    config = parse(json.loads(folder.config.read_text()) | {"data": {"dataset_id": "D", "holdout": 0.25}})
    write_config(folder, config)
    worker = start(folder)
    wait_for(lambda: "eval" in kinds(events_of(folder)) and "step" in kinds(events_of(folder)), 120)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0 and isinstance(events_of(folder)[-1], Paused)
    assert start(folder).wait(120) == 0
    appraisal, told = read_appraisal(folder.path), evaluations_in(folder.events)
    assert appraisal is not None and dict(appraisal.evaluations) == told and {0, 60} <= told.keys()


def test_evaluations_behind_a_checkpoint_are_those_of_the_second_time(home: Home) -> None:
    events = home.path / "events.jsonl"
    again = Started(
        steps=9, first_step=3, train_rows=1, eval_rows=1, tokens_per_epoch=1, trained_tokens_per_epoch=1,
        trainable_parameters=1, base_parameters=1, adapted_modules=1, bits=16, compute_dtype="float32", device="cpu",
    )  # fmt: skip
    assert evaluations_in(events) == {}
    with EventWriter(events) as writer:
        for event in (EvalDone(step=0, loss=5), EvalDone(step=2, loss=4), EvalDone(step=4, loss=3), again):
            writer.write(event)
        assert evaluations_in(events) == {0: 5, 2: 4}
        writer.write(EvalDone(step=4, loss=2))
    assert evaluations_in(events) == {0: 5, 2: 4, 4: 2}


# ---- when somebody asks


@pytest.fixture
def appraisals(home: Home, store: Store) -> Iterator[Appraisals]:
    made = Appraisals(home, store, {**os.environ, **child_environment(home.path)}, devices=lambda: (CPU,))
    made.module = STAND_IN
    yield made
    made.close()


@pytest.fixture
def past(home: Home) -> list[str]:
    """Two runs that finished before there was any of this."""
    return add_past_runs(home.path, 2, steps=30)


def begin(appraisals: Appraisals, run_id: str, behavior: str) -> None:
    appraisals._environment = {**appraisals._environment, BEHAVIOR: behavior}
    appraisals.start(run_id)


def seen(appraisals: Appraisals, run_id: str) -> AppraisalView:
    return appraisals.of(appraisals._store.run(run_id))


def test_an_older_run_is_measured_when_somebody_asks(service: Service, dataset_file: Path, tiny_model: Path) -> None:
    run = service.run(finish(service, dataset_file, tiny_model))
    assert service.appraisals.of(run).state == "absent"
    folder = service.home / "runs" / run.id
    worked = run_folder(Home(service.home), str(tiny_model), "other")
    config = parse(json.loads(worked.config.read_text()) | {"data": {"dataset_id": run.config.data.dataset_id}})
    write_config(worked, config)
    assert start(worked).wait(120) == 0
    (folder / "config.json").write_text(worked.config.read_text())
    for file in worked.adapter.iterdir():
        (folder / "adapter" / file.name).write_bytes(file.read_bytes())
    service.appraisals.start(run.id)
    assert service.appraisals.of(run).state == "going on"
    service.appraisals.start(run.id)  # that goes on already
    wait_for(lambda: service.appraisals.of(run).state != "going on", 120)
    view, at_end = service.appraisals.of(run), read_appraisal(worked.path)
    assert view.state == "done" and view.appraisal is not None and at_end is not None, view.problem
    assert view.appraisal.trained == at_end.trained and view.appraisal.held_out == at_end.held_out
    assert view.appraisal.answers == at_end.answers


def test_one_that_goes_on_tells_how_far_it_is_and_is_stopped(appraisals: Appraisals, past: list[str]) -> None:
    begin(appraisals, past[0], "endless")
    view = wait_for(lambda: view if (view := seen(appraisals, past[0])).share_done else None)
    assert (view.state, view.phase, view.share_done) == ("going on", "measuring", 0.5)
    assert seen(appraisals, past[1]).state == "absent"
    with pytest.raises(RunError, match="Another run is being measured"):
        appraisals.start(past[1])
    errand = appraisals._errand
    assert errand is not None and errand._child is not None
    child = errand._child
    appraisals.stop(past[1])  # not that one
    assert child.is_alive
    appraisals.stop(past[0])
    assert not child.is_alive and seen(appraisals, past[0]).state == "absent"


def test_one_that_is_stopped_or_killed_leaves_what_was_known_before(
    appraisals: Appraisals, past: list[str], home: Home
) -> None:
    write_appraisal(home.run(past[0]).path, Appraisal(step=7))
    begin(appraisals, past[0], "endless")
    appraisals.stop(past[0])
    view = seen(appraisals, past[0])
    assert view.state == "done" and view.appraisal == Appraisal(step=7)
    begin(appraisals, past[0], "dies")
    wait_for(lambda: seen(appraisals, past[0]).state == "failed")
    view = seen(appraisals, past[0])
    assert view.problem is not None and "by signal 9" in view.problem.title and view.appraisal == Appraisal(step=7)


def test_a_refusal_is_told_in_its_words_and_can_be_tried_again(appraisals: Appraisals, past: list[str]) -> None:
    begin(appraisals, past[0], "refuses")
    wait_for(lambda: seen(appraisals, past[0]).state == "failed")
    view = seen(appraisals, past[0])
    assert view.problem is not None and (view.problem.title, view.problem.hint) == ("Row 3 is odd", "Remove it")
    begin(appraisals, past[0], "works")
    wait_for(lambda: seen(appraisals, past[0]).state == "done")
    found = seen(appraisals, past[0]).appraisal
    assert found is not None and found.step == 30  # as the run's events tell


def test_a_run_that_needs_the_device_gets_it(appraisals: Appraisals, past: list[str]) -> None:
    begin(appraisals, past[0], "endless")
    appraisals.leave("cuda:0")
    assert seen(appraisals, past[0]).state == "going on"
    appraisals.leave(CPU)
    view = seen(appraisals, past[0])
    assert view.state == "failed" and view.problem is not None and "A run needed the device" in view.problem.title


def test_room_is_made_on_the_device_and_none_is_taken_from_a_run(
    home: Home, store: Store, past: list[str], appraisals: Appraisals
) -> None:
    asked: list[str] = []
    appraisals._make_room = asked.append
    begin(appraisals, past[0], "works")
    assert asked == [CPU]
    wait_for(lambda: seen(appraisals, past[0]).state == "done")
    appraisals._devices = lambda: ()
    with pytest.raises(RunError, match="A run is going on"):
        appraisals.start(past[0])


def test_only_a_run_that_has_finished_is_measured(home: Home, store: Store, appraisals: Appraisals) -> None:
    (run_id,) = add_past_runs(home.path, 1, steps=3, state="cancelled")
    assert seen(appraisals, run_id).state == "too soon"
    with pytest.raises(RunError, match="is cancelled"):
        appraisals.start(run_id)
    with pytest.raises(NotFound):
        appraisals.start("nobody")


def test_two_who_ask_at_once_start_one_process(appraisals: Appraisals, past: list[str]) -> None:
    appraisals._environment = {**appraisals._environment, BEHAVIOR: "endless"}
    threads = [threading.Thread(target=appraisals.start, args=(past[0],)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    errand = appraisals._errand
    assert errand is not None and errand._child is not None and seen(appraisals, past[0]).state == "going on"
    pid = errand._child.pid
    appraisals.start(past[0])
    assert appraisals._errand is errand and errand._child.pid == pid
