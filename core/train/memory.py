"""How much memory this process uses and may use, and how much a folder takes on disk, in bytes.

A system that runs out of memory ends a process without a word. `cap_memory` makes that an error like any other: no more
is given out than there is, so that whoever asks for too much learns of it and can ask for less.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import psutil
import torch

CONTROL_GROUP = Path("/sys/fs/cgroup")  # limits that containers set; where there are none, neither are these files
STATUS = Path("/proc/self/status")
KEPT_FREE = 0.05  # of what is available
# What torch, C++, oneDNN and cuBLAS say where they have no error of their own for it.
_WORDS = ("can't allocate memory", "std::bad_alloc", "could not create a memory object", "CUBLAS_STATUS_ALLOC_FAILED")


def rss_bytes() -> int:
    """Resident memory of this process now."""
    return int(psutil.Process().memory_info().rss)


def peak_rss_bytes() -> int:
    """The largest resident memory that this process ever had. On Linux the process's own account is read: what the
    system tells of resources used also counts the process that started this one.
    """
    if (kilobytes := _own_peak()) is not None:
        return kilobytes * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def _own_peak() -> int | None:
    try:
        lines = STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)


def device_bytes(device: torch.device) -> int | None:
    """Memory of tensors on a GPU now; None on a CPU, where it is part of the resident memory."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else None


def available_bytes() -> int:
    """Memory that this process could still get, by the machine and by the container that it may be in."""
    free = int(psutil.virtual_memory().available)
    limit, used = (_read_bytes(CONTROL_GROUP / name) for name in ("memory.max", "memory.current"))
    return free if limit is None or used is None else max(0, min(free, limit - used + _cached_bytes()))


def _cached_bytes() -> int:
    """What the container's account has of files' contents that are not in use, which are dropped when asked for."""
    try:
        lines = (CONTROL_GROUP / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))


def _read_bytes(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def cap_memory() -> None:
    """From now on, refuse this process more memory than there is. Only on Linux, and only where it computes on the CPU:
    a GPU's driver reserves addresses by the terabyte.
    """
    if sys.platform != "linux" or torch.cuda.is_available():
        return
    limit = psutil.Process().memory_info().data + int(available_bytes() * (1 - KEPT_FREE))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def is_out_of_memory(error: Exception) -> bool:
    """Whether `error` says that there is no more memory, on a GPU or on the CPU."""
    is_named = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return is_named or any(words in str(error) for words in _WORDS)


def folder_bytes(folder: Path) -> int:
    """The size of all files below `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
