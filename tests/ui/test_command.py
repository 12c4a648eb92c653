from __future__ import annotations

import shlex

import typer.main
import yaml

from jobs.commands import commands
from tests.ui.stand_in import run_config
from ui import command, forms


def flags(line: str) -> dict[str, str]:
    words = shlex.split(line.replace("\\\n", " "))
    assert words[:3] == ["python", "app.py", "train"]
    return dict(zip(words[3::2], words[4::2], strict=True))


def test_the_default_run_needs_data_and_output_only() -> None:
    assert flags(command.command_line(run_config(), "captain.jsonl")) == {
        "--data": "captain.jsonl",
        "--output": "captain-r8",
    }


def test_every_flag_of_the_table_is_one_of_the_train_command() -> None:
    known = {name for option in typer.main.get_command(commands).commands["train"].params for name in option.opts}
    assert {setting.flag for setting in forms.SETTINGS if setting.flag} <= known
    assert {"--data", "--output", "--model", "--config"} <= known


def test_changed_settings_are_flags_and_those_without_one_are_in_the_file() -> None:
    config = run_config(lora={"rank": 16, "targets": ("q_proj", "v_proj"), "dropout": 0.1}, optim={"warmup": 0.2})
    given = flags(command.command_line(config, "captain.jsonl"))
    assert (
        given["--rank"] == "16" and given["--targets"] == "q_proj,v_proj" and given["--config"] == command.CONFIG_FILE
    )
    assert yaml.safe_load(command.config_file(config)) == {"lora": {"dropout": 0.1}, "optim": {"warmup": 0.2}}


def test_what_a_person_typed_cannot_leave_its_argument() -> None:
    config = run_config(name="x; rm -rf ~", base_model="/models/$(id)")
    given = flags(command.command_line(config, "a b'c.jsonl"))
    assert given["--output"] == "x; rm -rf ~"
    assert given["--model"] == "/models/$(id)"
    assert given["--data"] == "a b'c.jsonl"
