"""A full disk: how it is told, and the room that a run sets aside so that its last checkpoint can still be written.

A file as large as a checkpoint lies in the run's folder from the first step on. When the disk is full it is given up,
and what has to be written finds its place there. So what was learned until then is kept, and the run goes on from that
very step once there is room again.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

from safetensors import SafetensorError

from core.events import Paused

Result = TypeVar("Result")

RESERVE_FILE = "reserve"
_PIECE = 2**20
_FULL = (errno.ENOSPC, errno.EDQUOT)


def is_disk_full(error: BaseException) -> bool:
    """Whether `error` says that there is no more room; safetensors' own error has the number in its words alone."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    return isinstance(error, SafetensorError) and any(f"os error {number}" in str(error) for number in _FULL)


def free_bytes(folder: Path) -> int:
    """What the disk of `folder` has left for us."""
    return shutil.disk_usage(folder).free


def disk_full(folder: Path, step: int, needed: int = 0) -> Paused:
    """What is said when a run pauses because of it: it goes on from `step` when it is resumed. `needed` bytes are what
    it wanted to write, where that is known.
    """
    figures = f"{free_bytes(folder) / 1e6:.0f} MB are free"
    figures = f"the run needs {needed / 1e6:.0f} MB, and {figures}" if needed else figures
    return Paused(step=step, title="The disk is full", detail=figures, hint="Make room, then resume the run")


def give_up_reserve(folder: Path) -> int:
    """Remove what the run in `folder` has set aside, if anything; how much that was."""
    path = folder / RESERVE_FILE
    size = path.stat().st_size if path.exists() else 0
    path.unlink(missing_ok=True)
    return size


def _occupy(file: BinaryIO, size: int) -> None:
    """Have `size` bytes of the disk for `file`: by asking for them, or where that cannot be asked, by writing."""
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except (AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
        for begin in range(0, size, _PIECE):
            file.write(bytes(min(_PIECE, size - begin)))


class Reserve:
    """Room of `size` bytes in `folder`. `is_used` says that it had to be given up."""

    def __init__(self, folder: Path, size: int) -> None:
        self.size, self._folder = size, folder
        self.is_used = False

    def set_aside(self) -> None:
        """Take the room now.

        Raises:
            OSError: there is not so much of it; nothing is taken.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / RESERVE_FILE).open("wb") as file:
                _occupy(file, max(1, self.size))
        except OSError:
            self.release()
            raise

    def release(self) -> None:
        """Give it back."""
        give_up_reserve(self._folder)

    def write(self, work: Callable[[], Result]) -> Result:
        """What `work`, which writes something, whole or not at all, answers; if the disk is full, it is done again in
        the room that was set aside.

        Raises:
            OSError, SafetensorError: there is too little of it even then.
        """
        try:
            return work()
        except (OSError, SafetensorError) as error:
            if not is_disk_full(error):
                raise
        self.is_used = True
        self.release()
        return work()
