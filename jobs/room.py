"""Is there room on the disk for what is about to be written? Asked before anything is.

Beside what the disk has left counts what the home folder may take, where the person has said so.
"""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path

from core.config import RunConfig
from core.errors import ConfigError, RunError
from core.train.disk import free_bytes
from jobs.home import Home
from jobs.views import Estimate

QUOTA_VARIABLE = "LORA_WORKBENCH_QUOTA_GB"
SPARE_BYTES = 10**9  # for the tokenized rows, the log, and everybody else
_A_PARAMETER = 12  # bytes in a checkpoint: itself and AdamW's two moments, fp32
_A_BLOCK = 512


def needed_bytes(config: RunConfig, estimate: Estimate) -> int:
    """About how much the run takes at most: the checkpoints that are kept, one being written, one set aside, and the
    result twice, as it is written beside the one before.
    """
    checkpoint = _A_PARAMETER * estimate.trainable_parameters
    return checkpoint * (config.optim.checkpoints + 2) + 2 * estimate.adapter_bytes


def require_room(home: Home, what: str, needed: int) -> None:
    """Refuse what there is no room for.

    Args:
        home: whose folder it is to lie in.
        what: what it is, as a sentence begins with it.
        needed: bytes that it may take.

    Raises:
        RunError: the disk, or the home folder's quota, has not got so much left.
        ConfigError: the quota is no number.
    """
    free = free_bytes(home.path)
    if free < needed + SPARE_BYTES:
        raise RunError(
            f"{what} may take {_gigabytes(needed)}, and the disk has {_gigabytes(free)} left",
            f"{_gigabytes(SPARE_BYTES)} are to stay free in {home.path}",
            "Make room, keep fewer checkpoints, or start the workbench with another home folder",
        )
    quota = quota_bytes()
    if quota is not None and (used := used_bytes(home.path)) + needed > quota:
        raise RunError(
            f"{what} may take {_gigabytes(needed)}, and {_gigabytes(used)} of the {_gigabytes(quota)} are used",
            f"{QUOTA_VARIABLE} says what the home folder may take",
            "Delete what is no longer needed, or raise the quota",
        )


def waiting_for_room(home: Home) -> str:
    """Why no run can be started at the moment; empty where there is room."""
    free, quota = free_bytes(home.path), quota_bytes()
    if free < SPARE_BYTES:
        why = f"the disk of {home.path} has {_gigabytes(free)} left, and {_gigabytes(SPARE_BYTES)} are to stay free"
    elif quota is not None and used_bytes(home.path) > quota:
        why = f"all of the {_gigabytes(quota)} that {QUOTA_VARIABLE} allows are used"
    else:
        return ""
    return f"Waiting runs are not started: {why}. Make room; they start by themselves."


def quota_bytes() -> int | None:
    """What the home folder may take; None where nobody has said so.

    Raises:
        ConfigError: what was said is no number above 0.
    """
    said = os.environ.get(QUOTA_VARIABLE, "")
    try:
        quota = float(said) if said else None
    except ValueError:
        quota = math.nan
    if quota is not None and not 0 < quota < math.inf:
        raise ConfigError(f"{QUOTA_VARIABLE} is {said!r}", hint="Give a number of gigabytes above 0, or none")
    return None if quota is None else int(quota * 1e9)


def used_bytes(folder: Path) -> int:
    """What everything in `folder` takes on the disk."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                status = os.lstat(os.path.join(place, name))
            except FileNotFoundError:  # gone meanwhile, and so takes nothing
                continue
            total += status.st_blocks * _A_BLOCK if stat.S_ISREG(status.st_mode) else 0
    return total


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
