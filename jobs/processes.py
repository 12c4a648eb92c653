"""Which process is meant by a number: a pid alone may be given to another program once its process has gone. And how
far those stand back that nobody waits for at this moment.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import psutil

# Of runs and of pieces of work: they take all cores there are, and a page or a chat that wants one comes first.
NICE = 5


def birth(pid: int) -> str | None:
    """What tells this process from every other that has or had its pid; None if there is none.

    On Linux it counts from the boot and so stays the same when somebody sets the clock.

    Raises:
        OSError, psutil.Error: the system does not tell, which is not to say that the process has gone.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists():
            return repr(process.create_time())
        # The name in parentheses may hold blanks and parentheses itself; the start time is field 22 of all.
        ticks = stat.read_text().rpartition(")")[2].split()[19]
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return None
    return f"{boot}:{ticks}"


def is_alive(pid: int, born: str) -> bool:
    """Whether the process that had `pid` and was born at `born` still runs. A zombie does not.

    Raises:
        OSError, psutil.Error: as `birth`.
    """
    return birth(pid) == born


def signal_group(pid: int, born: str, number: signal.Signals) -> None:
    """Send `number` to the process group that this process leads, unless it has gone."""
    if not is_alive(pid, born):
        return
    with suppress(ProcessLookupError):  # it may go between the question and the signal, which is what was wanted
        os.killpg(pid, number)
