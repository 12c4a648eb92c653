"""Does a worker still do something? A thread of its own writes the time down every few seconds.

A process that is frozen, or on a machine that is swapping itself to death, writes nothing; its run is then said to be
silent, and nothing else happens: a person decides. The time is the system's monotonic clock, which all processes share
and nobody can set.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path

EVERY_SECONDS = 5.0
SILENT_SECONDS = 60.0

_WIDTH = 20  # characters of the time, whatever it is


def begin_heartbeat(path: Path, every: float = EVERY_SECONDS) -> None:
    """Write to `path` from now on until this process ends."""
    threading.Thread(target=_beat, args=(path, every), name="heartbeat", daemon=True).start()


def _beat(path: Path, every: float) -> None:
    while True:
        with suppress(OSError):  # a full disk: the run has its own way to say so
            _write(path, f"{time.monotonic():{_WIDTH}.3f}")
        time.sleep(every)


def _write(path: Path, text: str) -> None:
    """Over what is there: a process may be frozen at any moment, and an emptied file would say nothing for ever."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.pwrite(file, text.encode("ascii"), 0)
    finally:
        os.close(file)


def silent_seconds(path: Path) -> float | None:
    """How long nothing was heard from the worker, if that is too long; None while all is well, or nothing is known."""
    try:
        silence = time.monotonic() - float(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return silence if silence > SILENT_SECONDS else None
