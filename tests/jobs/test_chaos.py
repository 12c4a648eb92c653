"""A few kills of the hundred and more that `python -m tests.chaos` does, and twenty in `make test-all`.

The four are those that have this seed: worker, app and both are killed, while a run loads, steps, writes a checkpoint
and writes its result.
"""

from __future__ import annotations

import pytest

from tests.chaos import carry_out


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("kills", "seed"), [(4, 12809), pytest.param(20, 1, marks=pytest.mark.slow)])
def test_nothing_is_lost_whoever_is_killed_whenever(kills: int, seed: int) -> None:
    done = carry_out(kills, seed)
    assert done.total() >= kills
