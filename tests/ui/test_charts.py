from __future__ import annotations

import json

import pytest

from core.events import EvalDone
from tests.ui.test_story import started, step, told
from ui import charts

KINDS = (charts.loss, charts.learning_rate, charts.memory, charts.speed)


@pytest.mark.parametrize("figure", KINDS)
@pytest.mark.parametrize("steps", [0, 1, 2, 5000])
def test_every_chart_is_plain_json_with_at_most_a_thousand_points_a_series(figure: object, steps: int) -> None:
    assert callable(figure)
    story = told(started(steps=5000), *(step(number) for number in range(1, steps + 1)))
    drawn = json.loads(json.dumps(figure(story, "r1")))
    assert all(len(series["x"]) == len(series["y"]) <= 1001 for series in drawn["data"])


def test_the_zoom_belongs_to_the_run() -> None:
    story = told(started(), step(1))
    assert [charts.loss(story, name)["layout"]["uirevision"] for name in ("r1", "r2")] == ["r1", "r2"]


def test_the_loss_chart_begins_with_the_base_model() -> None:
    story = told(started(), EvalDone(step=0, loss=2.7), step(1, 2.5), EvalDone(step=1, loss=2.4))
    held_out = charts.loss(story, "r1")["data"][-1]
    assert (held_out["x"], held_out["y"]) == ([0, 1], [2.7, 2.4])


def test_smoothing_keeps_a_straight_line_and_both_ends() -> None:
    story = told(started(), *(step(number, loss=10 - number / 10) for number in range(1, 81)))
    raw, smooth = (series["y"] for series in charts.loss(story, "r1")["data"][:2])
    assert smooth == pytest.approx(raw)


def test_backgrounds_are_transparent_for_light_and_dark() -> None:
    layout = charts.speed(told(started(), step(1)), "r1")["layout"]
    assert layout["paper_bgcolor"] == layout["plot_bgcolor"] == "rgba(0,0,0,0)"
