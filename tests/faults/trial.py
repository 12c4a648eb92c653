"""A run of the real worker that goes on until it is told to end, and what is left of its processes."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import psutil

from core.config import RunConfig, parse
from core.events import Event
from jobs.home import RunFolder
from jobs.service import Run, Service
from tests.jobs.waiting import wait_for


class Trial:
    """A service on a home of its own, with a run of the tiny model that goes on until it is told to end."""

    def __init__(self, service: Service, dataset_file: Path, model: Path) -> None:
        self.service, self.model = service, model
        self.dataset = service.data.add(dataset_file).id

    def config(self, steps: int = 100_000, evaluations: int = 1) -> RunConfig:
        return parse({
            "name": "trial", "base_model": str(self.model), "data": {"dataset_id": self.dataset, "holdout": 0.25},
            "lora": {"rank": 4}, "quant": {"bits": 32},
            "optim": {"steps": steps, "evaluations": evaluations, "batch_size": 2, "learning_rate": 0.01},
        })  # fmt: skip

    def begin(self, **options: int) -> Run:
        run = self.service.submit(self.config(**options))
        self.service.start()
        return run

    def folder(self, run: Run) -> RunFolder:
        return self.service._home.run(run.id)

    def events(self, run: Run) -> tuple[Event, ...]:
        return self.service.events(run.id)[0]

    def steps(self, run: Run) -> list[int]:
        return [event.step for event in self.events(run) if event.event == "step"]

    def wait_for_steps(self, run: Run, more_than: int = 0) -> int:
        def are_made() -> bool:
            failed = self.service.run(run.id).error
            assert failed is None, failed
            return len(self.steps(run)) > more_than

        wait_for(are_made, 120)
        return len(self.steps(run))

    def wait_for_event(self, run: Run, kind: str, phase: str = "") -> None:
        def is_told() -> bool:
            return any(each.event == kind and getattr(each, "phase", "") == phase for each in self.events(run))

        wait_for(is_told, 120)

    def pid(self, run: Run) -> int:
        return wait_for(lambda: self.service.run(run.id).pid or 0)

    def rest(self, run: Run, seconds: float = 60) -> Run:
        return wait_for(lambda: now if (now := self.service.run(run.id)).is_at_rest else None, seconds)


def workers(group: int) -> list[psutil.Process]:
    """What is left of a worker: every live process of the group that it leads."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def workers_of(folder: RunFolder) -> list[int]:
    """The pids of all processes that carry out that run, whoever started them."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if str(folder.path) in process.cmdline():
                found.append(process.pid)
    return found
