"""How fast this machine computes and in which dtype, learned from the probes and runs that it has carried out."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from core.config import RunConfig
from core.events import Event, Finished, Started
from core.models.flops import flops_a_token
from jobs.home import Home
from jobs.journal import parse_event
from jobs.machine import CPU
from jobs.probes import ProbeFigures
from jobs.sizes import Sized
from jobs.store import Store
from jobs.views import Run

HEAD_BYTES, TAIL_BYTES = 2**18, 2**14  # of a run's events, in which it tells its beginning and its end
LOOKED_AT = 8  # runs, the newest ones
BF16 = "bfloat16"
CPU_INFO = Path("/proc/cpuinfo")
BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")

_Kind = TypeVar("_Kind", bound=Event)


@dataclass(frozen=True, slots=True)
class PastRun:
    """One run that was carried out here: what it began with, and what it came to."""

    config: RunConfig
    started: Started
    finished: Finished

    @property
    def mean_length(self) -> float:
        """Tokens a row."""
        return self.started.tokens_per_epoch / max(1, self.started.train_rows)


@dataclass(slots=True)
class PastRuns:
    """The newest finished runs of a home; each one's events are read once."""

    home: Home
    store: Store
    _known: dict[str, PastRun | None] = field(default_factory=dict)

    def newest(self) -> tuple[PastRun, ...]:
        """The newest first."""
        runs = [run for run in self.store.runs() if run.state == "finished"][:LOOKED_AT]
        for run in runs:
            if run.id not in self._known:
                self._known[run.id] = self._read(run)
        return tuple(past for run in runs if (past := self._known[run.id]) is not None)

    def _read(self, run: Run) -> PastRun | None:
        path = self.home.run(run.id).events
        try:
            with path.open("rb") as file:
                head = file.read(HEAD_BYTES)
                file.seek(max(0, path.stat().st_size - TAIL_BYTES))
                tail = file.read()
        except OSError:
            return None
        started, finished = _first(head, Started), _first(tail, Finished)
        # One that was resumed says in its last word what all of it took, but began on another day.
        return PastRun(run.config, started, finished) if started is not None and finished is not None else None


def _first(lines: bytes, kind: type[_Kind]) -> _Kind | None:
    mark = f'"{kind.__name__.lower()}"'.encode()
    events = (parse_event(line) for line in lines.split(b"\n") if mark in line[:80] and line.endswith(b"}"))
    return next((event for event in events if isinstance(event, kind)), None)


def computes_in_bf16(past: Sequence[PastRun], probes: Sequence[ProbeFigures], devices: Sequence[str]) -> bool:
    """Whether this machine's faster dtype is bf16: as it was measured, else as the processor's flags have it."""
    seen = [figures.compute_dtype for figures in probes]
    seen += [run.started.compute_dtype for run in past if run.config.quant.bits != 32]
    if BF16 in seen:
        return True
    if seen and all(run.config.quant.bits != 32 for run in past):
        return False
    return CPU not in devices or _has_flag()


def _has_flag() -> bool:
    try:
        lines = CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line.split() for line in lines if line.lower().startswith(("flags", "features"))), [])
    return any(flag in flags for flag in BF16_FLAGS)


def flops_per_second(past: Sequence[PastRun], sized: Sized) -> float | None:
    """About how fast this machine trains a model like `sized`, from runs on the same base model in the same dtype, else
    from any; None where there was none.
    """
    base, bits = sized.config.base_model, sized.config.quant.bits
    alike = [run for run in past if run.config.base_model == base and (run.config.quant.bits == 32) == (bits == 32)]
    rates = [rate for run in alike if (rate := _rate(run, sized)) is not None]
    return statistics.median(rates) if rates else None


def _rate(run: PastRun, sized: Sized) -> float | None:
    """What the run did a second: its tokens, each at what one costs with its settings."""
    if not run.finished.seconds or run.config.task != sized.config.task:
        return None
    trained = replace(sized.trained, parameters=run.started.trainable_parameters)
    return flops_a_token(run.config, sized.shape, trained, run.mean_length) * run.finished.tokens_per_second
