"""A run's settings as a YAML file: saved from the page, loaded there again, and taken by `train --config` as it is.

It names the run, its base model and dataset, and only what differs from the standard values, each with its label, unit
and standard value in a comment. Reading is `core.settings_file`'s, for the page and for the command line.
"""

from __future__ import annotations

from typing import Any

from core.config import RunConfig, parse, to_dict
from core.errors import ConfigError
from core.settings_file import read_settings, write_value
from ui import forms

HEAD = """\
# Settings of a run of LoRA Workbench. Whatever is not in here has its standard value.
# To load it: Load settings on the Train page, or
#   python app.py train --config THIS_FILE --output FOLDER
"""
_NAMED = {
    "name": "the run's name",
    "base_model": "starter, a folder or a hub id",
    "data.dataset_id": "the dataset's id in this workbench; --data FILE takes another",
}


def to_yaml(config: RunConfig) -> str:
    """The file for `config`; `from_yaml` gives the same config back."""
    comments = _NAMED | {setting.path: _comment(setting) for setting in forms.changed(config)}
    return HEAD + "\n".join(_lines(to_dict(config), comments)) + "\n"


def from_yaml(content: str | bytes, *, name: str = "", dataset_id: str = "") -> RunConfig:
    """The run that a file describes; where the file names no run or no dataset, it has that name and dataset.

    Raises:
        ConfigError: saying on which line something cannot be read, is unknown or outside its range.
    """
    read = read_settings(content)
    values: dict[str, Any] = dict(read.values)
    if name:
        values.setdefault("name", name)
    data = values.setdefault("data", {})
    if dataset_id and isinstance(data, dict):
        values["data"] = {"dataset_id": dataset_id} | data
    try:
        return parse(values)
    except ConfigError as error:
        raise read.located(error) from None


def _comment(setting: forms.Setting) -> str:
    words = [setting.label, *([setting.unit] if setting.unit else []), f"standard {forms.standard_words(setting)}"]
    return "; ".join(words)


def _lines(nested: dict[str, Any], comments: dict[str, str], before: str = "") -> list[str]:
    """The settings that have a comment, in the config's own order; sections come after what stands alone."""
    lines: list[str] = []
    inner: list[str] = []
    for name, value in nested.items():
        path = f"{before}{name}"
        if path in comments:
            indent = "  " if before else ""
            lines.append(f"{indent}{name}: {write_value(value)}  # {comments[path]}")
        elif isinstance(value, dict) and not before:
            section = _lines(value, comments, f"{path}.")
            inner += [f"{name}:", *section] if section else []
    return lines + inner
