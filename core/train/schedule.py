"""The learning rate: its height for a model, and its course over a run.

The course is a linear warm-up from zero, then constant, or down to zero linearly or by a half cosine.
"""

from __future__ import annotations

import math

from core.config import OptimConfig

RATE_TIMES_WIDTH = 1.15
LOWEST, HIGHEST = 5e-5, 2e-3


def suggested_rate(width: int | None) -> float:
    """A learning rate for LoRA on a model of that hidden size: inversely proportional to it.

    That is what keeps the updates' effect on activations alike across widths (Yang et al., Tensor Programs V,
    arXiv 2203.03466, table 8); the constant gives close to the customary 3e-4 at a width of 4096.
    """
    return min(HIGHEST, max(LOWEST, RATE_TIMES_WIDTH / width)) if width else 10 * LOWEST


def learning_rate(peak: float, config: OptimConfig, step: int, total: int) -> float:
    """The rate of optimizer step `step` (from 0) of `total`, where `peak` is the highest."""
    warm = math.ceil(config.warmup * total)
    if step < warm:
        return peak * (step + 1) / (warm + 1)
    progress = (step - warm) / max(1, total - warm)
    if config.schedule == "constant":
        return peak
    if config.schedule == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * progress))
    return peak * (1 - progress)


def evaluation_steps(total: int, evaluations: int) -> frozenset[int]:
    """The steps (counted from 1) after which a run evaluates: evenly spread, the last always among them."""
    return frozenset(round(total * (i + 1) / evaluations) for i in range(evaluations)) - {0}
