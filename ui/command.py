"""The command line that does the same as the form: shown beside Launch, to be copied into a script."""

from __future__ import annotations

import json
import shlex
from typing import Any

from core.config import STARTER, RunConfig, to_dict
from jobs.service import FLAGS
from ui import forms

CONFIG_FILE = "run.yaml"
_FLAGS = {flag.path: flag for flag in FLAGS}


def command_line(config: RunConfig, data_file: str) -> str:
    """`python app.py train …`, with an option for each setting that differs from its default and has one."""
    options = [["--data", data_file], ["--output", config.name]]
    if config.base_model != STARTER:
        options.append(["--model", config.base_model])
    nested = to_dict(config)
    paths = [setting.path for setting in forms.changed(config) if setting.path in _FLAGS]
    options += [_FLAGS[path].words(forms.at(nested, path)) for path in paths]
    if config_file(config):
        options.append(["--config", CONFIG_FILE])
    return " \\\n  ".join(["python app.py train", *map(shlex.join, options)])


def config_file(config: RunConfig) -> str:
    """The YAML file for the changed settings that have no option; empty where there are none."""
    nested = to_dict(config)
    lines: list[str] = []
    section = ""
    for setting in sorted(forms.changed(config), key=lambda row: row.path):
        if setting.path in _FLAGS:
            continue
        parent, _, leaf = setting.path.rpartition(".")
        if parent and parent != section:
            lines.append(f"{parent}:")
        section = parent
        lines.append(f"{'  ' if parent else ''}{leaf}: {_yaml_value(forms.at(nested, setting.path))}")
    return "\n".join(lines)


def _yaml_value(value: Any) -> str:
    """`value` as JSON, which is YAML; a number or a plain word without quotes."""
    return value if isinstance(value, str) and value.isidentifier() else json.dumps(value)
