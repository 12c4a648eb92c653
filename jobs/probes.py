"""Measured probes: what a run would take, by a child process that takes the first steps of it (`core.train.probe`).

A probe depends on what matters to memory and speed: the base model, what is trained, how it is stored, the rows and how
they are batched. A key is made of these, so that another name, learning rate or number of epochs keeps what was
measured; figures lie in the home's `probes` folder under that key, with the machine that they are of.

One probe goes on at a time. It sits on a device that no run has, and ends when a run is to start there. Where every
device has a run it is refused, unless the person says that it may share: then its time is too long, and the figures
say so.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import orjson
import psutil

from core.config import RunConfig, to_dict
from core.durable import flush
from core.errors import RunError
from core.models.catalogue import find
from jobs.children import Child, Told
from jobs.home import Home
from jobs.machine import CPU, devices, only
from jobs.oom import oom_kills
from jobs.store import Store

State: TypeAlias = Literal["absent", "going on", "done", "failed"]

MODULE = "jobs.prober"
STARTING = "starting"
KEPT = 200  # figures, the newest ones
# What changes neither memory nor the time of a step.
_NO_MATTER = ("name", "samples", "seed", "tracker")
_NO_MATTER_OF_OPTIM = (
    "learning_rate", "schedule", "warmup", "epochs", "steps", "weight_decay", "clip_norm", "evaluations", "checkpoints",
    "lora_plus_ratio",
)  # fmt: skip
_KILLED = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeFigures:
    """What was measured, as `core.train.probe.Probed` says; `is_beside_run` where a run shared the device."""

    peak_bytes: int
    device_bytes: int | None
    tokens: int
    longest: int
    seconds: float
    steps: int
    mean_tokens: float
    micro_tokens: int
    device: str
    compute_dtype: str
    is_beside_run: bool = False

    @property
    def tokens_per_second(self) -> float:
        """How fast the batch went through."""
        return self.tokens / self.seconds

    @property
    def seconds_a_mean_step(self) -> float:
        """What a step on a batch of middling size takes."""
        return self.mean_tokens / self.tokens_per_second


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeView:
    """Where a config's probe stands. `phase` and `detail` say what it does, `sentence` why there are no figures."""

    state: State
    phase: str = ""
    detail: str = ""
    sentence: str = ""
    figures: ProbeFigures | None = None


@dataclass(slots=True)
class _Work:
    """The probe that goes on, or the last that failed."""

    key: str
    device: str
    is_beside_run: bool
    kills: int | None
    child: Child | None = None
    phase: str = STARTING
    detail: str = ""
    failure: str = ""
    figures: dict[str, Any] | None = None
    is_over: bool = False


@dataclass(slots=True)
class Probes:
    """The probes of one home. Any thread may ask.

    Args:
        make_room: called with the device that a probe is to sit on, before it starts.
    """

    home: Home
    store: Store
    models_root: Any
    environment: Mapping[str, str]
    make_room: Callable[[str], None] = lambda device: None
    devices: Callable[[], Sequence[str]] = devices
    module: str = MODULE
    _work: _Work | None = None
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def state(self, config: RunConfig) -> ProbeView:
        """Where the probe of `config`, or of one that takes the same, stands. Nothing is started."""
        key = probe_key(config)
        with self._lock:
            work = self._work
            if work is not None and work.key == key and not work.is_over:
                return ProbeView(state="going on", phase=work.phase, detail=work.detail)
            if (figures := self._read(key)) is not None:
                return ProbeView(state="done", figures=figures)
            if work is not None and work.key == key and work.failure:
                return ProbeView(state="failed", sentence=work.failure)
        return ProbeView(state="absent")

    def start(self, config: RunConfig, *, beside_run: bool = False) -> ProbeView:
        """Measure `config`, unless that is done or goes on.

        Args:
            beside_run: whether it may share a device with a run, where each has one.

        Raises:
            NotFound: there is no such dataset.
            RunError: another probe goes on, every device has a run, or the base model is not on this machine.
            ModelError: there is no such model.
        """
        with self._lock:
            seen = self.state(config)
            if seen.state in ("going on", "done"):
                return seen
            if self._work is not None and not self._work.is_over:
                raise RunError("Another trial step goes on", hint="Wait until it is done, or stop it")
            self._require_model(config)
            dataset = self.store.dataset(config.data.dataset_id)
            device, is_beside_run = self._place(beside_run)
            self.make_room(device)
            work = _Work(probe_key(config), device, is_beside_run, oom_kills())
            scratch = self.home.probes / "scratch"
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
            arguments = [orjson.dumps(to_dict(config)).decode(), str(self.home.records(dataset.id)), str(scratch)]
            self._work = work
            environment = {**self.environment, **only(device)}
            work.child = Child(self.module, arguments, environment, lambda told: self._hear(work, told))
            return self.state(config)

    def stop(self, config: RunConfig) -> None:
        """Give the probe of `config` up, if it goes on."""
        with self._lock:
            work = self._work
        if work is not None and work.key == probe_key(config):
            self._end(work, "")

    def leave(self, device: str) -> None:
        """Give `device` back, since a run is to start there."""
        with self._lock:
            work = self._work
        if work is not None and work.device == device and not work.is_beside_run and not work.is_over:
            self._end(work, "The trial step ended because a run needed the device; try it again when that is over.")

    def close(self) -> None:
        """End what goes on."""
        with self._lock:
            work = self._work
        if work is not None:
            self._end(work, "")

    def _require_model(self, config: RunConfig) -> None:
        source = find(config.base_model, self.models_root)
        if source.folder is None:
            raise RunError(
                f"{source.title} is not on this machine yet, so nothing can be measured", hint="Fetch the model first"
            )

    def _place(self, may_share: bool) -> tuple[str, bool]:
        """Where a probe may sit, and whether a run is there."""
        every = self.devices()
        free = self.store.free_devices(every)
        if free:
            return free[-1], False  # runs take devices from the first on
        if not may_share:
            raise RunError(
                "A run is going on, and a trial step beside it would take its memory and slow both down",
                hint="Wait until the run is over, or measure beside it",
            )
        return (CPU if CPU in every else every[-1]), True

    def _hear(self, work: _Work, told: Told) -> None:
        """Take in what the child tells, in a thread of its own."""
        if told["kind"] == "phase":
            work.phase, work.detail = told["phase"], told["detail"]
        elif told["kind"] == "failed":
            work.failure = told["sentence"]
        elif told["kind"] == "done":
            work.figures = told["figures"]
        elif told["kind"] == "gone":
            with self._lock:
                self._conclude(work, told["status"])

    def _conclude(self, work: _Work, status: int) -> None:
        if work.is_over:
            return
        if work.figures is not None:
            self._keep(work)
        elif not work.failure:
            work.failure = _why(status, work.kills)
        work.is_over = True
        shutil.rmtree(self.home.probes / "scratch", ignore_errors=True)

    def _end(self, work: _Work, why: str) -> None:
        with self._lock:
            if work.is_over:
                return
            work.is_over, work.failure = True, why
        if work.child is not None:
            work.child.stop()
        shutil.rmtree(self.home.probes / "scratch", ignore_errors=True)

    def _keep(self, work: _Work) -> None:
        assert work.figures is not None
        path = self.home.probes / f"{work.key}.json"
        temporary = path.with_suffix(".tmp")
        values = {"machine": _machine(), "figures": {**work.figures, "is_beside_run": work.is_beside_run}}
        temporary.write_bytes(orjson.dumps(values))
        flush([temporary])
        os.replace(temporary, path)
        newest_first = sorted(self.home.probes.glob("*.json"), key=lambda kept: -kept.stat().st_mtime_ns)
        for old in newest_first[KEPT:]:
            old.unlink(missing_ok=True)

    def _read(self, key: str) -> ProbeFigures | None:
        """What was measured on this machine; None where that is nothing, or cannot be read."""
        try:
            kept = orjson.loads((self.home.probes / f"{key}.json").read_bytes())
            return ProbeFigures(**kept["figures"]) if kept["machine"] == _machine() else None
        except (OSError, ValueError, LookupError, TypeError):  # measured anew when asked for
            return None

    def all_figures(self) -> tuple[ProbeFigures, ...]:
        """Whatever was measured on this machine, the newest first."""
        paths = sorted(self.home.probes.glob("*.json"), key=lambda kept: -kept.stat().st_mtime_ns)
        return tuple(figures for path in paths if (figures := self._read(path.stem)) is not None)


def probe_key(config: RunConfig) -> str:
    """The same for configs that take the same memory, and the same time a step."""
    values = to_dict(config)
    for name in _NO_MATTER:
        del values[name]
    for name in _NO_MATTER_OF_OPTIM:
        del values["optim"][name]
    return hashlib.sha256(orjson.dumps(values, option=orjson.OPT_SORT_KEYS)).hexdigest()[:20]


def _machine() -> dict[str, Any]:
    """What tells this machine from one that a home was copied to."""
    return {"memory": psutil.virtual_memory().total, "threads": os.cpu_count()}


def _why(status: int, kills_before: int | None) -> str:
    kills = oom_kills()
    if status == -_KILLED and kills is not None and kills_before is not None and kills > kills_before:
        return "The machine ran out of memory in the trial step; the settings do not fit."
    how = f"by signal {-status}" if status < 0 else f"with status {status}"
    return f"The process of the trial step ended {how} before anything was measured; try again."
