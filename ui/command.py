"""The command line that does the same as the form: shown beside Launch, to be copied into a script."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from core.config import STARTER, RunConfig, to_dict
from core.data.formats.mapping import write_mapping
from jobs.service import FLAGS, About, Dataset
from ui import forms

_FLAGS = {flag.path: flag for flag in FLAGS}


def data_options(dataset: Dataset, about: About | None, file: str | None) -> list[str]:
    """What names a dataset on the command line: its `file` and how that is read, or itself where it has none."""
    if file is None:
        return ["--dataset", dataset.id]
    columns = ["--columns", write_mapping(about.mapping)] if about is not None and about.is_mapped else []
    return ["--data", file, *columns, *(["--skip-bad-rows"] if dataset.skipped else [])]


def command_line(config: RunConfig, data: Sequence[str], sweep: Mapping[str, str] = MappingProxyType({})) -> str:
    """`python app.py train …` on the dataset that the options `data` name, with an option for each setting that differs
    from its standard value; no epochs where steps win over them. With the options of a `sweep`, by their names, it is
    `sweep …`.
    """
    options = [data, ["--output", config.name], _FLAGS["name"].words(config.name)]
    if config.base_model != STARTER:
        options.append(["--model", config.base_model])
    nested = to_dict(config)
    paths = [setting.path for setting in forms.changed(config)]
    if config.optim.steps is not None and "optim.epochs" in paths:
        paths.remove("optim.epochs")
    options += [_FLAGS[path].words(forms.at(nested, path)) for path in paths if _FLAGS[path].name not in sweep]
    options += [[name, words] if words else [name] for name, words in sweep.items()]
    return " \\\n  ".join([f"python app.py {'sweep' if sweep else 'train'}", *map(shlex.join, options)])
