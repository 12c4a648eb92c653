"""How often the system has ended a process for want of memory, in the control group that we are in.

A process that dies of signal 9 does not know why. If that count has grown since it was started, it was the system; else
somebody killed it, or the system says nothing.
"""

from __future__ import annotations

from pathlib import Path

CONTROL_GROUP = Path("/sys/fs/cgroup")


def oom_kills(folder: Path = CONTROL_GROUP) -> int | None:
    """The count so far; None where the system keeps none."""
    try:
        lines = (folder / "memory.events").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)
