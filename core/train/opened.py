"""A run's checkpoint as an adapter in PEFT's format, made beside the run, which may go on.

A checkpoint holds what was trained by the names that it has in the model, and what stands beside it (an anchored
start, a scale, trained tokens' ids) is a function of config and base. So the adapter is begun anew as the run began it,
given the checkpoint's values, and written as the run would write it in the end. It happens on the CPU: a device that
trains has no room to spare.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from core.config import RunConfig
from core.durable import flush_all
from core.models.fetch import ensure_model
from core.models.precision import choose_precision
from core.train.checkpoint import keep_precision, restore_parameters
from core.train.methods import Losses, method_of
from core.train.tasks import task_of


def write_opened(checkpoint: Path, config: RunConfig, *, run_folder: Path, models_root: Path, output: Path) -> int:
    """Write what the folder `checkpoint` holds into the new folder `output`; returns after how many steps that was.

    Args:
        config, run_folder: of the run, which trains an adapter for a task without classes.

    Raises:
        UserError: the checkpoint is damaged, or the base model cannot be loaded.
    """
    method, task = method_of(_without_rows(config)), task_of(config, ())
    device = torch.device("cpu")
    precision = keep_precision(run_folder, lambda: choose_precision(device, config.quant.bits))
    folder = ensure_model(config.base_model, models_root, lambda _phase: None)
    loaded = task.load(folder, method.stored_in(precision.dtype), device)
    method.extend(loaded)
    objective, _ = task.objective(loaded)  # which also gives the tokenizer the run's template
    trainables = method.begin(loaded, objective, (), precision.dtype)
    step = restore_parameters(checkpoint, trainables.parameters)
    output.mkdir(parents=True)
    method.save(output, Losses(trained=None, base=None))
    flush_all(output)
    return step


def _without_rows(config: RunConfig) -> RunConfig:
    """`config` with a start that looks at no rows: EVA's draws A from them, and the checkpoint has A."""
    if config.lora.init != "eva":
        return config
    return replace(config, lora=replace(config.lora, init="kaiming"))
