from __future__ import annotations

import pytest

from core.config import OptimConfig
from core.train.schedule import evaluation_steps, learning_rate, suggested_rate

PEAK = 3e-3


def rates(schedule: str, warmup: float, total: int = 40) -> list[float]:
    config = OptimConfig(schedule=schedule, warmup=warmup)  # type: ignore[arg-type]
    return [learning_rate(PEAK, config, step, total) for step in range(total)]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.3, 0.99])
@pytest.mark.parametrize("total", [1, 2, 3, 40])
def test_every_step_learns_and_none_above_the_peak(schedule: str, warmup: float, total: int) -> None:
    assert all(0 < rate <= PEAK for rate in rates(schedule, warmup, total))


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_rate_rises_to_the_peak_and_falls_from_there(schedule: str) -> None:
    course = rates(schedule, 0.25)
    top = course.index(max(course))
    assert course[top] == PEAK and top == 10
    assert course[: top + 1] == sorted(course[: top + 1])
    assert course[top:] == sorted(course[top:], reverse=True)


def test_without_a_warm_up_the_first_step_is_at_the_peak() -> None:
    assert all(rates(schedule, 0.0)[0] == PEAK for schedule in ("linear", "cosine", "constant"))


def test_a_wider_model_is_given_a_smaller_rate() -> None:
    suggested = [suggested_rate(width) for width in (64, 576, 2048, 4096, 16384)]
    assert suggested == sorted(suggested, reverse=True) and all(0 < rate < 0.01 for rate in suggested)
    assert 0 < suggested_rate(None) < 0.01


@pytest.mark.parametrize("total", [1, 2, 5, 6, 7, 100])
@pytest.mark.parametrize("evaluations", [1, 2, 6, 1000])
def test_evaluations_are_within_the_run_and_the_last_step_has_one(total: int, evaluations: int) -> None:
    steps = evaluation_steps(total, evaluations)
    assert max(steps) == total and min(steps) >= 1 and len(steps) <= evaluations


def test_evaluations_are_evenly_spread() -> None:
    steps = sorted(evaluation_steps(100, 7))
    gaps = [after - before for before, after in zip([0, *steps], steps, strict=False)]
    assert len(steps) == 7 and max(gaps) - min(gaps) <= 1
