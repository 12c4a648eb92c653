"""Where a run can go on after a stop: what it trains and the optimizer's state after a step, on disk.

A checkpoint is a folder `step-00000012`, whole or absent: it is written under another name, flushed to the disk, and
renamed. Its manifest, written last, holds every file's size and SHA-256, so that damage that came later is noticed, and
older ones are kept to fall back on. The rest of a run's state (schedule, order of rows, dropout) is a function of the
seed and the step's number. The dtype that the run began to compute in lies beside the checkpoints: on another day the
measurement that chose it could come out otherwise. No pickle is written or read.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from core.durable import flush
from core.errors import RunError
from core.models.precision import Precision
from core.train.manifest import account, read_manifest, write_manifest

PRECISION_FILE = "precision.json"
STATE_FILE = "state.json"
TENSORS_FILE = "tensors.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq")
KEPT = 2

_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


class _Damaged(Exception):
    """A checkpoint's files are not those that were written."""


def save_checkpoint(
    folder: Path,
    step: int,
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    totals: dict[str, float],
    kept: int = KEPT,
) -> Path:
    """Write the state after `step` below `folder` and drop all but the newest `kept`; returns the new one's folder.

    Args:
        parameters: the trained ones by name. totals: figures that go on counting after a resume.

    Raises:
        OSError, SafetensorError: it could not be written; nothing of it is left.
    """
    final, temporary = folder / f"step-{step:08d}", folder / f"tmp-{step:08d}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file(_tensors(parameters, optimizer), temporary / TENSORS_FILE)
        (temporary / STATE_FILE).write_text(json.dumps({"step": step, "totals": totals}), encoding="utf-8")
        flush(sorted(temporary.iterdir()))
        flush([write_manifest(temporary), temporary])
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(final, ignore_errors=True)  # one that could not be read and was passed over
    os.replace(temporary, final)
    flush([folder, folder.parent])
    _clear_away(folder, final, kept)
    return final


def _clear_away(folder: Path, newest: Path, kept: int) -> None:
    """Drop all but the `kept` checkpoints up to the `newest`, which was just written: later ones are damaged, since the
    run went on from before them; and what a killed process left half written.
    """
    whole = [path for path in _checkpoints(folder) if path.name <= newest.name]
    for path in {*_checkpoints(folder), *folder.glob("tmp-*")}.difference(whole[-kept:]):
        shutil.rmtree(path)


def checkpoint_bytes(parameters: Iterable[nn.Parameter]) -> int:
    """About how much a checkpoint takes: each parameter and its two moments, and some for the files around them."""
    return (1 + len(MOMENTS)) * sum(parameter.nbytes for parameter in parameters) + 2**20


def _tensors(parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors = {name: parameter.detach().cpu() for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        for moment in MOMENTS:
            if moment in optimizer.state[parameter]:
                tensors[f"{name}:{moment}"] = optimizer.state[parameter][moment].cpu()
    return tensors


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
            state, tensors = _read(path, parameters)
        except (_Damaged, OSError, ValueError, SafetensorError):
            passed_over.append(path.name)
            continue
        _place(tensors, parameters, optimizer, state["step"])
        return state["step"], state["totals"], passed_over
    return 0, {}, passed_over


def restore_parameters(checkpoint: Path, parameters: dict[str, nn.Parameter]) -> int:
    """Put what was trained back as the folder `checkpoint` has it, without the optimizer's state; returns its step.

    Raises:
        RunError: the files are not those that were written, or not of these parameters.
    """
    try:
        state, tensors = _read(checkpoint, parameters)
    except (_Damaged, OSError, ValueError, SafetensorError) as error:
        raise RunError(f"The checkpoint {checkpoint.name} is damaged", hint="Choose another one") from error
    for name, parameter in parameters.items():
        parameter.data.copy_(tensors[name])
    step: int = state["step"]
    return step


def _read(path: Path, parameters: dict[str, nn.Parameter]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if read_manifest(path) != {name: account(path / name) for name in (STATE_FILE, TENSORS_FILE)}:
        raise _Damaged
    state = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
    tensors = load_file(path / TENSORS_FILE)
    for name, parameter in parameters.items():
        if name not in tensors or tensors[name].shape != parameter.shape:
            raise _Damaged
    return state, tensors


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
            optimizer.state[parameter] = {"step": torch.tensor(float(step), device=parameter.device), **state}


def keep_precision(run_folder: Path, choose: Callable[[], Precision]) -> Precision:
    """The precision that the run in `run_folder` computes in: the one that it began with, else what `choose` answers,
    which is put on record.
    """
    path = run_folder / PRECISION_FILE
    kept = _read_precision(path)
    if kept is not None:
        return kept
    chosen = choose()
    values = {"dtype": str(chosen.dtype).removeprefix("torch."), "reason": chosen.reason}
    run_folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(values), encoding="utf-8")
    flush([temporary])
    os.replace(temporary, path)
    flush([run_folder])
    return chosen


def _read_precision(path: Path) -> Precision | None:
    """What is on record; None where nothing is, or nothing that can be read."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Precision(dtype=_DTYPES[values["dtype"]], reason=str(values["reason"]))
    except (OSError, ValueError, LookupError, TypeError):
        return None
