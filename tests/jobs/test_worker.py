"""The real worker on a tiny model: what it tells when it fails, is terminated, or is killed and goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from core.config import RunConfig, parse, to_dict
from core.data.records import Conversation, Message, write_records
from core.events import Event, Failed, Paused, Sample, StepDone
from jobs.home import PROJECT, Home, RunFolder
from jobs.journal import read_events
from jobs.summaries import summary_of
from tests.jobs.test_trackers import scalars
from tests.jobs.waiting import wait_for


def run_folder(home: Home, model: str, name: str = "R", steps: int = 6) -> RunFolder:
    """A run's folder as the service makes it, on a dataset of eight conversations."""
    values = {"name": name, "base_model": model, "data": {"dataset_id": "D"}, "lora": {"rank": 4}}
    values["samples"] = {"prompts": ["3?"]}
    config = parse({**values, "optim": {"steps": steps, "batch_size": 2, "evaluations": min(steps, 1000)}})
    records = home.records("D")
    records.parent.mkdir(exist_ok=True)
    turns = [
        (Message(role="user", content=f"{i}?"), Message(role="assistant", content=f"It be {i}.")) for i in range(8)
    ]
    write_records([Conversation(messages=turn, source_row=i) for i, turn in enumerate(turns, 1)], records)
    folder = home.run(name)
    folder.path.mkdir()
    write_config(folder, config)
    return folder


def write_config(folder: RunFolder, config: RunConfig) -> None:
    folder.config.write_text(json.dumps(to_dict(config)))


def start(folder: RunFolder, **environment: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "jobs.worker", str(folder.path)]
    with folder.log.open("ab") as log:
        return subprocess.Popen(command, cwd=PROJECT, stderr=log, env={**os.environ, **environment})


def events_of(folder: RunFolder) -> tuple[Event, ...]:
    return read_events(folder.events)[0]


def test_a_refusal_is_told_in_its_own_words(home: Home) -> None:
    folder = run_folder(home, "/no/such/model")
    assert start(folder).wait(120) == 1
    last = events_of(folder)[-1]
    assert isinstance(last, Failed) and "/no/such/model" in last.title and last.hint


def test_a_fault_of_ours_is_told_and_its_traceback_logged(home: Home, tiny_model: Path) -> None:
    folder = run_folder(home, str(tiny_model))
    home.records("D").write_text("no JSON\n")
    assert start(folder).wait(120) == 1
    last = events_of(folder)[-1]
    assert isinstance(last, Failed) and "fault of ours: JSONDecodeError" in last.title
    assert "Traceback" in folder.log.read_text()


def test_sigterm_while_it_steps_pauses_the_run(home: Home, tiny_model: Path) -> None:
    folder = run_folder(home, str(tiny_model), steps=100_000)
    worker = start(folder)
    wait_for(lambda: any(event.event == "step" for event in events_of(folder)), 120)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    last = events_of(folder)[-1]
    assert isinstance(last, Paused) and last.step > 0 and not last.title
    assert (folder.path / "checkpoints" / f"step-{last.step:08d}").is_dir() and not folder.adapter.exists()


def test_a_run_killed_and_resumed_ends_with_the_weights_of_one_that_was_not(home: Home, tiny_model: Path) -> None:
    straight = run_folder(home, str(tiny_model), "straight", steps=14)
    assert start(straight).wait(120) == 0
    killed = run_folder(home, str(tiny_model), "killed", steps=14)
    write_config(killed, replace(parse(json.loads(straight.config.read_text())), name="killed"))
    worker = start(killed)
    wait_for(lambda: sum(event.event == "saved" for event in events_of(killed)) >= 2, 120)
    worker.kill()
    worker.wait()
    with killed.events.open("ab") as file:
        file.write(b'{"event": "step", "st')  # as a kill in the middle of a write leaves it
    assert start(killed).wait(120) == 0
    weights = [folder.adapter / "adapter_model.safetensors" for folder in (straight, killed)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    first_steps = [event.first_step for event in events_of(killed) if event.event == "started"]
    assert first_steps[0] == 1 and first_steps[-1] > 2
    for folder in (straight, killed):
        told = [step for step, _ in scalars(folder.tensorboard)["loss/train"]]
        assert len(set(told)) == len(told) >= 13 and set(told) <= {*range(1, 15)}  # a kill may cost the step it hit
        assert summary_of(folder).step == 14 and folder.summary.exists()
    samples = [[event for event in events_of(folder) if isinstance(event, Sample)] for folder in (straight, killed)]
    assert samples[0] and {(each.step, each.text) for each in samples[0]} == {(e.step, e.text) for e in samples[1]}


def test_a_run_that_is_resumed_tells_trackio_of_each_step_once(home: Home, tiny_model: Path, tmp_path: Path) -> None:
    folder = run_folder(home, str(tiny_model), steps=1000)
    config = parse(json.loads(folder.config.read_text()))
    write_config(folder, replace(config, tracker="trackio"))
    worker = start(folder, TRACKIO_DIR=str(tmp_path / "trackio"))
    wait_for(lambda: sum(isinstance(event, StepDone) for event in events_of(folder)) > 3)
    worker.terminate()
    assert worker.wait(30) == 0 and isinstance(events_of(folder)[-1], Paused)
    folder.control.write_text("keep")
    assert start(folder, TRACKIO_DIR=str(tmp_path / "trackio")).wait(60) == 0
    steps = [event.step for event in events_of(folder) if isinstance(event, StepDone)]
    read = "import json; from trackio.sqlite_storage import SQLiteStorage as s\n"
    read += "print(json.dumps([s.get_logs('lora-workbench', each) for each in s.get_runs('lora-workbench')]))"
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio")}
    (logs,) = json.loads(subprocess.check_output([sys.executable, "-c", read], env=environment).splitlines()[-1])
    assert [each["step"] for each in logs if "loss/train" in each] == steps


def test_a_gated_worker_leaves_when_nobody_lets_it_go(home: Home) -> None:
    folder = run_folder(home, "starter")
    command = [sys.executable, "-m", "jobs.worker", "--gated", str(folder.path)]
    assert subprocess.run(command, cwd=PROJECT, stdin=subprocess.DEVNULL, check=False).returncode == 0
    assert not folder.events.exists()
    assert os.listdir(folder.path) == ["config.json"]
