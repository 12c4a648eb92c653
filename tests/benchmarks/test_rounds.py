"""What rounds come to: the arithmetic under every ratio that is published."""

from __future__ import annotations

import pytest

from benchmarks.instruments.rounds import loss_difference, memory_ratio, side, speed_ratio, tokens_per_second


def run(*seconds: float, tokens: int = 100, peak: int = 1000, losses: tuple[float, ...] = (2.0,)) -> dict[str, object]:
    return {
        "seconds": list(seconds),
        "tokens": [tokens] * len(seconds),
        "losses": list(losses),
        "peak_rss_bytes": peak,
        "others_share": 0.0,
    }


def test_the_first_step_warms_up_and_is_in_no_speed() -> None:
    assert tokens_per_second(run(50, 1, 3)) == 200 / 4


def test_a_ratio_is_taken_in_each_round_before_the_median() -> None:
    ours, theirs = [run(9, 1), run(9, 2), run(9, 4)], [run(9, 10), run(9, 4), run(9, 12)]
    assert speed_ratio(ours, theirs) == 3  # of 10, 2 and 3; a ratio of medians would be 5


def test_memory_is_ours_in_theirs() -> None:
    assert memory_ratio([run(1, 1, peak=500)], [run(1, 1, peak=1000)]) == 0.5


def test_sides_without_a_round_in_common_are_no_pair() -> None:
    with pytest.raises(ValueError, match="zip"):
        speed_ratio([run(1, 1)], [run(1, 1), run(1, 1)])


def test_losses_are_compared_step_by_step_as_far_as_both_go() -> None:
    ours, theirs = run(1, losses=(2.0, 3.3, 9.0)), run(1, losses=(2.0, 3.0))
    assert loss_difference(ours, theirs) == pytest.approx(0.1)


def test_a_side_keeps_every_round_beside_its_median() -> None:
    found = side([run(9, 1), run(9, 4), run(9, 2)])
    assert (found["tokens_per_second"], found["tokens_per_second_by_round"]) == (50, [100, 25, 50])
