"""A run's config from the command line: a YAML file's values, over which flags win."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from core.config import RunConfig, parse
from core.data.formats.mapping import Mapping as Columns
from core.data.formats.mapping import read_mapping
from core.errors import ConfigError
from core.settings_file import LARGEST, SettingsText, read_settings
from jobs.names import file_title

TO_BE_READ = "to-be-read"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a command trains on: a `file` and, where they do not tell, what its `columns` mean; or a dataset's id."""

    file: Path | None = None
    dataset_id: str | None = None
    columns: Columns | None = None
    skips_bad_rows: bool = False

    @classmethod
    def typed(cls, file: Path | None, dataset_id: str | None, columns: str | None, skips_bad_rows: bool) -> Self:
        """From the options of a command.

        Raises:
            ConfigError: there is both, or what the columns mean cannot be read.
        """
        if file is not None and dataset_id is not None:
            raise ConfigError("A file and a dataset are both given", hint="Give --data or --dataset", field="data")
        mapping = read_mapping(columns, "--columns") if columns is not None else None
        return cls(file=file, dataset_id=dataset_id, columns=mapping, skips_bad_rows=skips_bad_rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A config that is valid but for its dataset, where `source` has a file that is still to be read. `names_task` says
    whether the task was asked for; where it was not, the dataset decides.
    """

    config: RunConfig
    source: Source
    names_task: bool


def read_recipe(file: Path | None, flags: Mapping[str, Any], source: Source) -> Recipe:
    """What `file` says, with the `flags` (dotted names of settings) put over it.

    Raises:
        ConfigError: the file is no YAML mapping, a setting is unknown or outside its range, or no data is named.
    """
    read = _read_file(file) if file is not None else SettingsText(values={}, lines={})
    values = read.values
    given = dict(flags)
    if "optim.epochs" in given:
        if "optim.steps" in given:
            raise ConfigError("Epochs and steps are both given", hint="Give one of them", field="optim.steps")
        given["optim.steps"] = None  # else a number of steps in the file would win
    for name, value in given.items():
        _put(values, name, value)
    if source.dataset_id is not None:
        _put(values, "data.dataset_id", source.dataset_id)
    elif source.file is not None:
        _put(values, "data.dataset_id", TO_BE_READ)
        values.setdefault("name", file_title(source.file.with_suffix("")))
    elif not isinstance(values.get("data"), dict) or "dataset_id" not in values["data"]:
        raise ConfigError("There is nothing to train on", hint="Give --data FILE", field="data.dataset_id")
    values.setdefault("name", "run")
    try:
        config = parse(values)
    except ConfigError as error:
        raise error if error.field in given else read.located(error) from None
    return Recipe(config=config, source=source, names_task="task" in values)


def _read_file(file: Path) -> SettingsText:
    try:
        with file.open("rb") as opened:
            content = opened.read(LARGEST + 1)
    except OSError as error:
        raise ConfigError(f"{file} cannot be read", error.strerror or "", "Check the path") from error
    return read_settings(content, str(file))


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
