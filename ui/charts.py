"""Charts on the pages, as plotly figures: plain dicts, since building them needs nothing of plotly's Python side.

`gr.Plot` puts a new chart into the page at every update, which flickers and forgets the zoom (seen in the front end
of Gradio 6.31: the chart is keyed by a counter). So a chart is a `gr.HTML` whose value is the figure and whose script
hands it to `Plotly.react` (`static/charts.js`), which moves only what changed. `uirevision` names what is drawn: while
it stays, so does a zoom. Smoothing, a logarithmic axis and what is across are the browser's own, without a word to the
server: what a figure allows of it stands in the `meta` of its series and layout. `ui.run_charts` has a run's figures.

Text and grid lines get their colors from `style.css`, by which one figure suits the light and the dark. The series'
colors are Okabe and Ito's, which color-blind people can tell apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from statistics import mean, stdev
from typing import Any, TypeAlias

import gradio as gr
import orjson

from core.sweep import RANK, TARGETS, value_of
from jobs.service import sweeps
from ui import addresses
from ui.settings import by_path

Figure: TypeAlias = dict[str, Any]

BLUE, ORANGE, GREEN, PINK, SKY, RED = "#2f80c2", "#e08a00", "#009e73", "#c66a9b", "#56b4e9", "#d55e00"
GRAY = "#8a938f"
SERIES = (BLUE, ORANGE, GREEN, PINK, SKY, RED, GRAY)
HEIGHT = 272  # as .plot in style.css
HEAD = f'<script src="{addresses.PREFIX}{addresses.PLOTLY}"></script>'  # what each component that draws asks for

_CLEAR = "rgba(0,0,0,0)"
AXIS = {
    "showline": False,
    "zeroline": False,
    "automargin": True,
    "ticks": "outside",
    "ticklen": 5,
    "tickcolor": _CLEAR,
}
LAYOUT = {
    "height": HEIGHT,
    "margin": {"l": 8, "r": 12, "t": 34, "b": 8},
    "paper_bgcolor": _CLEAR,
    "plot_bgcolor": _CLEAR,
    "font": {"size": 12, "family": "inherit"},
    "hovermode": "x unified",
    "legend": {"orientation": "h", "x": 1, "xanchor": "right", "y": 1.04, "yanchor": "bottom", "bgcolor": _CLEAR},
}
_SCRIPT = """
const target = element.querySelector('.plot');
const draw = () => {
  if (!props.value) return;
  if (!window.workbenchCharts) return setTimeout(draw, 50);
  workbenchCharts.draw(target, JSON.parse(props.value));
};
watch('value', draw);
draw();
"""


def chart(elem_id: str, title: str) -> gr.HTML:
    """An empty chart under its title; give it a `Figure` as its value, as text."""
    return gr.HTML(
        None,
        html_template=f'<h3>{title}</h3><div class="plot" role="img" aria-label="{title}"></div>',
        js_on_load=_SCRIPT,
        head=HEAD,
        elem_id=elem_id,
        elem_classes=["chart"],
        apply_default_css=False,
    )


def as_text(figure: Figure) -> str:
    """The figure as JSON: of a list, Gradio would look into every number, three times over."""
    return orjson.dumps(figure).decode()


def axis_of(group: sweeps.Group) -> str:
    """What a chart of the group has across: of the settings that vary, seeds aside, a number if there is one, and of
    these the one with the most values.
    """
    different = {path: len({repr(value_of(outcome.run.config, path)) for outcome in group.outcomes})
                 for path in _free(group)}  # fmt: skip
    return max(different, key=lambda path: (path != TARGETS, different[path]), default=sweeps.SEED)


def side_by_side(group: sweeps.Group) -> Figure | None:
    """Held-out loss of a group's runs over what varies most, a line for each choice of the rest, with bars for what
    seeds make of it; None before two runs have finished.
    """
    done = [outcome for outcome in group.outcomes if outcome.run.eval_loss is not None]
    if len(done) < 2 or not group.axes:
        return None
    across = axis_of(group)
    place, rest = group.axes.index(across), [path for path in _free(group) if path != across]
    points: dict[str, dict[str, list[float]]] = {}
    for outcome in done:
        values = dict(zip(group.axes, outcome.values, strict=True))
        found = points.setdefault(", ".join(values[path] for path in rest) or "held-out loss", {})
        found.setdefault(outcome.values[place], []).append(outcome.run.eval_loss or 0.0)
    names = list(dict.fromkeys(outcome.values[place] for outcome in group.outcomes))
    series = [_means(*item, names, color) for item, color in zip(points.items(), cycle(SERIES), strict=False)]
    setting = by_path(across)
    title = {"text": (setting.label if setting else across).lower(), "standoff": 6, "font": {"size": 12}}
    layout = {
        **LAYOUT,
        "hovermode": "closest",
        "uirevision": group.id,
        "showlegend": 1 < len(series) <= len(SERIES),
        "xaxis": {**AXIS, "type": "category", "categoryarray": names, "showgrid": False, "title": title},
        "yaxis": {**AXIS, "hoverformat": ".3f", "nticks": 6},
    }
    return {"data": series, "layout": layout}


def _free(group: sweeps.Group) -> list[str]:
    """What varies beside the seed; a rank that targets decide, as within a budget, does not vary by itself."""
    pairs = {(outcome.run.config.lora.targets, outcome.run.config.lora.rank) for outcome in group.outcomes}
    follows = TARGETS in group.axes and len(pairs) == len({targets for targets, _ in pairs})
    return [path for path in group.axes if path != sweeps.SEED and not (follows and path == RANK)]


def _means(name: str, points: dict[str, list[float]], order: Sequence[str], color: str) -> Figure:
    """The mean at each value, with the standard deviation where there are several."""
    there = [value for value in order if value in points]
    spread = [stdev(points[value]) if len(points[value]) > 1 else 0.0 for value in there]
    drawn = line(name, there, [mean(points[value]) for value in there], color, mode="lines+markers")
    bars = {"type": "data", "array": [float(f"{value:.6g}") for value in spread], "visible": any(spread)}
    return {**drawn, "error_y": {**bars, "thickness": 1.2, "width": 5}}


def line(
    name: str,
    x: Sequence[float] | Sequence[str],
    y: Sequence[float],
    color: str,
    *,
    width: float = 2,
    mode: str = "lines",
    is_smoothed: bool = False,
) -> Figure:
    """One series; where it `is_smoothed`, the browser draws a smooth line over it."""
    return {
        "type": "scatter",
        "mode": mode if len(x) > 1 else "markers",
        "name": name,
        "x": list(x),
        "y": [float(f"{value:.6g}") for value in y],
        "line": {"color": color, "width": width},
        "marker": {"color": color, "size": 7 if "markers" in mode else 5},
        "cliponaxis": False,
        "meta": {"smooth": is_smoothed},
    }
