"""What a list needs to know of a run that is at rest: a few figures and a thin curve, kept in `summary.json`.

The worker writes it when it ends, so that a list of hundreds reads a few hundred bytes a run in place of all events.
Where it is missing or the events have grown since, it is made of the events and kept.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from core.events import EvalDone, Started
from jobs.curves import Curve
from jobs.history import Steps, Told, read_history
from jobs.home import RunFolder

POINTS = 48  # of the thin curve
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A run in short. `events_bytes` is how much of its events this was made of. `step` is the last one done of `steps`
    planned, 0 where that is not known; `loss` a few of its training losses in order; losses on held-out rows are None
    where none was measured.
    """

    events_bytes: int = 0
    step: int = 0
    steps: int = 0
    loss: tuple[float, ...] = ()
    base_eval_loss: float | None = None
    eval_loss: float | None = None


def summary_of(folder: RunFolder) -> Summary:
    """The summary of the run in `folder`, from its file, else from its events, and then the file is written."""
    size = folder.events.stat().st_size if folder.events.exists() else 0
    kept = _read(folder.summary)
    if kept is not None and kept.events_bytes == size:
        return kept
    return write_summary(folder)


def write_summary(folder: RunFolder) -> Summary:
    """Make the summary of the run's events as they are, and keep it beside them; a disk that has no room for it loses
    nothing else by that.
    """
    told, size = read_history(folder.events)
    summary = _summarize(told, size)
    draft = folder.summary.with_suffix(".tmp")
    try:
        draft.write_bytes(orjson.dumps(asdict(summary)))
        draft.replace(folder.summary)
    except OSError as error:
        log.warning("The summary %s could not be kept: %s", folder.summary, error)
    return summary


def _summarize(told: tuple[Told, ...], size: int) -> Summary:
    loss, evaluation = Curve(limit=POINTS), Curve()
    step = steps = 0
    for each in told:
        if isinstance(each, Steps):
            loss.extend(each.step, each.loss)
            step = each.step[-1]
        elif isinstance(each, Started):
            steps, step = each.steps, each.first_step - 1
            loss.cut(each.first_step)
            evaluation.cut(each.first_step if step else 0)
        elif isinstance(each, EvalDone):
            evaluation.add(each.step, each.loss)
    is_compared = len(evaluation.y) > 1
    return Summary(
        events_bytes=size,
        step=step,
        steps=steps,
        loss=tuple(float(f"{value:.4g}") for value in loss.y),
        base_eval_loss=evaluation.y[0] if evaluation.y and evaluation.x[0] == 0 else None,
        eval_loss=evaluation.y[-1] if is_compared else None,
    )


def _read(path: Path) -> Summary | None:
    """What is kept; None where nothing is, or nothing that can be read."""
    try:
        values = orjson.loads(path.read_bytes())
        return Summary(**{**values, "loss": tuple(map(float, values["loss"]))})
    except (OSError, ValueError, LookupError, TypeError):
        return None
