"""A measured probe: what a run takes, by taking the first steps of it and nothing else.

It goes the run's own way (`core.train.run.prepare`, `core.train.loop.Loop`) up to the first optimizer step: the model
is fetched, loaded and quantized, all rows are tokenized and parted, the adapter is put in. Then the longest micro-batch
is tried as a run tries it, and the batch of the first epoch that has the most tokens goes through `STEPS` optimizer
steps. AdamW's moments are there before the first. The first step also compiles products for its lengths; so the
second one says how long a step takes, where the first did not take `LONG_STEP_SECONDS`.

What a run does besides is not in it: evaluations and checkpoints take time, and none takes more memory than a step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from core.config import RunConfig
from core.data.records import Records
from core.data.tokens.splits import lengths_of
from core.events import Event, StepDone
from core.train.loop import Loop, Stop
from core.train.memory import peak_rss_bytes
from core.train.run import prepare

STEPS = 2
LONG_STEP_SECONDS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Probing:
    """The steps begin, on rows of at most `longest` tokens."""

    longest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What was measured. `peak_bytes` is the process's largest resident memory, `device_bytes` that of a GPU's tensors
    (None on a CPU). `tokens` are those of the batch that was tried, `seconds` what a step on it took. A run with these
    settings has `steps`, with `mean_tokens` each. Where memory did not suffice, fewer `micro_tokens` go through at
    once than the settings say.
    """

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

    @property
    def tokens_per_second(self) -> float:
        """How fast the batch went through."""
        return self.tokens / self.seconds


def probe(
    config: RunConfig, *, records: Records, scratch: Path, models_root: Path, stop: Stop
) -> Iterator[Event | Probing | Probed]:
    """Measure what a run with `config` takes; this process is to do nothing else, before or after.

    Args:
        records: the dataset. scratch: an empty folder, for what a run writes before its first step.
        stop: as `core.train.run.carry_out` asks it; a probe that is to end has no last word.

    Yields:
        The events of a run that prepares; then `Probing`, each step, and last `Probed`.

    Raises:
        UserError: the run cannot be carried out, or does not fit in memory.
    """
    prepared = yield from prepare(config, records=records, run_folder=scratch, models_root=models_root, stop=stop)
    if prepared is None:
        return
    loop, _ = prepared
    yield Probing(longest=int(lengths_of(loop.train_rows).max()))
    if loop.loaded.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(loop.loaded.device)
    done: list[StepDone] = []
    for step in loop.probe():
        done.append(step)
        yield step
        if stop() or len(done) == STEPS or step.seconds > LONG_STEP_SECONDS:
            break
    if not stop():
        yield _probed(loop, done)


def _probed(loop: Loop, done: list[StepDone]) -> Probed:
    lengths, device = lengths_of(loop.train_rows), loop.loaded.device
    tokens = done[0].tokens
    return Probed(
        peak_bytes=peak_rss_bytes(),
        device_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        tokens=tokens,
        longest=int(lengths.max()),
        seconds=done[-1].seconds - (done[-2].seconds if len(done) > 1 else 0.0),
        steps=loop.steps,
        mean_tokens=float(lengths.sum()) / loop.order.steps,
        micro_tokens=loop.micro_tokens,
        device=str(device),
        compute_dtype=str(loop.subject.trainables.autocast or loop.loaded.dtype).removeprefix("torch."),
    )
