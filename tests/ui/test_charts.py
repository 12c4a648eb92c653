from __future__ import annotations

import json
from typing import Any

import pytest

from core.events import EvalDone
from tests.ui.stand_in import run
from tests.ui.test_story import started, step, told
from ui import run_charts

KINDS = (run_charts.loss, run_charts.learning_rate, run_charts.gradient_norm, run_charts.memory, run_charts.speed)


@pytest.mark.parametrize("figure", KINDS)
@pytest.mark.parametrize("steps", [0, 1, 2, 5000])
def test_every_chart_is_plain_json_with_at_most_a_thousand_points_a_series(figure: Any, steps: int) -> None:
    story = told(started(steps=5000), *(step(number) for number in range(1, steps + 1)))
    drawn = json.loads(json.dumps(figure(story, "r1")))
    assert all(len(series["x"]) == len(series["y"]) <= 1001 for series in drawn["data"])


def test_the_zoom_belongs_to_the_run() -> None:
    story = told(started(), step(1))
    assert [run_charts.loss(story, name)["layout"]["uirevision"] for name in ("r1", "r2")] == ["r1", "r2"]


def test_the_loss_chart_begins_with_the_base_model() -> None:
    story = told(started(), EvalDone(step=0, loss=2.7), step(1, 2.5), EvalDone(step=1, loss=2.4))
    held_out = run_charts.loss(story, "r1")["data"][-1]
    assert (held_out["x"], held_out["y"]) == ([0, 1], [2.7, 2.4])


def test_perplexity_is_e_to_the_held_out_loss_as_far_as_that_says_anything() -> None:
    story = told(started(), EvalDone(step=0, loss=800.0), step(1), EvalDone(step=1, loss=2.0))
    drawn = run_charts.perplexity(story, "r1")
    assert drawn is not None
    assert (drawn["data"][0]["x"], drawn["data"][0]["y"]) == ([1], [pytest.approx(7.389056, rel=1e-6)])
    assert run_charts.perplexity(told(started(), step(1)), "r1") is None


def test_accuracy_is_that_of_tokens_or_of_rows() -> None:
    for share in ({"token_accuracy": 0.25}, {"accuracy": 0.25}):
        drawn = run_charts.accuracy(told(started(), EvalDone(step=0, loss=1.0, **share)), "r1")
        assert drawn is not None and drawn["data"][0]["y"] == [25]
    assert run_charts.accuracy(told(started(), EvalDone(step=0, loss=1.0)), "r1") is None


def test_memory_is_drawn_over_its_estimated_parts_which_say_that_they_are() -> None:
    parts = {"weights": 300_000_000, "adapter": 0, "process": 500_000_000}
    *bands, measured = run_charts.memory(told(started(), step(1)), "r1", parts)["data"]
    assert [(band["name"], band["y"]) for band in bands] == [
        ("estimate: process", [0.5, 0.5]), ("estimate: weights", [0.3, 0.3])
    ]  # fmt: skip
    assert {band["stackgroup"] for band in bands} == {"estimate"} and "measured" in measured["name"]


def test_runs_are_compared_over_steps_tokens_and_seconds_with_bounded_series() -> None:
    longs = [
        (run(id=name, name=name), told(started(steps=3000), EvalDone(step=0, loss=3.0), *map(step, range(1, count))))
        for name, count in (("a", 3000), ("b", 50))
    ]
    longs[0][1]._evaluate(EvalDone(step=2999, loss=1.0))
    training, held_out = run_charts.compared(longs)
    for series in training["data"]:
        across = series["meta"]["across"]
        assert {len(across[name]) for name in ("step", "tokens", "seconds")} == {len(series["y"])} <= {*range(1, 502)}
        assert across["tokens"] == [50 * x for x in across["step"]] and across["seconds"] == [
            x / 2 for x in across["step"]
        ]
    assert held_out["data"][0]["meta"]["across"]["tokens"] == [0, 2999 * 50]
    assert training["layout"]["meta"]["across"].keys() == {"step", "tokens", "seconds"}
    assert len({series["line"]["color"] for series in training["data"]}) == 2


def test_backgrounds_are_transparent_for_light_and_dark() -> None:
    layout = run_charts.speed(told(started(), step(1)), "r1")["layout"]
    assert layout["paper_bgcolor"] == layout["plot_bgcolor"] == "rgba(0,0,0,0)"
