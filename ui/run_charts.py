"""A run's curves, and those of several runs over each other, as figures for `ui.charts`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

from jobs.service import Curve, Run
from ui.charts import AXIS, BLUE, GRAY, GREEN, LAYOUT, ORANGE, PINK, RED, SERIES, SKY, Figure, line
from ui.story import Story

COMPARED_POINTS = 400  # of a run, where several are drawn
LARGEST_PERPLEXITY = 1e6
NAMED_SHARE = 0.08  # of the estimate: a part below it has no room for its name
# What a run takes, in the colors of the card that says so before it starts (`static/cost.css`).
PART_COLORS = {
    "process": GRAY, "weights": BLUE, "adapter": GREEN, "gradients": PINK, "optimizer": SKY, "activations": ORANGE,
    "logits": RED,
}  # fmt: skip
_AXES = {"step": "step", "tokens": "tokens", "seconds": "seconds in steps"}


def loss(story: Story, run_id: str) -> Figure:
    """Training loss, with its spikes marked; and the loss on held-out rows from step 0, the base model, on."""
    series = [
        line("training", story.loss.x, story.loss.y, BLUE, is_smoothed=True),
        line("held-out rows", story.evaluation.x, story.evaluation.y, ORANGE, mode="lines+markers"),
    ]
    if story.spikes.x:
        series.append(line("spikes", story.spikes.x, story.spikes.y, PINK, mode="markers"))
    return _figure(series, run_id, story, y_format=".3f", may_be_log=True)


def perplexity(story: Story, run_id: str) -> Figure | None:
    """e to the loss on held-out rows; None where there is none."""
    points = [
        (x, y) for x, y in zip(story.evaluation.x, story.evaluation.y, strict=True) if y < math.log(LARGEST_PERPLEXITY)
    ]
    if not points:
        return None
    series = line(
        "held-out rows", [x for x, _ in points], [math.exp(y) for _, y in points], ORANGE, mode="lines+markers"
    )
    return _figure([series], run_id, story, y_format=".2f", has_legend=False, may_be_log=True)


def accuracy(story: Story, run_id: str) -> Figure | None:
    """Which share of held-out tokens, or rows, was right; None where that was not counted."""
    if not story.shares.x:
        return None
    percents = [100 * share for share in story.shares.y]
    series = line("held-out rows", story.shares.x, percents, GREEN, mode="lines+markers")
    return _figure([series], run_id, story, y_format=".1f", unit=" %", has_legend=False)


def learning_rate(story: Story, run_id: str) -> Figure:
    """The learning rate of each step."""
    series = line("learning rate", story.learning_rate.x, story.learning_rate.y, GREEN)
    return _figure([series], run_id, story, y_format=".3~e", from_zero=True, has_legend=False, may_be_log=True)


def gradient_norm(story: Story, run_id: str) -> Figure:
    """The gradient's norm at each step, before it is clipped."""
    series = line("gradient norm", story.grad_norm.x, story.grad_norm.y, SKY, is_smoothed=True)
    return _figure([series], run_id, story, y_format=".3~g", from_zero=True, has_legend=False, may_be_log=True)


def speed(story: Story, run_id: str) -> Figure:
    """Tokens a second of each step."""
    series = line("tokens a second", story.speed.x, story.speed.y, PINK, is_smoothed=True)
    return _figure([series], run_id, story, y_format=",.0f", from_zero=True, has_legend=False)


def memory(story: Story, run_id: str, parts: Mapping[str, int] | None = None) -> Figure:
    """The worker's memory and, where there is one, the device's, as measured after each step; under it, as surfaces,
    the `parts` that were estimated before the run, in bytes: what they come to at the peak.
    """
    end = max(story.steps, story.step, 1)
    series = [_band(name, parts[name], end) for name in PART_COLORS if parts and parts.get(name)]
    series.append(_bytes("measured, process", story.process_memory, BLUE))
    if story.device_memory.x:
        series.append(_bytes("measured, device", story.device_memory, ORANGE))
    has_legend = bool(story.device_memory.x)
    figure = _figure(series, run_id, story, y_format=".2f", unit=" GB", from_zero=True, has_legend=has_legend)
    figure["layout"]["annotations"] = _names_of_bands(parts or {}, end)
    return figure


def _names_of_bands(parts: Mapping[str, int], end: int) -> list[Figure]:
    """The parts' names, each inside its band as far as that is wide enough."""
    names, below, total = [], 0, sum(parts.values())
    for part in PART_COLORS:
        size = parts.get(part, 0)
        if size > NAMED_SHARE * total:
            place = {"x": end, "y": (below + size / 2) / 1e9, "xanchor": "right", "yanchor": "middle"}
            names.append({**place, "text": f"{part}, estimated", "showarrow": False, "font": {"size": 11}})
        below += size
    return names


def _band(name: str, size: int, end: int) -> Figure:
    """One part of the estimate, on top of those before it."""
    color = PART_COLORS[name]
    return {
        **line(f"estimate: {name}", [0, end], [size / 1e9] * 2, color, width=0),
        "stackgroup": "estimate", "fillcolor": f"{color}26", "showlegend": False, "mode": "none",
    }  # fmt: skip


def compared(runs: Sequence[tuple[Run, Story]]) -> tuple[Figure, Figure]:
    """Training losses of several runs over each other, and their losses on held-out rows."""
    training: list[Figure] = []
    held_out: list[Figure] = []
    for (run, story), color in zip(runs, cycle(SERIES), strict=False):
        across = {"step": story.loss, "tokens": story.tokens, "seconds": story.seconds}
        training.append(_compared(run, story.loss, across, color, is_smoothed=True))
        across = {"step": story.evaluation, "tokens": story.evaluated_tokens, "seconds": story.evaluated_seconds}
        held_out.append(_compared(run, story.evaluation, across, color, mode="lines+markers"))
    return _over_each_other(training, runs), _over_each_other(held_out, runs)


def _compared(run: Run, curve: Curve, across: Mapping[str, Curve], color: str, **more: Any) -> Figure:
    """A run's curve, with what it can be drawn over: all of these curves have the same points."""
    stride = -(-len(curve.x) // COMPARED_POINTS) or 1
    figure = line(run.name, curve.x[::stride], curve.y[::stride], color, **more)
    figure["meta"]["across"] = {
        name: [float(f"{value:.7g}") for value in (found.x if name == "step" else found.y)[::stride]]
        for name, found in across.items()
    }
    return figure


def _over_each_other(series: list[Figure], runs: Sequence[tuple[Run, Story]]) -> Figure:
    layout = {
        **LAYOUT,
        "uirevision": ",".join(run.id for run, _ in runs),
        "showlegend": True,
        "meta": {"log": True, "across": _AXES},
        "xaxis": {**AXIS, "showgrid": False, "nticks": 7, "rangemode": "tozero"},
        "yaxis": {**AXIS, "hoverformat": ".3f", "nticks": 6},
    }
    return {"data": series, "layout": layout}


def _bytes(name: str, curve: Curve, color: str) -> Figure:
    return line(name, curve.x, [value / 1e9 for value in curve.y], color)


def _figure(
    series: list[Figure],
    run_id: str,
    story: Story,
    *,
    y_format: str,
    unit: str = "",
    from_zero: bool = False,
    has_legend: bool = True,
    may_be_log: bool = False,
) -> Figure:
    across = {"range": [0, max(story.steps, story.step, 1)], "showgrid": False, "nticks": 7}
    title = {"text": "step", "standoff": 6, "font": {"size": 12}}
    up = {
        "hoverformat": y_format,
        "tickformat": "~g" if y_format.endswith("e") else "",
        "ticksuffix": unit,
        "nticks": 6,
    }
    layout = {
        **LAYOUT,
        "uirevision": run_id,
        "showlegend": has_legend,
        "meta": {"log": may_be_log},
        "xaxis": {**AXIS, **across, "title": title},
        "yaxis": {**AXIS, **up, "rangemode": "tozero" if from_zero else "normal"},
    }
    return {"data": series, "layout": layout}
