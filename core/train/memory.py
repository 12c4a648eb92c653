"""How much memory this process uses, and how much a folder takes on disk, in bytes."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import psutil
import torch


def rss_bytes() -> int:
    """Resident memory of this process now."""
    return int(psutil.Process().memory_info().rss)


def peak_rss_bytes() -> int:
    """The largest resident memory that this process ever had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def device_bytes(device: torch.device) -> int | None:
    """Memory of tensors on a GPU now; None on a CPU, where it is part of the resident memory."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else None


def folder_bytes(folder: Path) -> int:
    """The size of all files below `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
