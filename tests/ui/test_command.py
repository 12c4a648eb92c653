from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer.main

from core.config import RunConfig, parse
from core.data.formats.mapping import Mapping
from jobs.commands import commands
from jobs.flags import FLAGS, settings
from jobs.home import PROJECT
from jobs.recipes import TO_BE_READ, Source, read_recipe
from jobs.service import Service
from tests.jobs.tiny_model import write_tiny_model
from tests.ui.stand_in import dataset, run_config
from tests.ui.test_forms import OTHER_VALUES
from ui import command


def typed(line: str) -> dict[str, Any]:
    """What the train command makes of `line`."""
    words = shlex.split(line.replace("\\\n", " "))
    assert words[:3] == ["python", "app.py", "train"]
    train = typer.main.get_command(commands).commands["train"]  # type: ignore[attr-defined]
    return dict(train.make_context("train", words[3:]).params)


def run_of(config: RunConfig) -> RunConfig:
    """The run that a terminal makes of the command shown for `config`, on the same dataset."""
    given = typed(command.command_line(config, ["--data", "captain.jsonl"]))
    recipe = read_recipe(None, settings(given), Source(file=given["data"]))
    assert recipe.config.data.dataset_id == TO_BE_READ and given["config"] is None
    return replace(recipe.config, data=replace(recipe.config.data, dataset_id="d1"))


def test_the_default_run_needs_data_output_and_a_name_only() -> None:
    line = command.command_line(run_config(), ["--data", "captain.jsonl"])
    wanted = ["--data", "captain.jsonl", "--output", "captain-r8", "--name", "captain-r8"]
    assert shlex.split(line.replace("\\\n", " "))[3:] == wanted


def test_what_a_person_said_of_the_file_is_said_on_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "sides, all.csv"
    file.write_text("left side,a: b\nWas?,Das.\nWer?,Ich.\nWann?,\n", encoding="utf-8")
    mapping = Mapping(format="prompt_completion", columns={"prompt": "left side", "completion": "a: b"})
    service = Service(tmp_path / "home")
    dataset = service.data.add(file, mapping=mapping, skip_bad_rows=True)
    line = command.command_line(run_config(), command.data_options(dataset, service.data.about(dataset.id), str(file)))
    given = typed(line)
    source = Source.typed(given["data"], given["dataset"], given["columns"], given["skip_bad_rows"])
    assert source == Source(file=file, columns=mapping, skips_bad_rows=True)
    plain = command.data_options(replace(dataset, skipped=0), None, str(file))
    assert plain == ["--data", str(file)]
    service.close()


def test_a_dataset_without_a_file_of_its_own_is_named_by_its_id() -> None:
    line = command.command_line(run_config(), command.data_options(dataset(), None, None))
    given = typed(line)
    recipe = read_recipe(None, settings(given), Source.typed(None, given["dataset"], None, False))
    assert recipe.config.data.dataset_id == dataset().id and recipe.source.file is None


@pytest.mark.parametrize(("path", "values"), OTHER_VALUES, ids=lambda value: str(value)[:50])
def test_the_command_makes_the_same_run_as_the_form(path: str, values: dict[str, Any]) -> None:
    config = run_config(**values)
    assert run_of(config) == config


def test_steps_win_over_epochs_in_the_command_too() -> None:
    config = run_config(optim={"steps": 60, "epochs": 1.5})
    assert run_of(config) == run_config(optim={"steps": 60})


def test_every_option_is_a_setting_of_its_own() -> None:
    assert len({flag.path for flag in FLAGS}) == len({flag.name for flag in FLAGS}) == len(FLAGS)
    assert {flag.path for flag in FLAGS} == {path for path, _ in OTHER_VALUES} | {"base_model", "name"}


@pytest.mark.parametrize("value", [True, False])
def test_a_switch_can_be_turned_both_ways(value: bool) -> None:
    switches = [flag for flag in FLAGS if flag.kind == "switch"]
    words = [word for flag in switches for word in flag.words(value)]
    given = typed(" ".join(["python app.py train --data a --output b", *words]))
    assert settings(given).items() >= {flag.path: value for flag in switches}.items() and switches


def test_the_shown_command_run_in_a_shell_is_the_run_of_the_form(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "a model")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "ab", "completion": "cd"}) + "\n", encoding="utf-8")
    (tmp_path / "app.py").symlink_to(PROJECT / "app.py")
    changed = {"rank": 2, "dropout": 0.1, "layers": [1], "new_tokens": ["<it's>"], "rank_pattern": {"q_proj": 4}}
    data = {"dataset_id": "d1", "holdout": 0, "max_tokens": 64}
    config = run_config(name="the run", base_model=str(model), lora=changed, data=data, optim={"steps": 1, "warmup": 0})
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "LORA_WORKBENCH_HOME": str(tmp_path / "home")}
    line = command.command_line(config, ["--data", "rows.jsonl"])
    done = subprocess.run(
        ["sh", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    (kept,) = (tmp_path / "home" / "runs").glob("*/config.json")
    made = parse(json.loads(kept.read_text(encoding="utf-8")))
    assert replace(made, data=replace(made.data, dataset_id="d1")) == config
    assert (tmp_path / "the run" / "adapter_config.json").is_file()


def test_what_a_person_typed_cannot_leave_its_argument() -> None:
    tokens = ["; rm -rf ~", "--seed 3", "$(id)"]
    config = run_config(name="x; rm -rf ~", base_model="/models/$(id)", lora={"new_tokens": tokens})
    given = typed(command.command_line(config, ["--data", "a b'c.jsonl"]))
    assert str(given["output"]) == "x; rm -rf ~"
    assert given["model"] == "/models/$(id)"
    assert str(given["data"]) == "a b'c.jsonl"
    assert list(given["new_token"]) == tokens and given["seed"] is None
