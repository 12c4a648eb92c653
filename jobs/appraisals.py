"""What runs have learned: as their workers measured it at the end, or as a process measures it that somebody asks for.

A worker measures before it ends, while model and rows are at hand (`core.train.appraising`). A run that was stopped
early, is older than that, or trained a whole model has nothing then; for these, and to measure again, there is a child
(`jobs.appraiser`). It sits on a device that no run has, one at a time, and ends when a run is to start there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from core.analysis.appraisal import FILE, Appraisal, read_appraisal
from core.errors import RunError
from jobs.children import Told
from jobs.errands import Errand
from jobs.home import Home, RunFolder
from jobs.machine import devices, only
from jobs.store import Store
from jobs.summaries import summary_of
from jobs.views import Run, RunProblem

MODULE = "jobs.appraiser"
STARTING = "starting"

State: TypeAlias = Literal["too soon", "absent", "going on", "done", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AppraisalView:
    """What is known of what a run learned. `phase`, `detail` and `share_done` (None where unknown) say how far a
    measurement is, `problem` why the last one came to nothing, and `appraisal` what was measured last, if anything.
    """

    state: State
    appraisal: Appraisal | None = None
    phase: str = ""
    detail: str = ""
    share_done: float | None = None
    problem: RunProblem | None = None


class Appraisals:
    """Those of one home's runs. Any thread may ask. `module` is the process that measures, for tests.

    Args:
        make_room: called with the device that a measurement is to sit on, before it starts.
    """

    def __init__(
        self,
        home: Home,
        store: Store,
        environment: Mapping[str, str],
        *,
        make_room: Callable[[str], None] = lambda device: None,
        devices: Callable[[], Sequence[str]] = devices,
        module: str = MODULE,
    ) -> None:
        self._home, self._store, self._environment = home, store, environment
        self._make_room, self._devices, self.module = make_room, devices, module
        self._lock = threading.RLock()
        self._errand: _Measurement | None = None

    def of(self, run: Run) -> AppraisalView:
        """How it stands with `run`. Nothing is started."""
        with self._lock:
            errand = self._errand if self._errand is not None and self._errand.run_id == run.id else None
        if run.state != "finished":
            return AppraisalView(state="too soon")
        if errand is not None and not errand.is_over:
            return errand.view
        appraisal = read_appraisal(self._home.run(run.id).path)
        if errand is not None and errand.view.state == "failed":
            return AppraisalView(state="failed", problem=errand.view.problem, appraisal=appraisal)
        return AppraisalView(state="done" if appraisal is not None else "absent", appraisal=appraisal)

    def start(self, run_id: str) -> None:
        """Measure a run, unless that goes on.

        Raises:
            NotFound: there is no such run, or its dataset is not there any more.
            RunError: it has not finished, another run is being measured, or every device has a run.
        """
        run = self._store.run(run_id)
        if run.state != "finished":
            raise RunError(f"The run {run.name} is {run.state}", hint="Wait until it has finished")
        self._store.dataset(run.config.data.dataset_id)
        with self._lock:
            if self._errand is not None and not self._errand.is_over:
                if self._errand.run_id == run.id:
                    return
                raise RunError("Another run is being measured", hint="Wait until that is done, or stop it on its page")
            free = self._store.free_devices(self._devices())
            if not free:
                raise RunError(
                    "A run is going on, and measuring beside it would take its memory and slow both down",
                    hint="Wait until that run is over",
                )
            self._make_room(free[-1])  # runs take devices from the first on
            self._errand = _Measurement(run.id, self._home.run(run.id), free[-1])
            self._errand.start(self.module, {**self._environment, **only(free[-1])})

    def stop(self, run_id: str) -> None:
        """Give up measuring a run, if that goes on; what was known before stays."""
        with self._lock:
            if self._errand is not None and self._errand.run_id == run_id:
                self._end(None)

    def leave(self, device: str) -> None:
        """Give `device` back, since a run is to start there."""
        with self._lock:
            if self._errand is not None and self._errand.device == device and not self._errand.is_over:
                self._end(RunProblem(title="A run needed the device", hint="Measure again when that run is over"))

    def close(self) -> None:
        """End what goes on."""
        with self._lock:
            self._end(None)

    def _end(self, problem: RunProblem | None) -> None:
        errand, self._errand = self._errand, None
        if errand is not None:
            errand.stop()
            if problem is not None:
                errand.fail(problem)
                self._errand = errand


class _Measurement(Errand):
    """One run that is being measured, and what the child has told."""

    def __init__(self, run_id: str, folder: RunFolder, device: str) -> None:
        super().__init__()
        self.run_id, self.device = run_id, device
        self.view = AppraisalView(state="going on", phase=STARTING)
        self._folder = folder

    @property
    def is_over(self) -> bool:
        """Whether nothing more is measured."""
        return self.view.state != "going on"

    def start(self, module: str, environment: Mapping[str, str]) -> None:
        self.begin(module, [str(self._folder.path), str(summary_of(self._folder).step)], environment)

    def fail(self, problem: RunProblem) -> None:
        """It came to nothing."""
        self.view = AppraisalView(state="failed", problem=problem)

    def hear(self, told: Told) -> None:
        kind = told["kind"]
        if kind == "phase":
            self.view = AppraisalView(
                state="going on", phase=told["phase"], detail=told["detail"], share_done=told["share_done"]
            )
        elif kind == "failed":
            self.fail(RunProblem(title=told["title"], detail=told["detail"], hint=told["hint"]))
        elif kind == "done":
            self.view = AppraisalView(state="done")
        elif kind == "gone" and not self.is_over:
            status = told["status"]
            title = f"The process that measures ended {f'by signal {-status}' if status < 0 else f'with {status}'}"
            self.fail(RunProblem(title=title, hint="Try again; the app's log may say more"))

    def clear(self) -> None:
        (self._folder.path / f"{FILE}.tmp").unlink(missing_ok=True)
