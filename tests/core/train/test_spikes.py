from __future__ import annotations

import random

from core.train.spikes import ENOUGH, WINDOW, SpikeWatch


def marked(losses: list[float]) -> list[int]:
    watch = SpikeWatch()
    return [step for step, loss in enumerate(losses) if watch.is_spike(loss)]


def noisy(count: int, seed: int = 0) -> list[float]:
    generator = random.Random(seed)
    return [generator.gauss(2.0, 0.1) for _ in range(count)]


def test_a_loss_far_above_those_before_it_is_a_spike_and_a_low_one_is_not() -> None:
    losses = noisy(60)
    losses[40], losses[50] = 4.0, 0.1
    assert marked(losses) == [40]


def test_a_second_spike_is_seen_beside_the_first() -> None:
    losses = noisy(60)
    losses[40] = losses[41] = losses[45] = 5.0
    assert marked(losses) == [40, 41, 45]


def test_noise_and_a_falling_loss_are_none() -> None:
    assert sum(len(marked(noisy(400, seed))) for seed in range(20)) <= 1
    assert marked([3.0 * 0.99**step for step in range(400)]) == []


def test_the_first_losses_are_never_judged() -> None:
    assert marked([1.0] * (ENOUGH - 1) + [9.0]) == []
    assert marked([1.0] * ENOUGH + [9.0]) == [ENOUGH]


def test_what_lies_far_back_is_forgotten() -> None:
    assert marked([1.0] * WINDOW + [2.0] * 2 * WINDOW)[-1] < 2 * WINDOW
