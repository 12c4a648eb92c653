"""How near the memory that is estimated before a run comes to the memory that the run takes.

    python app.py bench memory_estimate
    python app.py bench memory_estimate --quick     the smallest two; nothing is kept

The starter is trained in 16 and in 4 bits, at three ranks and three row lengths, with gradient checkpointing and
without: 36 runs, each a real worker (`jobs.worker`) in a process of its own, on rows of one length that go through
together, through the rehearsal, an optimizer step, a checkpoint and the adapter on disk. What is compared is the
process's largest resident memory with `core.models.memory.estimate_memory`, which reads the headers of the model's
files and nothing else.

Memory does not depend on what others do on the machine, nor, but for half a percent, on the number of threads; so each
run has one, and waits for nobody.
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Iterable, Iterator
from typing import Any

from benchmarks.instruments.memory_run import Settings
from benchmarks.instruments.process import measured
from benchmarks.results import keep, note_machine
from core.models.catalogue import default_models_root
from core.models.memory import MemoryEstimate, at_once, estimate_memory
from core.models.starter import ensure_starter
from jobs.sizes import sized

BITS = (16, 4)
RANKS = (4, 16, 64)
ROWS_BY_LENGTH = {128: 4, 512: 2, 1024: 1}  # as many rows go through together


def cases() -> Iterator[Settings]:
    """All 36, the smallest first."""
    for is_checkpointing, length, bits, rank in itertools.product((True, False), ROWS_BY_LENGTH, BITS, RANKS):
        yield Settings(
            rank=rank, length=length, rows=ROWS_BY_LENGTH[length], bits=bits, is_checkpointing=is_checkpointing
        )  # type: ignore[arg-type]


def estimated(settings: Settings, *, computes_in_bf16: bool) -> MemoryEstimate:
    """What is said of such a run before it begins."""
    config = settings.config()
    found = sized(config, default_models_root())
    assert found is not None, "the base model is here"
    batch = at_once(config, settings.length)
    return estimate_memory(config, found.shape, found.trained, batch, computes_in_bf16=computes_in_bf16)


def compared(settings: Settings) -> dict[str, Any]:
    """A run's measured peak beside its estimate, by part."""
    answer = measured("benchmarks.instruments.memory_run", settings.order(), as_worker=True)
    return beside(settings, answer["peak_rss_bytes"], answer["compute_dtype"])


def beside(settings: Settings, peak_rss_bytes: int, compute_dtype: str) -> dict[str, Any]:
    """A measured peak beside the estimate of its run."""
    estimate = estimated(settings, computes_in_bf16=compute_dtype == "bfloat16")
    return {
        **settings.order(),
        "compute_dtype": compute_dtype,
        "peak_rss_bytes": peak_rss_bytes,
        "estimated_bytes": estimate.total,
        "ratio": estimate.total / peak_rss_bytes,
        "parts": estimate.parts,
    }


def measure(wanted: Iterable[Settings]) -> dict[str, Any]:
    """All runs one after the other, and how far their estimates are off."""
    ensure_starter(default_models_root(), lambda words: print(words, flush=True))
    runs = []
    for settings in wanted:
        run = compared(settings)
        runs.append(run)
        print(line(run), flush=True)
    return summary(runs)


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What is kept of compared runs."""
    ratios = [run["ratio"] for run in runs]
    furthest = max(max(ratio, 1 / ratio) for ratio in ratios) - 1
    return {"runs": runs, "ratios": {"lowest": min(ratios), "highest": max(ratios), "furthest": furthest}}


def line(run: dict[str, Any]) -> str:
    """One run in a line of a table."""
    checkpointing = "checkpointing" if run["is_checkpointing"] else ""
    return (
        f"{run['bits']:2} bits  rank {run['rank']:2}  {run['rows']} × {run['length']:4} tokens  {checkpointing:13}"
        f"  {run['peak_rss_bytes'] / 1e6:6.0f} MB measured  {run['estimated_bytes'] / 1e6:6.0f} estimated"
        f"  {run['ratio']:.3f}"
    )


def main() -> None:
    """Measure, print, keep."""
    note_machine()
    parser = argparse.ArgumentParser(prog="bench memory_estimate")
    parser.add_argument("--quick", action="store_true", help="the smallest two; the result is not kept")
    is_quick: bool = parser.parse_args().quick
    os.environ["OMP_NUM_THREADS"] = "1"
    figures = measure(itertools.islice(cases(), 2) if is_quick else cases())
    for name, value in figures["ratios"].items():
        print(f"{name:24} {value:.3f}")
    if not is_quick:
        keep("memory_estimate", figures)


if __name__ == "__main__":
    main()
