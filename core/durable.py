"""Files that are still there after the power went: forced to the disk before anything is told that they are there."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def flush(paths: Iterable[Path]) -> None:
    """Force these files' contents, and which files these folders hold, to the disk.

    Raises:
        OSError: one is not there, or the disk failed.
    """
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def flush_all(folder: Path) -> None:
    """Force everything below `folder`, and which files there are, to the disk.

    Raises:
        OSError: the disk failed.
    """
    flush(sorted(folder.rglob("*"), reverse=True))
    flush([folder])
