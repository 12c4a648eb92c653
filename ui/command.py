"""The command line that does the same as the form: shown beside Launch, to be copied into a script."""

from __future__ import annotations

import shlex
from typing import Any

from core.config import STARTER, RunConfig, to_dict
from ui import forms, text

CONFIG_FILE = "run.yaml"


def command_line(config: RunConfig, data_file: str) -> str:
    """`python app.py train …`, with a flag for each setting that differs from its default and has one."""
    parts = ["python app.py train", f"--data {shlex.quote(data_file)}", f"--output {shlex.quote(config.name)}"]
    if config.base_model != STARTER:
        parts.append(f"--model {shlex.quote(config.base_model)}")
    nested = to_dict(config)
    parts += [f"{row.flag} {_flag_value(forms.at(nested, row.path))}" for row in forms.changed(config) if row.flag]
    if config_file(config):
        parts.append(f"--config {CONFIG_FILE}")
    return " \\\n  ".join(parts)


def config_file(config: RunConfig) -> str:
    """The YAML file for the changed settings that have no flag; empty where there are none."""
    nested = to_dict(config)
    lines: list[str] = []
    section = ""
    for setting in sorted(forms.changed(config), key=lambda row: row.path):
        if setting.flag:
            continue
        parent, _, leaf = setting.path.rpartition(".")
        if parent and parent != section:
            lines.append(f"{parent}:")
        section = parent
        lines.append(f"{'  ' if parent else ''}{leaf}: {_yaml_value(forms.at(nested, setting.path))}")
    return "\n".join(lines)


def _flag_value(value: Any) -> str:
    if isinstance(value, tuple):
        return shlex.quote(",".join(value))
    return text.number(value) if isinstance(value, float) else shlex.quote(str(value))


def _yaml_value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
