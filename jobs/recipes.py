"""A run's config from the command line: a YAML file's values, over which flags win."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from core.config import RunConfig, parse
from core.errors import ConfigError
from jobs.names import file_title

TO_BE_READ = "to-be-read"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A config that is valid but for its dataset: `data` is the file that is still to be read, if there is one.
    `names_task` says whether the task was asked for; where it was not, the dataset decides.
    """

    config: RunConfig
    data: Path | None
    names_task: bool


def read_recipe(file: Path | None, flags: Mapping[str, Any], data: Path | None) -> Recipe:
    """What `file` says, with the `flags` (dotted names of settings) put over it.

    Raises:
        ConfigError: the file is no YAML mapping, a setting is unknown or outside its range, or no data is named.
    """
    values = _read_yaml(file) if file is not None else {}
    given = dict(flags)
    if "optim.epochs" in given:
        if "optim.steps" in given:
            raise ConfigError("Epochs and steps are both given", hint="Give one of them", field="optim.steps")
        given["optim.steps"] = None  # else a number of steps in the file would win
    for name, value in given.items():
        _put(values, name, value)
    if data is not None:
        _put(values, "data.dataset_id", TO_BE_READ)
        values.setdefault("name", file_title(data.with_suffix("")))
    elif not isinstance(values.get("data"), dict) or "dataset_id" not in values["data"]:
        raise ConfigError("There is nothing to train on", hint="Give --data FILE", field="data.dataset_id")
    values.setdefault("name", "run")
    return Recipe(config=parse(values), data=data, names_task="task" in values)


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read", error.strerror or "", "Check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{file} is not YAML", where, "Correct it, or leave --config out") from error
    except RecursionError:
        raise ConfigError(f"{file} has too many levels", hint="Settings have two; correct it") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{file} holds no settings", hint="Write them as NAME: VALUE, one a line")
    return values


def _put(values: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        inner = values.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ConfigError(
                f"{parent.capitalize()} is {inner!r}", hint="It must hold settings of its own", field=parent
            )
        values = inner
    values[last] = value
