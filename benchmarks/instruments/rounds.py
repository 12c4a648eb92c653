"""What rounds of runs come to: medians, ratios taken in each round, and how far losses are apart.

A run is what one side did in one round: `seconds`, `tokens` and `losses` of each optimizer step, and `peak_rss_bytes`.
The first step warms up and is left out of speeds; its loss counts like any other.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Run = Mapping[str, Any]


def tokens_per_second(run: Run) -> float:
    """Real tokens over seconds, in all steps but the first."""
    return float(sum(run["tokens"][1:]) / sum(run["seconds"][1:]))


def side(runs: Sequence[Run]) -> dict[str, Any]:
    """One side's figures over all rounds."""
    speeds = [tokens_per_second(run) for run in runs]
    return {
        "tokens_per_second": statistics.median(speeds),
        "tokens_per_second_by_round": speeds,
        "peak_rss_bytes": statistics.median(run["peak_rss_bytes"] for run in runs),
        "losses": runs[0]["losses"],
        "tokens_by_step": runs[0]["tokens"],
        "others_share_by_round": [run["others_share"] for run in runs],
        **{name: runs[0][name] for name in ("positions", "compute_dtype") if name in runs[0]},
    }


def speed_ratio(ours: Sequence[Run], theirs: Sequence[Run]) -> float:
    """How many of their tokens a second make ours: the median over rounds."""
    return _median_ratio([tokens_per_second(run) for run in ours], [tokens_per_second(run) for run in theirs])


def memory_ratio(ours: Sequence[Run], theirs: Sequence[Run]) -> float:
    """Our peak memory in theirs: the median over rounds."""
    return _median_ratio([run["peak_rss_bytes"] for run in ours], [run["peak_rss_bytes"] for run in theirs])


def loss_difference(ours: Run, theirs: Run) -> float:
    """The largest relative difference of two runs' losses, step by step."""
    pairs = zip(ours["losses"], theirs["losses"], strict=False)  # one may have been cut shorter
    return float(max(abs(mine - yours) / abs(yours) for mine, yours in pairs))


def _median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return float(statistics.median(mine / yours for mine, yours in zip(ours, theirs, strict=True)))
