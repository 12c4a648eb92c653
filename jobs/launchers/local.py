"""Starts workers as processes of this machine that outlive the process that started them.

A worker is started with its gate shut: it reads one line from its standard input before it does anything, and leaves
if that ends without one. So a worker whose start could not be put on record, because we died or the disk was full,
never acts.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from core.errors import RunError
from core.models.catalogue import MODELS_VARIABLE
from jobs.home import PROJECT, RunFolder
from jobs.machine import CPU, only
from jobs.processes import birth

GATED = "--gated"
WORKER_COMMAND = (sys.executable, "-m", "jobs.worker", GATED)
CHILD_ENVIRONMENT = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1"}
# How long a thread of torch spins before it sleeps. GNU OpenMP's default is milliseconds, in which a browser or
# another run on the same cores is kept waiting, and then keeps us waiting. And how many kinds of matrix product oneDNN
# keeps the code of: every length of a batch is a kind, each takes 0.6 MB and a fifth of a millisecond to make, and its
# default of 1024 grows a run by as many MB. And how glibc hands out memory: in huge pages where the kernel has them to
# give, and kept from one step for the next; else a step spends a twentieth of its time on being given pages of 4 KB,
# which it then gives back. A setting of the person's own wins.
TUNING = {
    "GOMP_SPINCOUNT": "20000",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "192",
    "GLIBC_TUNABLES": ":".join(
        f"glibc.malloc.{name}={value}"
        for name, value in (("hugetlb", 1), ("mmap_threshold", 32 * 2**20), ("trim_threshold", 2**30))
    ),
}


@dataclass(frozen=True, slots=True)
class Worker:
    """A process that cannot be mistaken for another that gets its pid later; it leads its own process group."""

    pid: int
    birth: str


def child_environment(models_root: Path) -> dict[str, str]:
    """Our environment with what every process that loads models needs to know."""
    return {**TUNING, **os.environ, **CHILD_ENVIRONMENT, MODELS_VARIABLE: str(models_root)}


@dataclass(slots=True)
class LocalLauncher:
    """Starts `command` with a run's folder as its last argument, and knows how those that it started ended."""

    environment: Mapping[str, str]
    command: Sequence[str] = WORKER_COMMAND
    _children: dict[Worker, subprocess.Popen[bytes]] = field(default_factory=dict)

    def launch(self, folder: RunFolder, device: str = CPU) -> Worker:
        """A new worker, waiting at its gate, that sees of all GPUs the one that is its `device`.

        Raises:
            RunError: the machine has no room for another process.
        """
        try:
            with folder.log.open("ab") as log:
                child = subprocess.Popen(
                    [*self.command, str(folder.path)],
                    cwd=PROJECT,
                    env={**self.environment, **only(device)},
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        except OSError as error:
            raise RunError("The worker could not be started", error.strerror or "") from error
        try:
            worker = Worker(child.pid, birth(child.pid) or "gone")
        except (OSError, psutil.Error) as error:  # a worker that cannot be known again must not begin
            child.kill()
            child.communicate()
            raise RunError("The worker could not be started", str(error)) from error
        self._children[worker] = child
        return worker

    def open_gate(self, worker: Worker) -> None:
        """Let the worker go about its run."""
        gate = self._children[worker].stdin
        assert gate is not None
        with suppress(BrokenPipeError), gate:  # a worker that has died already tells so by its exit code
            gate.write(b"go\n")

    def abandon(self, worker: Worker) -> None:
        """Take back a start that could not be put on record."""
        child = self._children.pop(worker)
        child.kill()
        child.communicate()

    def exit_code(self, worker: Worker) -> int | None:
        """How a worker that we started ended (negative: by that signal); None while it runs, or if it is not ours."""
        child = self._children.get(worker)
        return child.poll() if child is not None else None

    def is_ours(self, worker: Worker) -> bool:
        """Whether we started this worker and so will learn how it ends."""
        return worker in self._children

    def forget(self, worker: Worker) -> None:
        """The run's end is on record, and the worker's exit code is of no further use."""
        child = self._children.pop(worker, None)
        if child is not None:
            child.poll()  # where another scheduler saw the end first, nobody has asked for the code yet

    def let_go(self) -> None:
        """Leave the workers to themselves, as when this process ends: the system will reap them."""
        for child in self._children.values():
            if child.poll() is None:
                child.returncode = (
                    0  # else Popen warns that it is forgotten while its process runs, which is the intent
                )
        self._children.clear()
