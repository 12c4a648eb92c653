"""Checkpoints as the service tells and opens them; the engine's part is in tests/core/train/test_opened.py."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.config import RunConfig, parse
from core.data.records import Message
from core.errors import NotFound, RunError
from jobs.checkpoints import Checkpoints
from jobs.home import Home
from jobs.launchers.local import child_environment
from jobs.service import Delta, Pane, Service
from jobs.store import Store
from tests.jobs.conftest import add_dataset_row, queue_run
from tests.jobs.waiting import wait_for

ASK = (Message(role="user", content="hello"),)


@pytest.fixture
def checkpoints(home: Home, store: Store) -> Iterator[Checkpoints]:
    add_dataset_row(store)
    yield Checkpoints(home, store, child_environment(home.path), module="tests.jobs.stand_in_opener")


def write_checkpoint(home: Home, run_id: str, step: int, content: str = "whole") -> Path:
    folder = home.run(run_id).checkpoints / f"step-{step:08d}"
    folder.mkdir(parents=True)
    (folder / "tensors.safetensors").write_text(content)
    return folder


def test_the_newest_run_and_its_newest_checkpoint_come_first(
    checkpoints: Checkpoints, home: Home, store: Store
) -> None:
    for run_id in ("A", "B", "C"):
        queue_run(store, run_id)
    for run_id, step in (("A", 10), ("A", 20), ("C", 5)):
        write_checkpoint(home, run_id, step)
    (home.run("C").checkpoints / "tmp-00000006").mkdir()  # is being written
    found = [(one.run_id, one.step, one.is_going_on, one.path) for one in checkpoints.all()]
    assert sorted(found) == [("A", 10, True, None), ("A", 20, True, None), ("C", 5, True, None)]
    assert [one.step for one in checkpoints.of("A")] == [20, 10] and checkpoints.of("B") == ()


def test_one_that_is_opened_survives_the_runs_clearing_up(checkpoints: Checkpoints, home: Home, store: Store) -> None:
    queue_run(store, "A")
    folder = write_checkpoint(home, "A", 10)
    (home.run("A").opened / "tmp-x").mkdir(parents=True)  # left by an app that was killed
    found = checkpoints.open("A", 10)
    assert found.path is not None and found.path.is_dir() and found.fingerprint
    shutil.rmtree(folder)
    assert checkpoints.open("A", 10) == found and [one.path for one in checkpoints.of("A")] == [found.path]
    assert [path.name for path in home.run("A").opened.iterdir()] == ["step-00000010"]  # nothing half made beside it


def test_one_that_is_cleared_away_while_it_is_opened_is_opened_all_the_same(
    checkpoints: Checkpoints, home: Home, store: Store
) -> None:
    queue_run(store, "A")
    folder = write_checkpoint(home, "A", 10, content=f"remove {home.run('A').checkpoints}")
    assert checkpoints.open("A", 10).path is not None and not folder.exists()


def test_what_is_not_there_any_more_is_said(checkpoints: Checkpoints, home: Home, store: Store) -> None:
    queue_run(store, "A")
    with pytest.raises(NotFound, match="no checkpoint of step 10 any more"):
        checkpoints.open("A", 10)
    with pytest.raises(NotFound):
        checkpoints.open("nobody", 10)
    assert checkpoints.all() == ()


@pytest.mark.parametrize(("content", "words"), [("refuse", "layer 3"), ("die", "ended with -9")])
def test_why_one_could_not_be_opened_is_said_and_nothing_is_left(
    checkpoints: Checkpoints, home: Home, store: Store, content: str, words: str
) -> None:
    queue_run(store, "A")
    write_checkpoint(home, "A", 10, content=content)
    with pytest.raises(RunError, match=words):
        checkpoints.open("A", 10)
    assert list(home.run("A").opened.iterdir()) == [] and checkpoints.of("A")[0].path is None


@pytest.mark.parametrize("values", [{"method": "full"}, {"task": "classification"}])
def test_what_does_not_talk_is_not_offered(
    checkpoints: Checkpoints, home: Home, store: Store, values: dict[str, str]
) -> None:
    config: RunConfig = parse({"name": "other", "data": {"dataset_id": "D"}, **values})
    home.run("A").path.mkdir()
    store.add_run("A", config, None)
    write_checkpoint(home, "A", 10)
    assert checkpoints.all() == ()
    with pytest.raises(RunError, match="no adapter that talks"):
        checkpoints.open("A", 10)


def test_a_run_that_goes_on_is_talked_with(service: Service, dataset_file: Path, tiny_model: Path) -> None:
    """The real thing: a worker trains, its newest checkpoint is opened, and answers beside the base."""
    dataset = service.data.add(dataset_file)
    config = {
        "name": "going", "base_model": str(tiny_model), "data": {"dataset_id": dataset.id}, "quant": {"bits": 32},
        "lora": {"rank": 4}, "optim": {"steps": 5000, "batch_size": 2, "evaluations": 500, "learning_rate": 0.01},
    }  # fmt: skip
    service.start()
    run = service.submit(parse(config))
    wait_for(lambda: bool(service.checkpoints.of(run.id)), seconds=120)
    newest = service.checkpoints.of(run.id)[0]
    assert newest.is_going_on and newest in service.checkpoints.all()
    opened = service.checkpoints.open(run.id, newest.step)
    panes = [Pane(adapter=None, messages=ASK), Pane(adapter=str(opened.path), messages=ASK)]
    said = {update.pane for update in service.chat(panes, max_new_tokens=5) if isinstance(update, Delta)}
    assert said == {0, 1} and service.run(run.id).state == "running"
    service.cancel_run(run.id)
    wait_for(lambda: service.run(run.id).has_ended, seconds=30)
