"""The losses on held-out rows that a run has told, by step."""

from __future__ import annotations

from pathlib import Path

from core.events import EvalDone, Started
from jobs.history import read_history


def evaluations_in(events: Path) -> dict[int, float]:
    """The losses in a run's events. Where it went on from a checkpoint, those behind it have been measured anew, or
    not yet.
    """
    found: dict[int, float] = {}
    for told in read_history(events)[0]:
        if isinstance(told, Started):
            found = {step: loss for step, loss in found.items() if step < told.first_step}
        elif isinstance(told, EvalDone):
            found[told.step] = told.loss
    return found
