"""Figures for TensorBoard and others: what they get, once, and that none of them can stop a run."""

from __future__ import annotations

import struct
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from benchmarks.instruments.past_runs import history
from core.config import RunConfig, parse
from core.errors import ConfigError
from core.events import Event, Finished, Note, Started, StepDone
from jobs.home import RunFolder
from jobs.journal import EventWriter
from jobs.trackers import Trackers, require_installed

Scalars = dict[str, list[tuple[int, float]]]


@pytest.fixture
def config() -> RunConfig:
    return parse({"name": "captain", "data": {"dataset_id": "D"}})


def scalars(folder: Path) -> Scalars:
    """All that the event files in `folder` hold, by the frames that TensorFlow's record format says."""
    from tensorboardX.proto import event_pb2

    found: Scalars = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        content = path.read_bytes()
        at = 0
        while at < len(content):
            (size,) = struct.unpack("<Q", content[at : at + 8])
            event = event_pb2.Event.FromString(content[at + 12 : at + 12 + size])
            at += 16 + size
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def carry_out(folder: RunFolder, config: RunConfig, events: list[Event]) -> list[Note]:
    """What a worker does with the events of one attempt; the notes that its trackers gave."""
    trackers, notes = Trackers(folder, config), []
    with EventWriter(folder.events) as writer:
        for event in events:
            writer.write(event)
            notes += trackers.take(event)
    trackers.close()
    return notes


def attempt(first_step: int, last_step: int, steps: int = 8) -> list[Event]:
    """The events of an attempt from a step to a step."""
    told = [event for event in history(steps, evaluations=4) if not isinstance(event, Finished)]
    start = next(event for event in told if isinstance(event, Started))
    first = 0 if first_step == 1 else first_step
    rest = [event for event in told if first <= getattr(event, "step", -1) <= last_step]
    return [replace(start, first_step=first_step), *rest]


def test_tensorboard_gets_every_figure_of_every_step(tmp_path: Path, config: RunConfig) -> None:
    folder = RunFolder(tmp_path)
    assert carry_out(folder, config, attempt(1, 8)) == []
    found = scalars(folder.tensorboard)
    steps = [event for event in history(8, evaluations=4) if isinstance(event, StepDone)]
    assert found["loss/train"] == [(event.step, pytest.approx(event.loss)) for event in steps]
    for tag in ("epoch", "learning_rate", "gradient_norm", "tokens", "memory/process_bytes"):
        assert [step for step, _ in found[tag]] == list(range(1, 9)), tag
    for tag in ("loss/held_out", "perplexity", "token_accuracy"):
        assert [step for step, _ in found[tag]] == [0, 2, 4, 6, 8], tag
    assert found["tokens_per_second"][0][1] == pytest.approx(800 / 1.1, rel=0.05)


def test_a_resumed_run_goes_on_without_a_step_told_twice_or_left_out(tmp_path: Path, config: RunConfig) -> None:
    """It was killed after step 5, whose checkpoint is of step 4, and again at once."""
    folder = RunFolder(tmp_path)
    carry_out(folder, config, attempt(1, 5))
    carry_out(folder, config, attempt(5, 5))
    carry_out(folder, config, attempt(5, 8))
    found = scalars(folder.tensorboard)
    assert [step for step, _ in found["loss/train"]] == list(range(1, 9))
    assert [step for step, _ in found["loss/held_out"]] == [0, 2, 4, 6, 8]


def test_a_tracker_that_is_not_installed_is_refused_before_the_run() -> None:
    require_installed("none")
    with pytest.raises(ConfigError, match="Weights & Biases is not installed.*pip install wandb") as raised:
        require_installed("wandb")
    assert raised.value.field == "tracker"


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A stand-in for wandb, and what it was told."""
    told: dict[str, Any] = {"steps": []}

    def init(**settings: Any) -> Any:
        told["settings"] = settings
        return SimpleNamespace(log=lambda values, step: told["steps"].append((step, values)), finish=lambda: None)

    module = ModuleType("wandb")
    module.init = init  # type: ignore[attr-defined]
    module.__spec__ = SimpleNamespace(name="wandb")  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "wandb", module)
    return told


def test_another_tracker_gets_the_same_and_the_settings_and_no_secret(
    tmp_path: Path, config: RunConfig, elsewhere: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "CANARY-7Qm2")
    folder = RunFolder(tmp_path / "R1")
    folder.path.mkdir()
    assert carry_out(folder, replace(config, tracker="wandb"), attempt(1, 4)) == []
    assert {step for step, _ in elsewhere["steps"]} == set(range(5))
    settings = elsewhere["settings"]
    assert settings["project"] == "lora-workbench" and settings["id"] == "R1" and settings["resume"] == "allow"
    assert settings["config"]["lora.rank"] == 8
    assert "CANARY" not in repr(settings)
    assert not any(b"CANARY" in path.read_bytes() for path in folder.path.rglob("*") if path.is_file())


def test_a_tracker_that_fails_is_told_of_once_and_the_others_go_on(
    tmp_path: Path, config: RunConfig, elsewhere: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: Any) -> None:
        raise ConnectionError("no route to host\nand more")

    monkeypatch.setattr(sys.modules["wandb"], "init", refuse)
    folder = RunFolder(tmp_path)
    notes = carry_out(folder, replace(config, tracker="wandb"), attempt(1, 8))
    assert [note.text for note in notes] == [
        "Weights & Biases gets no more figures of this run: ConnectionError: no route to host"
    ]
    assert len(scalars(folder.tensorboard)["loss/train"]) == 8


def test_a_folder_that_cannot_be_written_costs_the_files_and_not_the_run(tmp_path: Path, config: RunConfig) -> None:
    folder = RunFolder(tmp_path)
    folder.tensorboard.write_text("a file where the folder should be")
    (note,) = carry_out(folder, config, attempt(1, 3))
    assert note.text.startswith("TensorBoard gets no more figures of this run: ")
