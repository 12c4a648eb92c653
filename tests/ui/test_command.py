from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from core.config import RunConfig
from jobs.commands import commands
from jobs.flags import FLAGS, settings
from jobs.recipes import TO_BE_READ, read_recipe
from tests.ui.stand_in import run_config
from tests.ui.test_forms import OTHER_VALUES
from ui import command


def typed(line: str) -> dict[str, Any]:
    """What the train command makes of `line`."""
    words = shlex.split(line.replace("\\\n", " "))
    assert words[:3] == ["python", "app.py", "train"]
    train = typer.main.get_command(commands).commands["train"]  # type: ignore[attr-defined]
    return dict(train.make_context("train", words[3:]).params)


def run_of(config: RunConfig, folder: Path) -> RunConfig:
    """The run that a terminal makes of the command and the file shown for `config`, on the same dataset."""
    given = typed(command.command_line(config, "captain.jsonl"))
    file = folder / command.CONFIG_FILE
    file.write_text(command.config_file(config))
    recipe = read_recipe(file if given["config"] else None, settings(given), given["data"])
    assert recipe.config.data.dataset_id == TO_BE_READ
    return replace(recipe.config, name=config.name, data=replace(recipe.config.data, dataset_id="d1"))


def test_the_default_run_needs_data_and_output_only() -> None:
    line = command.command_line(run_config(), "captain.jsonl")
    assert shlex.split(line.replace("\\\n", " "))[3:] == ["--data", "captain.jsonl", "--output", "captain-r8"]


@pytest.mark.parametrize(("path", "values"), OTHER_VALUES, ids=lambda value: str(value)[:50])
def test_the_command_makes_the_same_run_as_the_form(tmp_path: Path, path: str, values: dict[str, Any]) -> None:
    config = run_config(**values)
    assert run_of(config, tmp_path) == config


def test_every_option_is_a_setting_of_its_own() -> None:
    assert len({flag.path for flag in FLAGS}) == len({flag.name for flag in FLAGS}) == len(FLAGS)
    named = {path for path, _ in OTHER_VALUES} | {"base_model"}
    assert {flag.path for flag in FLAGS} <= named


@pytest.mark.parametrize("value", [True, False])
def test_a_switch_can_be_turned_both_ways(value: bool) -> None:
    switches = [flag for flag in FLAGS if flag.kind == "switch"]
    words = [word for flag in switches for word in flag.words(value)]
    given = typed(" ".join(["python app.py train --data a --output b", *words]))
    assert settings(given).items() >= {flag.path: value for flag in switches}.items() and switches


def test_changed_settings_are_options_and_those_without_one_are_in_the_file() -> None:
    config = run_config(lora={"rank": 16, "targets": ("q_proj", "v_proj"), "dropout": 0.1}, optim={"warmup": 0.2})
    line = command.command_line(config, "captain.jsonl")
    for part in ("--rank 16", "--targets q_proj,v_proj", f"--config {command.CONFIG_FILE}"):
        assert part in line
    assert yaml.safe_load(command.config_file(config)) == {"lora": {"dropout": 0.1}, "optim": {"warmup": 0.2}}


def test_what_a_person_typed_cannot_leave_its_argument() -> None:
    tokens = ["; rm -rf ~", "--seed 3", "$(id)"]
    config = run_config(name="x; rm -rf ~", base_model="/models/$(id)", lora={"new_tokens": tokens})
    given = typed(command.command_line(config, "a b'c.jsonl"))
    assert str(given["output"]) == "x; rm -rf ~"
    assert given["model"] == "/models/$(id)"
    assert str(given["data"]) == "a b'c.jsonl"
    assert list(given["new_token"]) == tokens and given["seed"] is None
