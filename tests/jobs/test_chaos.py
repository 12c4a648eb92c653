"""A few kills of the hundred and more that `python -m tests.chaos` does, and twenty in `make test-all`."""

from __future__ import annotations

import pytest

from tests.chaos import carry_out


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kills", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_nothing_is_lost_whoever_is_killed_whenever(kills: int) -> None:
    done = carry_out(kills, seed=1)
    assert done.total() >= kills
