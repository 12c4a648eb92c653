"""How the cost of a step grows with rows, rank, row length, batch and micro-batch.

    python app.py bench growth
    python app.py bench growth --quick     the smallest two of each, one round; nothing is kept

Every run trains the starter in 16 bits through the engine's own door (`core.train.run.carry_out`), on rows of one
length: long texts, cut at the length that is asked for. Runs that are compared take turns in one process, a step each,
round by round; a figure is the median over rounds, from the run's own account of its optimizer steps.

- *rows*: the time a token takes with 100 to 100,000 rows in the dataset. They are encoded before the first step.
- *rank*: the same with rank 1 to 64, beside what the FLOPs say (`benchmarks.instruments.flops`).
- *row length*: the same with rows of 128 to 2,048 tokens, as many tokens a step, beside the FLOPs with attention, and
  beside a line: attention's part of a token's time grows with the row, all else stays. (An operation of attention takes
  longer than one of the large products, so that the time grows faster than the FLOPs do.)
- *batch*: tokens a second and peak memory with 1 to 16 rows a step.
- *micro-batch*: the same with 256 to 4,096 tokens at once.
- *checkpointing*: the same with gradient checkpointing and without.

Memory is the largest resident memory of a process that carries out nothing but that run.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.instruments.flops import Sizes, step_flops
from benchmarks.instruments.process import measured
from benchmarks.results import keep, note_machine
from core.models.catalogue import default_models_root
from core.models.starter import ensure_starter

ROUNDS, MEMORY_ROUNDS = 5, 2
FEW_ROWS = 96  # a multiple of every batch size, so that no step is smaller than the others
TOKENS_A_STEP, QUICK_TOKENS_A_STEP = 2048, 1024
ROWS = (100, 1_000, 10_000, 100_000)
RANKS = (1, 4, 16, 64)
LENGTHS = (128, 256, 512, 1024, 2048)
BATCHES = (1, 2, 4, 8, 16)
MICRO_TOKENS = (256, 512, 1024, 2048, 4096)

Runs = dict[str, dict[str, Any]]


def in_turns(runs: Runs, rounds: int) -> Runs:
    """The figures of `runs`, which take turns in one process, with the median time a token takes."""
    order = {"runs": runs, "rounds": rounds}
    found: Runs = measured("benchmarks.instruments.growth_step", order, as_worker=True)["runs"]
    for figures in found.values():
        figures["seconds_per_token"] = statistics.median(figures["seconds_per_token_by_round"])
    return found


def one_by_one(runs: Runs, rounds: int) -> Runs:
    """The figures of `runs`, each in a process of its own, with its peak memory."""
    found: Runs = {}
    for name, settings in runs.items():
        order = {"runs": {name: settings}, "rounds": rounds}
        answer = measured("benchmarks.instruments.growth_step", order, as_worker=True)
        figures = answer["runs"][name]
        seconds = statistics.median(figures["seconds_per_token_by_round"])
        found[name] = {**figures, "tokens_per_second": 1 / seconds, "peak_rss_bytes": answer["peak_rss_bytes"]}
        print(f"    {name:>8}  {1 / seconds:7.0f} tokens/s  {answer['peak_rss_bytes'] / 1e9:6.2f} GB", flush=True)
    return found


def beside_flops(found: Runs, runs: Runs, sizes: Sizes) -> Runs:
    """`found` with each run's time and FLOPs a token as multiples of the first run's."""
    flops = {
        name: sum(
            step_flops(
                sizes,
                rank=settings.get("rank", 16),
                lengths=[settings["length"]] * settings["batch_size"],
                labels=found[name]["labels_a_step"],
            ).values()
        )
        / found[name]["tokens_a_step"]
        for name, settings in runs.items()
    }
    first = next(iter(runs))
    for name, figures in found.items():
        figures["measured"] = figures["seconds_per_token"] / found[first]["seconds_per_token"]
        figures["by_flops"] = flops[name] / flops[first]
        figures["flops_per_second"] = flops[name] / figures["seconds_per_token"]
    return found


def say(title: str, found: Runs) -> None:
    """The figures of runs that took turns."""
    print(title, flush=True)
    for name, figures in found.items():
        beside = f"  {figures['measured']:.3f} times the first, {figures['by_flops']:.3f} by FLOPs"
        print(f"    {name:>8}  {figures['seconds_per_token'] * 1e3:7.3f} ms a token{beside}", flush=True)


def spread(found: Runs) -> float:
    """The longest time a token takes over the shortest."""
    seconds = [figures["seconds_per_token"] for figures in found.values()]
    return float(max(seconds) / min(seconds))


def over_flops(found: Runs) -> float:
    """How much faster the time a token takes grows than its FLOPs, at most."""
    return float(max(figures["measured"] / figures["by_flops"] for figures in found.values()))


def over_line(found: Runs) -> float:
    """How far the time a token takes is at most from a line in the rows' length, as a factor above 1.

    That is what attention says: a token costs the same whatever the row, and sees half of its row in the mean. The line
    is that of least squares, each distance taken as a share of what was measured.
    """
    lengths = np.array([float(name.replace(",", "")) for name in found])
    seconds = np.array([figures["seconds_per_token"] for figures in found.values()])
    terms = np.stack([np.ones_like(lengths), lengths], axis=1) / seconds[:, None]
    line, *_ = np.linalg.lstsq(terms, np.ones_like(seconds), rcond=None)
    shares = terms @ line
    return float(max(shares.max(), 1 / shares.min()))


def chosen(values: Sequence[int], is_quick: bool) -> Sequence[int]:
    """All of `values`, or the smallest two."""
    return values[:2] if is_quick else values


def measure(is_quick: bool) -> dict[str, Any]:
    """All figures."""
    sizes = Sizes.read(ensure_starter(default_models_root(), lambda words: print(words, flush=True)))
    rounds, memory_rounds = (1, 1) if is_quick else (ROUNDS, MEMORY_ROUNDS)
    figures: dict[str, Any] = {}
    for name, runs in taking_turns(is_quick).items():
        figures[name] = beside_flops(in_turns(runs, rounds), runs, sizes)
        say(name, figures[name])
    for name, runs in alone(is_quick).items():
        print(name, flush=True)
        figures[name] = one_by_one(runs, memory_rounds)
    ratios = {
        "rows_spread": spread(figures["rows"]),
        "rank_over_flops": over_flops(figures["rank"]),
        "row_length_over_line": over_line(figures["row length"]),
        "row_length_over_flops": over_flops(figures["row length"]),
    }
    return {**figures, "ratios": ratios}


def taking_turns(is_quick: bool) -> dict[str, Runs]:
    """The runs whose times are compared, by what differs."""
    tokens = QUICK_TOKENS_A_STEP if is_quick else TOKENS_A_STEP
    return {
        "rows": {f"{rows:,}": {"rows": rows, "length": 128, "batch_size": 8} for rows in chosen(ROWS, is_quick)},
        "rank": {
            str(rank): {"rows": FEW_ROWS, "length": tokens // 8, "batch_size": 8, "rank": rank}
            for rank in chosen(RANKS, is_quick)
        },
        "row length": {
            f"{length:,}": {"rows": FEW_ROWS, "length": length, "batch_size": tokens // length}
            for length in chosen(LENGTHS, is_quick)
        },
    }


def alone(is_quick: bool) -> dict[str, Runs]:
    """The runs whose memory is compared, by what differs."""
    tokens = QUICK_TOKENS_A_STEP if is_quick else TOKENS_A_STEP
    return {
        "batch": {
            str(batch): {"rows": FEW_ROWS, "length": tokens // 8, "batch_size": batch}
            for batch in chosen(BATCHES, is_quick)
        },
        "micro-batch": {
            f"{micro:,}": {
                "rows": FEW_ROWS,
                "length": 128,
                "batch_size": tokens // 64,
                "optim": {"micro_tokens": micro},
            }
            for micro in chosen(MICRO_TOKENS, is_quick)
        },
        "checkpointing": {
            name: {"rows": FEW_ROWS, "length": tokens // 8, "batch_size": 8, "optim": {"checkpointing": is_on}}
            for name, is_on in (("off", False), ("on", True))
        },
    }


def main() -> None:
    """Measure, print, keep."""
    note_machine()
    parser = argparse.ArgumentParser(prog="bench growth")
    parser.add_argument("--quick", action="store_true", help="the smallest two of each; the result is not kept")
    is_quick: bool = parser.parse_args().quick
    figures = measure(is_quick)
    for name, value in figures["ratios"].items():
        print(f"{name:24} {value:.3f}")
    if not is_quick:
        keep("growth", figures)


if __name__ == "__main__":
    main()
