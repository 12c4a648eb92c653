"""What a run will cost before it starts: memory by part, time, room on the disk, and whether it fits.

Each figure says where it comes from: measured by a probe (`jobs.probes`), estimated from shapes (`core.models.memory`),
or not known. Nothing here imports torch, and nothing is started.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from core.config import RunConfig
from core.models.flops import flops_a_token
from core.models.memory import MemoryEstimate, at_once, estimate_memory
from core.train.disk import free_bytes
from jobs.fitting import Fit, RowFacts, fits
from jobs.fixes import Fix, fixes
from jobs.home import Home
from jobs.machine import CPU
from jobs.probes import ProbeFigures, Probes, ProbeView
from jobs.rates import PastRun, PastRuns, computes_in_bf16, flops_per_second
from jobs.room import SPARE_BYTES, needed_bytes
from jobs.sizes import Sized, sized
from jobs.store import Store

How: TypeAlias = Literal["measured", "estimated", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Duration:
    """How long the optimizer steps of a run take. `sentence` says what the figure rests on."""

    steps: int
    seconds: float | None
    how: How
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """What the run's folder takes at most, and what there is."""

    needed_bytes: int
    free_bytes: int

    @property
    def fits(self) -> bool:
        """Whether it can be started."""
        return self.free_bytes >= self.needed_bytes + SPARE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What a run takes at its peak, and what is free. `estimate` is there before anything is measured; `measured_bytes`
    is what a probe found. On a GPU both are of its memory, and `free_bytes` is None where nobody says what it has.
    """

    estimate: MemoryEstimate
    measured_bytes: int | None
    free_bytes: int | None
    is_on_gpu: bool = False

    @property
    def how(self) -> How:
        """Where `bytes` comes from."""
        return "estimated" if self.measured_bytes is None else "measured"

    @property
    def bytes(self) -> int:
        """The best figure there is."""
        return self.estimated_bytes if self.measured_bytes is None else self.measured_bytes

    @property
    def estimated_bytes(self) -> int:
        """What the estimate comes to, where it is to fit."""
        return self.estimate.on_device if self.is_on_gpu else self.estimate.total

    @property
    def fit(self) -> Fit:
        """Whether it fits."""
        return fits(self.bytes, self.free_bytes, is_measured=self.measured_bytes is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """All of it, for one config. `fixes` are there where it does not fit, or hardly does."""

    memory: Memory
    probe: ProbeView
    duration: Duration
    disk: Disk
    fixes: tuple[Fix, ...] = ()


def steps_of(config: RunConfig, rows: int) -> int:
    """How many optimizer steps a run over `rows` rows has; as the loop counts them, copies of rows aside."""
    trained = rows - int(rows * config.data.holdout)
    in_an_epoch = -(-max(1, trained) // config.optim.batch_size)
    return config.optim.steps or max(1, math.ceil(config.optim.epochs * in_an_epoch))


@dataclass(slots=True)
class Costs:
    """The costs of runs on one home."""

    home: Home
    store: Store
    models_root: Path
    probes: Probes
    devices: Callable[[], Sequence[str]]
    past: PastRuns

    def of(self, config: RunConfig, rows: RowFacts, free: int | None) -> Cost | None:
        """What `config` would cost.

        Args:
            rows: of its dataset.
            free: bytes of memory that it may have: a GPU's where there is one, else the machine's.

        Raises:
            ConfigError, ModelError: as `Service.estimate`.
        """
        found = sized(config, self.models_root)
        if found is None:
            return None
        probe, past = self.probes.state(config), self.past.newest()
        memory = self._memory(found, rows, free, probe.figures)
        return Cost(
            memory=memory,
            probe=probe,
            duration=duration(found, rows, probe.figures, past),
            disk=Disk(needed_bytes=needed_bytes(config, found.estimate), free_bytes=free_bytes(self.home.path)),
            fixes=self._fixes(found, rows, memory, probe),
        )

    def estimate(self, config: RunConfig, rows: RowFacts) -> MemoryEstimate | None:
        """The memory of `config` by part, from shapes alone; None while its base model is not on this machine.

        Raises:
            ConfigError, ModelError: as `Service.estimate`.
        """
        found = sized(config, self.models_root)
        return None if found is None else _estimate(found, rows, self._is_in_bf16())

    def _fixes(self, found: Sized, rows: RowFacts, memory: Memory, probe: ProbeView) -> tuple[Fix, ...]:
        """What would make it smaller, where that is wanted; where something was measured, in its measure."""
        is_wanted = memory.fit in ("does not fit", "tight") or probe.state == "failed"
        if not is_wanted or memory.free_bytes is None:
            return ()
        factor, is_in_bf16 = memory.bytes / memory.estimated_bytes, self._is_in_bf16()

        def total_of(config: RunConfig) -> int:
            other = sized(config, self.models_root)
            assert other is not None, "its base model was there"
            estimate = _estimate(other, rows, is_in_bf16)
            return int(factor * (estimate.on_device if memory.is_on_gpu else estimate.total))

        return fixes(found, rows, memory.free_bytes, total_of)

    def _is_in_bf16(self) -> bool:
        return computes_in_bf16(self.past.newest(), self.probes.all_figures(), self.devices())

    def _memory(self, found: Sized, rows: RowFacts, free: int | None, figures: ProbeFigures | None) -> Memory:
        is_on_gpu = CPU not in self.devices()
        measured = None
        if figures is not None:
            measured = figures.device_bytes if is_on_gpu else figures.peak_bytes
        estimate = _estimate(found, rows, self._is_in_bf16())
        return Memory(estimate=estimate, measured_bytes=measured, free_bytes=free, is_on_gpu=is_on_gpu)


def _estimate(found: Sized, rows: RowFacts, is_in_bf16: bool) -> MemoryEstimate:
    batch = at_once(found.config, rows.longest(found.limit))
    return estimate_memory(found.config, found.shape, found.trained, batch, computes_in_bf16=is_in_bf16)


def duration(found: Sized, rows: RowFacts, figures: ProbeFigures | None, past: Sequence[PastRun]) -> Duration:
    """How long the optimizer steps take: from what a probe measured, else from earlier runs and the operations that a
    token takes, else not known.
    """
    config = found.config
    steps = steps_of(config, rows.rows)
    if figures is not None:
        beside = ", beside a run" if figures.is_beside_run else ""
        words = f"measured on one batch{beside}: {figures.tokens_per_second:.0f} tokens a second"
        return Duration(steps=steps, seconds=steps * figures.seconds_a_mean_step, how="measured", sentence=words)
    mean, speed = rows.mean(found.limit), flops_per_second(past, found)
    if mean is None:
        words = "not known until the rows' tokens are counted"
        return Duration(steps=steps, seconds=None, how="unknown", sentence=words)
    if speed is None:
        words = "not known: nothing was trained on this model here yet; a trial step measures it"
        return Duration(steps=steps, seconds=None, how="unknown", sentence=words)
    tokens = steps * config.optim.batch_size * mean
    seconds = tokens * flops_a_token(config, found.shape, found.trained, mean) / speed
    words = "estimated from the operations of a token and the speed of earlier runs here"
    return Duration(steps=steps, seconds=seconds, how="estimated", sentence=words)
