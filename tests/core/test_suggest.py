"""What is suggested for how much data: its bounds, and which way it goes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.config import Method, OptimConfig, parse
from core.models.shapes import LinearShape
from core.suggest import (
    LARGEST_BATCH,
    MOST_TOKENS_A_STEP,
    SMALLEST_BATCH,
    Data,
    suggest,
    width_of,
)
from core.train.schedule import suggested_rate
from tests.ui.stand_in import SHAPES

ROWS = st.integers(1, 10**8)
TOKENS = st.one_of(st.none(), st.floats(1, 100_000))
METHODS = st.sampled_from(["lora", "full", "bitfit"])


@given(ROWS, TOKENS, METHODS, st.integers(1, 4096), st.one_of(st.none(), st.integers(1, 20_000)))
def test_whatever_is_suggested_is_a_run_that_is_allowed(
    rows: int, tokens: float | None, method: Method, rank: int, width: int | None
) -> None:
    found = suggest(Data(rows=rows, mean_tokens=tokens), method=method, rank=rank, width=width)
    optim = {"batch_size": found.batch_size, "epochs": found.epochs, "evaluations": found.evaluations}
    parse({"name": "x", "data": {"dataset_id": "x"}, "optim": optim | {"learning_rate": found.learning_rate}})
    assert {f"optim.{name}" for name in (*optim, "learning_rate")} == set(found.reasons)
    assert all(words and not words.endswith(".") for words in found.reasons.values())
    assert SMALLEST_BATCH <= found.batch_size <= LARGEST_BATCH


@given(ROWS, ROWS, METHODS)
def test_more_rows_are_seen_less_often_in_no_fewer_steps_of_no_fewer_rows(
    first: int, second: int, method: Method
) -> None:
    few, many = (suggest(Data(rows=rows), method=method) for rows in sorted((first, second)))
    assert few.epochs >= many.epochs and few.batch_size <= many.batch_size and few.evaluations >= many.evaluations


@given(ROWS, st.floats(1, 100_000))
def test_long_rows_make_no_step_larger_than_it_can_use(rows: int, tokens: float) -> None:
    batch = suggest(Data(rows=rows, mean_tokens=tokens)).batch_size
    assert batch == SMALLEST_BATCH or batch * tokens <= MOST_TOKENS_A_STEP
    assert batch <= suggest(Data(rows=rows)).batch_size


@given(st.integers(1, 20_000), ROWS)
def test_the_rate_is_the_engines_own_and_a_tenth_for_every_weight(width: int, rows: int) -> None:
    for method, share in (("lora", 1.0), ("bitfit", 1.0), ("full", 0.1)):
        found = suggest(Data(rows=rows), method=method, width=width)  # type: ignore[arg-type]
        assert found.learning_rate == share * suggested_rate(width)
    assert suggest(Data(rows=rows)).learning_rate is None


def test_the_share_for_full_fine_tuning_is_the_engines() -> None:
    from core.suggest import FULL_RATE_SHARE
    from core.train.methods import FULL_RATE_SHARE as ENGINES

    assert FULL_RATE_SHARE == ENGINES


@pytest.mark.parametrize("rows", [1, 32, 102, 163, 2_000])
def test_few_rows_get_the_standard_and_no_more_steps(rows: int) -> None:
    found, standard = suggest(Data(rows=rows)), OptimConfig()
    wanted = (standard.epochs, standard.batch_size, standard.evaluations)
    assert (found.epochs, found.batch_size, found.evaluations) == wanted


@pytest.mark.parametrize("shapes", [SHAPES, SHAPES[::-1]])
def test_the_width_is_what_most_layers_take(shapes: tuple[LinearShape, ...]) -> None:
    down = replace(shapes[0], in_features=999, out_features=64)
    assert width_of((down, *shapes)) == 64 and width_of(()) is None
