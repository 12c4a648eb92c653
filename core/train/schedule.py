"""The learning rate over a run: a linear warm-up from zero, then constant, or down to zero linearly or by a half
cosine.
"""

from __future__ import annotations

import math

from core.config import OptimConfig


def learning_rate(config: OptimConfig, step: int, total: int) -> float:
    """The rate of optimizer step `step` (from 0) of `total`."""
    warm = math.ceil(config.warmup * total)
    if step < warm:
        return config.learning_rate * (step + 1) / (warm + 1)
    progress = (step - warm) / max(1, total - warm)
    if config.schedule == "constant":
        return config.learning_rate
    if config.schedule == "cosine":
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
    return config.learning_rate * (1 - progress)


def evaluation_steps(total: int, evaluations: int) -> frozenset[int]:
    """The steps (counted from 1) after which a run evaluates: evenly spread, the last always among them."""
    return frozenset(round(total * (i + 1) / evaluations) for i in range(evaluations)) - {0}
