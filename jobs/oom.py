"""How often the system has ended a process for want of memory: in the control group that we are in, or where these are
of the first version and do not say so, on the whole machine.

A process that dies of signal 9 does not know why. If that count has grown since it was started, it was the system; else
somebody killed it, or the system says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

COUNTS = (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat"))


def oom_kills(counts: Sequence[Path] = COUNTS) -> int | None:
    """The count so far; None where the system keeps none."""
    return next((count for count in map(_read, counts) if count is not None), None)


def _read(path: Path) -> int | None:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)
