"""Measured probes: a real child on a tiny model, and what becomes of one that is stopped, refused or dies."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from core.config import RunConfig, parse
from core.data.records import Conversation, Message, write_records
from core.errors import RunError
from jobs.home import Home
from jobs.launchers.local import Worker, child_environment
from jobs.machine import CPU
from jobs.probes import Probes, probe_key
from jobs.store import Store
from tests.jobs.conftest import add_dataset_row, queue_run
from tests.jobs.stand_in_probe import BEHAVIOR
from tests.jobs.waiting import wait_for

STAND_IN = "tests.jobs.stand_in_probe"


def config_for(base: Path, **parts: object) -> RunConfig:
    optim = {"batch_size": 4, "epochs": 1.0}
    return parse({"name": "probe", "data": {"dataset_id": "D"}, "base_model": str(base), "optim": optim, **parts})


def conversation(row: int) -> Conversation:
    turns = (Message(role="user", content=f"{row}?"), Message(role="assistant", content="yes " * row))
    return Conversation(messages=turns, source_row=row)


@pytest.fixture
def probes(home: Home, store: Store, tmp_path: Path) -> Iterator[Probes]:
    add_dataset_row(store)
    records = home.records("D")
    records.parent.mkdir(parents=True)
    write_records([conversation(row) for row in range(1, 13)], records)
    environment = {**os.environ, **child_environment(tmp_path / "models")}
    probes = Probes(home, store, tmp_path / "models", environment, devices=lambda: (CPU,))
    yield probes
    probes.close()


def behaving(probes: Probes, behavior: str) -> Probes:
    """As `probes`, with a child that does nothing but this."""
    probes.module, probes.environment = STAND_IN, {**probes.environment, BEHAVIOR: behavior}
    return probes


def ended(probes: Probes, config: RunConfig) -> bool:
    return probes.state(config).state != "going on"


def test_a_probe_measures_in_a_child_and_is_remembered(probes: Probes, tiny_model: Path, home: Home) -> None:
    config = config_for(tiny_model)
    assert probes.state(config).state == "absent"
    assert probes.start(config).state == "going on"
    wait_for(lambda: ended(probes, config), 120)
    view = probes.state(config)
    assert view.state == "done", view.sentence
    figures = view.figures
    assert figures is not None and figures.tokens_per_second > 0
    assert figures.peak_bytes > 100_000_000 and not figures.is_beside_run
    assert list(home.runs.iterdir()) == [] and not (home.probes / "scratch").exists()
    again = Probes(home, probes.store, probes.models_root, probes.environment)
    renamed = replace(config, name="another", optim=replace(config.optim, learning_rate=1e-4, epochs=2.0))
    assert again.start(renamed).figures == figures
    assert again.all_figures() == (figures,)


def test_settings_that_change_memory_or_time_are_measured_anew(tiny_model: Path) -> None:
    config = config_for(tiny_model)
    others = [
        config_for(tiny_model, lora={"rank": 4}),
        config_for(tiny_model, quant={"bits": 4}),
        config_for(tiny_model, optim={"batch_size": 4, "checkpointing": True}),
        config_for(tiny_model, data={"dataset_id": "D", "max_tokens": 64}),
        config_for(tiny_model, method="full"),
    ]
    keys = [probe_key(other) for other in (config, *others)]
    assert len(set(keys)) == len(keys)
    assert probe_key(replace(config, name="another")) == keys[0]


def test_figures_of_another_machine_are_not_believed(probes: Probes, tiny_model: Path, home: Home) -> None:
    config = config_for(tiny_model)
    behaving(probes, "done").start(config)
    wait_for(lambda: ended(probes, config))
    (kept,) = home.probes.glob("*.json")
    values = json.loads(kept.read_text())
    assert probes.state(config).state == "done"
    kept.write_text(json.dumps(values | {"machine": {"memory": 1, "threads": 1}}))
    assert probes.state(config).state == "absent"
    kept.write_text("{")
    assert probes.state(config).state == "absent"


def test_one_that_goes_on_is_told_by_phase_stopped_and_alone(probes: Probes, tiny_model: Path, home: Home) -> None:
    config, other = config_for(tiny_model), config_for(tiny_model, lora={"rank": 2})
    behaving(probes, "endless").start(config)
    view = wait_for(lambda: view if (view := probes.state(config)).phase == "loading" else None)
    assert (view.state, view.detail) == ("going on", "a model")
    assert probes.start(config).state == "going on"  # the same one
    with pytest.raises(RunError, match="Another trial step goes on"):
        probes.start(other)
    probes.stop(other)  # which does not go on
    assert probes.state(config).state == "going on"
    work = probes._work
    assert work is not None and work.child is not None
    probes.stop(config)
    assert probes.state(config).state == "absent" and not work.child.is_alive
    assert not (home.probes / "scratch").exists()
    assert probes.start(other).state == "going on"


def test_a_probe_gives_its_device_back_to_a_run(probes: Probes, tiny_model: Path) -> None:
    config = config_for(tiny_model)
    behaving(probes, "endless").start(config)
    probes.leave("cuda:1")
    assert probes.state(config).state == "going on"
    probes.leave(CPU)
    view = probes.state(config)
    assert view.state == "failed" and "a run needed the device" in view.sentence


def test_beside_a_run_it_is_refused_unless_that_is_wished(probes: Probes, store: Store, tiny_model: Path) -> None:
    queue_run(store, "R")
    assert store.claim(lambda *_: Worker(os.getpid(), "one that lives"))
    config = config_for(tiny_model)
    with pytest.raises(RunError, match="A run is going on"):
        probes.start(config)
    behaving(probes, "done").start(config, beside_run=True)
    wait_for(lambda: ended(probes, config))
    figures = probes.state(config).figures
    assert figures is not None and figures.is_beside_run


def test_why_one_failed_is_said(probes: Probes, tiny_model: Path) -> None:
    config = config_for(tiny_model)
    for behavior, words in (("refuses", "Row 3 is odd"), ("dies", "by signal 9")):
        behaving(probes, behavior).start(config)
        wait_for(lambda: ended(probes, config))
        view = probes.state(config)
        assert view.state == "failed" and words in view.sentence


def test_a_model_that_is_not_here_is_not_fetched_for_it(probes: Probes) -> None:
    with pytest.raises(RunError, match="not on this machine"):
        probes.start(config_for(Path("starter")))


def test_room_is_made_on_its_device_before_it_starts(probes: Probes, tiny_model: Path) -> None:
    told: list[str] = []
    probes.make_room = told.append
    behaving(probes, "endless").start(config_for(tiny_model))
    assert told == [CPU]
