"""A program under a clock that somebody sets: `python -m tests.faults.moved_clock FILE MODULE ARGUMENT…`.

`time.time` is off by the seconds that FILE says at that moment. The monotonic clock goes on as it does: that one nobody
can set.
"""

from __future__ import annotations

import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path


def moved(offset: Path, clock: Callable[[], float] = time.time) -> Callable[[], float]:
    """`clock`, off by what `offset` says each time it is asked."""
    return lambda: clock() + float(offset.read_text())


def move(offset: Path, seconds: float) -> None:
    """Set the clock; who reads it meanwhile reads the old or the new time."""
    draft = offset.with_suffix(".new")
    draft.write_text(str(seconds))
    draft.replace(offset)


if __name__ == "__main__":
    time.time = moved(Path(sys.argv[1]))
    sys.argv[:] = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
