from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.curves import Curve


@pytest.mark.parametrize("count", [1, 2, 9, 10, 11, 37, 1000, 4321])
def test_a_curve_is_bounded_and_keeps_its_first_and_newest_point(count: int) -> None:
    curve = Curve(limit=10)
    for x in range(count):
        curve.add(x, -x)
        assert len(curve.x) <= 11
        assert curve.x[0] == 0 and curve.x[-1] == x
    assert curve.x == sorted(set(curve.x))
    assert curve.y == [-x for x in curve.x]


def test_a_long_curve_covers_the_whole_way_evenly() -> None:
    curve = Curve(limit=100)
    for x in range(10_000):
        curve.add(x, x)
    gaps = {after - before for before, after in zip(curve.x[:-2], curve.x[1:-1], strict=True)}
    assert len(gaps) == 1 and len(curve.x) > 50


@given(portions=st.lists(st.integers(0, 60), max_size=12), limit=st.integers(2, 20))
def test_points_taken_many_at_a_time_are_those_taken_one_by_one(portions: list[int], limit: int) -> None:
    many, single = Curve(limit=limit), Curve(limit=limit)
    end = 0
    for portion in portions:
        x = range(end, end + portion)
        many.extend(list(x), [-value for value in x])
        for value in x:
            single.add(value, -value)
        end += portion
        assert many == single


@given(st.integers(1, 300), st.integers(0, 300), st.integers(0, 300))
def test_a_curve_that_was_cut_goes_on_in_its_own_stride(count: int, at: int, more: int) -> None:
    curve = Curve(limit=10)
    curve.extend(list(range(count)), [0.0] * count)
    curve.cut(at)
    assert all(x < at for x in curve.x)
    start = int(curve.x[-1]) + 1 if curve.x else 0
    curve.extend(list(range(start, start + more)), [0.0] * more)
    assert curve.x == sorted(set(curve.x)) and len(curve.x) <= 11
