"""An app's scheduler for a moment: `python -m tests.faults.look HOME RUN` says the run's state, pid and silence."""

from __future__ import annotations

import sys
from pathlib import Path

from jobs.service import Service

if __name__ == "__main__":
    service = Service(Path(sys.argv[1]))
    for _ in range(3):
        service._scheduler.tick()
    run = service.run(sys.argv[2])
    service.close()
    print(run.state, run.pid, run.silent_seconds)
