"""Is there room on the disk for what a run will write? Asked before it is queued."""

from __future__ import annotations

from core.config import RunConfig
from core.errors import RunError
from core.train.disk import free_bytes
from jobs.home import Home
from jobs.views import Estimate

SPARE_BYTES = 10**9  # for the tokenized rows, the log, and everybody else
_A_PARAMETER = 12  # bytes in a checkpoint: itself and AdamW's two moments, fp32


def needed_bytes(config: RunConfig, estimate: Estimate) -> int:
    """About how much the run takes at most: the checkpoints that are kept, one being written, one set aside, and the
    result twice, as it is written beside the one before.
    """
    checkpoint = _A_PARAMETER * estimate.trainable_parameters
    return checkpoint * (config.optim.checkpoints + 2) + 2 * estimate.adapter_bytes


def require_room(home: Home, needed: int) -> None:
    """Refuse what the disk has no room for.

    Raises:
        RunError: it has not.
    """
    free = free_bytes(home.path)
    if free < needed + SPARE_BYTES:
        raise RunError(
            f"The disk has {free / 1e9:.1f} GB left, and the run may take {needed / 1e9:.2f}",
            f"{SPARE_BYTES / 1e9:.0f} GB are to stay free in {home.path}",
            "Make room, keep fewer checkpoints, or start the workbench with another home folder",
        )
