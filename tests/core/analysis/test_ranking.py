"""Rates and ratings against slow and obvious twins, and against worlds whose truth is known."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.analysis.ranking import ELO_SCALE, Ballot, compare, duels, standings, strengths, wilson

Z = 1.959963984540054


def wilson_by_search(wins: float, votes: int, is_high: bool) -> float:
    """The end of those p from which the share is no more than z standard errors away, found by halving."""
    share = wins / votes
    inside, outside = share, 1.0 if is_high else 0.0
    for _ in range(200):
        p = (inside + outside) / 2
        if abs(share - p) <= Z * math.sqrt(p * (1 - p) / votes):
            inside = p
        else:
            outside = p
    return inside


@given(votes=st.integers(1, 500), part=st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_wilsons_interval_is_where_the_share_is_within_z_standard_errors(votes: int, part: float) -> None:
    wins = round(2 * part * votes) / 2
    low, high = wilson(wins, votes)
    assert low == pytest.approx(wilson_by_search(wins, votes, is_high=False), abs=1e-9)
    assert high == pytest.approx(wilson_by_search(wins, votes, is_high=True), abs=1e-9)
    assert 0 <= low <= wins / votes <= high <= 1


def test_without_a_vote_all_is_possible_and_unanimity_is_no_certainty() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert 0.6 < wilson(8, 8)[0] < 1 and wilson(8, 8)[1] == 1.0


def log_likelihood(theta: list[float], wins: list[list[float]]) -> float:
    """L(θ) as it is written."""

    def log_sigma(x: float) -> float:
        return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))

    pairs = [(i, j) for i in range(len(theta)) for j in range(len(theta)) if i != j]
    own = sum(0.5 * (log_sigma(each) + log_sigma(-each)) for each in theta)
    return own + sum(wins[i][j] * log_sigma(theta[i] - theta[j]) for i, j in pairs)


def strengths_by_search(wins: list[list[float]]) -> list[float]:
    """The maximum, one coordinate after the other, each by thirds; then less its mean."""
    theta = [0.0] * len(wins)
    for _ in range(400):
        for at in range(len(theta)):
            low, high = -40.0, 40.0
            while high - low > 1e-10:
                third = (high - low) / 3
                values = []
                for trial in (low + third, high - third):
                    theta[at] = trial
                    values.append(log_likelihood(theta, wins))
                low, high = (low + third, high) if values[0] < values[1] else (low, high - third)
            theta[at] = (low + high) / 2
    mean = sum(theta) / len(theta)
    return [each - mean for each in theta]


@pytest.mark.parametrize(
    "wins",
    [
        [[0, 3], [1, 0]],
        [[0, 9, 4], [1, 0, 2.5], [3, 2.5, 0]],
        [[0, 20], [0, 0]],  # one won always
        [[0, 4, 0], [2, 0, 0], [0, 0, 0]],  # one never took part in a duel
    ],
)
def test_newtons_strengths_are_those_of_a_search_and_their_spread_is_the_curvatures(wins: list[list[float]]) -> None:
    theta, covariance = strengths(np.array(wins, np.float64))
    assert theta == pytest.approx(strengths_by_search(wins), abs=1e-4)
    assert theta.sum() == pytest.approx(0, abs=1e-9)
    count, h = len(wins), 1e-3
    at = list(strengths_uncentered(wins))
    curvature = np.zeros((count, count))
    for i in range(count):
        for j in range(count):
            moved = []
            for one in (h, -h):
                for other in (h, -h):
                    trial = list(at)
                    trial[i] += one
                    trial[j] += other
                    moved.append(log_likelihood(trial, wins))
            curvature[i, j] = -(moved[0] - moved[1] - moved[2] + moved[3]) / (4 * h * h)
    center = np.eye(count) - 1 / count
    assert covariance == pytest.approx(center @ np.linalg.inv(curvature) @ center, rel=1e-3, abs=1e-5)


def strengths_uncentered(wins: list[list[float]]) -> list[float]:
    """Where L has its maximum: centered strengths, moved along the one direction that the opponent of 0 decides."""
    centered = strengths_by_search(wins)
    low, high = -40.0, 40.0
    while high - low > 1e-10:
        third = (high - low) / 3
        values = [log_likelihood([each + by for each in centered], wins) for by in (low + third, high - third)]
        low, high = (low + third, high) if values[0] < values[1] else (low, high - third)
    return [each + (low + high) / 2 for each in centered]


def world(seed: int, strengths_: dict[str, float], votes: int) -> list[Ballot[str]]:
    """Votes on pairs as Bradley and Terry have it."""
    draw, names = random.Random(seed), list(strengths_)
    found = []
    for _ in range(votes):
        one, other = draw.sample(names, 2)
        chance = 1 / (1 + math.exp(strengths_[other] - strengths_[one]))
        found.append(Ballot((one, other), one if draw.random() < chance else other))
    return found


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    truth = {"base": -0.8, "ann": 0.1, "bob": 0.7}
    held = tried = 0
    for seed in range(150):
        for standing in standings(world(seed, truth, 120)):
            wanted = 1000 + ELO_SCALE * truth[standing.name]
            held += standing.rating_low <= wanted <= standing.rating_high
            tried += 1
    assert 0.92 < held / tried < 0.98


def test_the_order_of_votes_and_of_names_changes_nothing() -> None:
    ballots = world(3, {"a": 0.0, "b": 1.0, "c": -1.0}, 60)
    first = {each.name: each for each in standings(ballots)}
    for shuffled in (ballots[::-1], [Ballot(each.contestants[::-1], each.winner) for each in ballots]):
        for each in standings(shuffled):
            assert each.rating == pytest.approx(first[each.name].rating, abs=1e-6)
            assert (each.votes, each.wins) == (first[each.name].votes, first[each.name].wins)


def test_a_vote_among_several_is_a_duel_of_the_winner_with_each_other_and_a_tie_is_half() -> None:
    ballots = [Ballot(("a", "b", "c"), "b"), Ballot(("a", "c"))]
    assert duels(ballots, ["a", "b", "c"]).tolist() == [[0, 0, 0.5], [1, 0, 1], [0.5, 0, 0]]
    by_name = {each.name: each for each in standings(ballots)}
    assert (by_name["a"].votes, by_name["a"].wins, by_name["a"].ties, by_name["a"].rate) == (2, 0, 1, 0.25)
    assert by_name["b"].rating > by_name["a"].rating == pytest.approx(by_name["c"].rating)
    assert standings([]) == ()


def test_ties_alone_make_equals() -> None:
    for each in standings([Ballot(("a", "b", "c"))] * 5):
        assert each.rating == pytest.approx(1000) and each.rate == 0.5


def test_two_are_compared_by_what_was_said_of_them_alone() -> None:
    three = ("ann", "bob", "cy")
    ballots = [Ballot(three, "ann")] * 5 + [Ballot(three, "bob")] * 2 + [Ballot(three, "cy")] * 9 + [Ballot(three)]
    ballots += [Ballot(("ann", "cy"), "cy")] * 3
    found = compare(ballots, "ann", "bob")
    assert (found.votes, found.wins, found.ties) == (8, 5, 1)
    assert (found.rate, found.low, found.high) == (5.5 / 8, *wilson(5.5, 8))
    turned = compare(ballots, "bob", "ann")
    assert turned.rate == pytest.approx(1 - found.rate) and turned.low == pytest.approx(1 - found.high)


@given(wins=st.integers(0, 40), votes=st.integers(1, 40))
@settings(max_examples=100, deadline=None)
def test_as_many_more_votes_as_are_named_tell_two_apart_and_one_fewer_does_not(wins: int, votes: int) -> None:
    wins = min(wins, votes)
    more = compare([Ballot(("a", "b"), "a")] * wins + [Ballot(("a", "b"), "b")] * (votes - wins), "a", "b").more
    share = wins / votes

    def tells(count: int) -> bool:
        low, high = wilson(share * count, count)
        return low > 0.5 or high < 0.5

    if more is None:
        assert not tells(votes + 1000)
    else:
        assert tells(votes + more) and (more == 0 or not tells(votes + more - 1))


def test_without_a_vote_nothing_is_told() -> None:
    found = compare([], "a", "b")
    assert (found.votes, found.low, found.high, found.more) == (0, 0.0, 1.0, None)
