"""Where a run can go on after a stop: adapter and optimizer state after a step, on disk.

A checkpoint is a folder `step-00000012`, whole or absent: it is written under another name, flushed to the disk,
and renamed. The rest of a run's state (schedule, order of rows, dropout) is a function of the seed and the step's
number. No pickle is written or read.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

STATE_FILE = "state.json"
TENSORS_FILE = "tensors.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq")


def save_checkpoint(
    folder: Path,
    step: int,
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    totals: dict[str, float],
) -> Path:
    """Write the state after `step` below `folder` and drop older checkpoints; returns the new one's folder.

    Args:
        parameters: the trained ones by name. totals: figures that go on counting after a resume.
    """
    final = folder / f"step-{step:08d}"
    if final.exists():
        return final
    temporary = folder / f"tmp-{step:08d}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    tensors = {name: parameter.detach().cpu() for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        for moment in MOMENTS:
            if moment in optimizer.state[parameter]:
                tensors[f"{name}:{moment}"] = optimizer.state[parameter][moment].cpu()
    save_file(tensors, temporary / TENSORS_FILE)
    (temporary / STATE_FILE).write_text(json.dumps({"step": step, "totals": totals}), encoding="utf-8")
    _flush(temporary)
    os.replace(temporary, final)
    for older in _checkpoints(folder):
        if older != final:
            shutil.rmtree(older)
    return final


def _flush(folder: Path) -> None:
    for path in [*folder.iterdir(), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*")) if folder.is_dir() else []


def restore(
    folder: Path, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> tuple[int, dict[str, float], list[str]]:
    """Put the newest readable checkpoint below `folder` back in place.

    Returns:
        The number of finished steps (0 where there is no checkpoint), the totals saved with it, and the names of
        unreadable checkpoints that were passed over.
    """
    passed_over: list[str] = []
    for path in reversed(_checkpoints(folder)):
        try:
            state = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
            tensors = load_file(path / TENSORS_FILE)
        except (OSError, ValueError, SafetensorError):
            passed_over.append(path.name)
            continue
        _place(tensors, parameters, optimizer, state["step"])
        return state["step"], state["totals"], passed_over
    return 0, {}, passed_over


def _place(
    tensors: dict[str, Tensor], parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, step: int
) -> None:
    for name, parameter in parameters.items():
        parameter.data.copy_(tensors[name])
        state = {
            moment: tensors[f"{name}:{moment}"].to(parameter.device)
            for moment in MOMENTS
            if f"{name}:{moment}" in tensors
        }
        if state:
            optimizer.state[parameter] = {"step": torch.tensor(float(step)), **state}
