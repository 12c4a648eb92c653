"""Checkpoints of runs, of those that go on too, opened as adapters to talk with.

A run drops its older checkpoints as it goes on. So what is asked for is set aside first, by links to the same files,
which takes no time; a process of its own then makes an adapter of it (`core.train.opened`), which lies in the run's
folder and stays. What was opened once is there the next time.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from core.errors import NotFound, RunError
from jobs.adapters import require_adapter
from jobs.children import Child, Told
from jobs.home import Home, RunFolder
from jobs.machine import CPU, only
from jobs.room import require_room
from jobs.store import Store
from jobs.views import Run

MODULE = "jobs.checkpoint_opener"
_LOOK_SECONDS = 0.5
_DRAFT = "tmp-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A run after `step` steps. `path` is the adapter that was made of it, once it has been opened, and `fingerprint`
    the start of its weights' SHA-256, which is told where it is opened alone: it takes reading them.
    """

    run_id: str
    run_name: str
    base_model: str
    step: int
    is_going_on: bool
    path: Path | None = None
    fingerprint: str = ""


class Checkpoints:
    """The checkpoints of one home's runs. `module` is the process that opens one, for tests."""

    def __init__(self, home: Home, store: Store, environment: Mapping[str, str], *, module: str = MODULE) -> None:
        self._home, self._store, self._module = home, store, module
        self._environment = {**environment, **only(CPU)}
        self._opening = threading.Lock()  # one at a time: each holds a base model
        self._child: Child | None = None
        self._is_closed = False

    def all(self) -> tuple[Checkpoint, ...]:
        """Of every run that trains an adapter which talks: the newest run first, and its newest checkpoint."""
        return tuple(checkpoint for run in self._store.runs() if _can_be_opened(run) for checkpoint in self._of(run))

    def of(self, run_id: str) -> tuple[Checkpoint, ...]:
        """A run's checkpoints, the newest first. Raises: NotFound."""
        return tuple(self._of(self._store.run(run_id)))

    def open(self, run_id: str, step: int) -> Checkpoint:
        """The checkpoint with its adapter, which is made now if it is not there yet. That takes a process its time.

        Raises:
            NotFound: there is no such run, or no such checkpoint any more.
            RunError: the run trains no adapter that talks, the checkpoint is damaged, or there is no room.
        """
        run = self._store.run(run_id)
        if not _can_be_opened(run):
            title = f"A checkpoint of {run.name} is no adapter that talks"
            raise RunError(title, hint="Choose a run that trains an adapter for chat")
        folder = self._home.run(run.id)
        with self._opening:
            if step not in _steps(folder.opened):
                self._make(run, folder, step)
        path = folder.opened / _name(step)
        return replace(_checkpoint(run, step), path=path, fingerprint=require_adapter(path).fingerprint)

    def close(self) -> None:
        """End what goes on."""
        self._is_closed = True
        child = self._child
        if child is not None:
            child.stop()

    def _of(self, run: Run) -> list[Checkpoint]:
        folder = self._home.run(run.id)
        opened = _steps(folder.opened)
        found = [_checkpoint(run, step) for step in sorted({*_steps(folder.checkpoints), *opened}, reverse=True)]
        return [replace(one, path=folder.opened / _name(one.step)) if one.step in opened else one for one in found]

    def _make(self, run: Run, folder: RunFolder, step: int) -> None:
        folder.opened.mkdir(exist_ok=True)
        for left in folder.opened.glob(f"{_DRAFT}*"):  # by an app that was killed
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(dir=folder.opened, prefix=_DRAFT) as scratch:
            kept, draft = Path(scratch, "checkpoint"), Path(scratch, "adapter")
            if not _set_aside(folder.checkpoints / _name(step), kept):
                title = f"{run.name} has no checkpoint of step {step:,} any more"
                raise NotFound(title, hint="Choose its newest one")
            require_room(self._home, "The checkpoint's adapter", sum(file.stat().st_size for file in kept.iterdir()))
            self._convert([str(folder.path), str(kept), str(draft)])
            os.replace(draft, folder.opened / _name(step))

    def _convert(self, arguments: Sequence[str]) -> None:
        told: list[Told] = []
        child = self._child = Child(self._module, arguments, self._environment, told.append)
        try:
            while not child.wait(_LOOK_SECONDS):
                if self._is_closed:
                    child.stop()
        finally:
            self._child = None
        for said in told:
            if said["kind"] == "failed":
                raise RunError(said["title"], said["detail"], said["hint"])
        if not any(said["kind"] == "done" for said in told):
            title = f"The process that opens the checkpoint ended with {told[-1]['status']}"
            raise RunError(title, hint="The app's log may say why; try again")


def _can_be_opened(run: Run) -> bool:
    return run.config.method != "full" and run.config.task == "chat"


def _checkpoint(run: Run, step: int) -> Checkpoint:
    return Checkpoint(
        run_id=run.id,
        run_name=run.name,
        base_model=run.config.base_model,
        step=step,
        is_going_on=not run.is_at_rest,
    )


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _steps(folder: Path) -> frozenset[int]:
    """Of which steps `folder` has something whole."""
    found = (path.name.removeprefix("step-") for path in folder.glob("step-*"))
    return frozenset(int(step) for step in found if step.isdecimal())


def _set_aside(checkpoint: Path, kept: Path) -> bool:
    """Link the files of `checkpoint` into the new folder `kept`, or copy them where links cannot be had; False if the
    run has dropped it meanwhile.
    """
    kept.mkdir()
    try:
        for file in sorted(checkpoint.iterdir()):
            _link(file, kept / file.name)
    except FileNotFoundError:
        return False
    return True


def _link(file: Path, link: Path) -> None:
    try:
        os.link(file, link)
    except FileNotFoundError:
        raise
    except OSError:  # not on this file system
        shutil.copyfile(file, link)
