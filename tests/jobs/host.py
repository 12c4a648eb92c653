"""A second app on one home: `python -m tests.jobs.host HOME BEHAVIOR` schedules until every run has ended."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from jobs.home import open_home
from jobs.launchers.local import LocalLauncher
from jobs.scheduler import Scheduler
from jobs.store import Store


def scheduler_on(home: Path, behavior: str, **options: object) -> Scheduler:
    """A scheduler whose workers are stand-ins."""
    command = (sys.executable, "-m", "tests.jobs.stand_in", behavior)
    launcher = LocalLauncher(os.environ, command)
    return Scheduler(Store(open_home(home)), launcher, **options)  # type: ignore[arg-type]


if __name__ == "__main__":
    home = Path(sys.argv[1])
    scheduler, store = scheduler_on(home, sys.argv[2]), Store(open_home(home))
    while any(not run.has_ended for run in store.runs()):
        scheduler.tick()
        time.sleep(0.01)
