"""A dozen kills of the hundred and more that `python -m tests.chaos` does."""

from __future__ import annotations

import pytest

from tests.chaos import carry_out


@pytest.mark.timeout(600)
def test_nothing_is_lost_whoever_is_killed_whenever() -> None:
    done = carry_out(5, seed=1)
    assert done.total() >= 12
