"""Sweeps: every combination once, under a name of its own, and never beyond the budget. What a config trains is counted
here from shapes alone, without the house's own count.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.config import RunConfig, parse
from core.errors import ConfigError
from core.models.shapes import LinearShape
from core.sweep import MOST_RUNS, Axis, attention_targets, combine, say, shared_name, value_of, varied

TARGETS, RANK, ALPHA, RATE, SEED = "lora.targets", "lora.rank", "lora.alpha", "optim.learning_rate", "seed"
WIDTH, LAYERS = 64, 3
SHAPES = {"q_proj": (WIDTH, WIDTH), "v_proj": (WIDTH, 16), "up_proj": (WIDTH, 256)}


def config(**values: Any) -> RunConfig:
    return parse({"name": "captain", "data": {"dataset_id": "d"}, **values})


def trained(one: RunConfig) -> int:
    """LoRA, section 4.1: A is r × in and B is out × r."""
    named = SHAPES if set(one.lora.targets) & {"auto", "all-linear"} else one.lora.targets
    return sum(LAYERS * one.lora.rank * sum(SHAPES[name]) for name in named)


def limited(one: RunConfig) -> int:
    """As `trained`, with layers that hold no rank above 16."""
    if one.lora.rank > 16:
        raise ConfigError(f"Rank {one.lora.rank} is too large for v_proj", field=RANK)
    return trained(one)


def axis(path: str, *values: Any) -> Axis:
    return Axis(path=path, values=values)


def test_without_axes_there_is_the_run_itself() -> None:
    assert combine(config(), []).configs == (config(),)


def test_runs_are_the_product_with_the_last_axis_changing_fastest() -> None:
    made = combine(config(), [axis(RANK, 4, 8), axis(RATE, 1e-4, 3e-4), axis(SEED, 1, 2)]).configs
    found = [(one.lora.rank, one.optim.learning_rate, one.seed) for one in made]
    assert found == list(itertools.product((4, 8), (1e-4, 3e-4), (1, 2)))
    assert made[0].name == "captain · r4 · lr 1e-4 · seed 1"


def test_nothing_but_what_is_swept_and_alpha_changes() -> None:
    start = config(quant={"bits": 4}, optim={"epochs": 2, "batch_size": 3}, lora={"dropout": 0.1})
    for one in combine(start, [axis(RANK, 4, 16), axis(SEED, 5)]).configs:
        assert (one.quant, one.optim, one.data, one.lora.dropout) == (start.quant, start.optim, start.data, 0.1)


@pytest.mark.parametrize("use_rslora", [False, True])
def test_alpha_follows_the_rank_so_that_the_scale_stays(use_rslora: bool) -> None:
    start = config(lora={"rank": 8, "alpha": 16, "use_rslora": use_rslora})

    def scale(one: RunConfig) -> float:
        return one.lora.alpha / (one.lora.rank**0.5 if use_rslora else one.lora.rank)

    for one in combine(start, [axis(RANK, 1, 3, 8, 64)]).configs:
        assert scale(one) == pytest.approx(scale(start))
    assert {one.lora.alpha for one in combine(start, [axis(RANK, 1, 64)], keeps_scale=False).configs} == {16}


def test_an_alpha_that_is_asked_for_is_the_one_that_is_trained() -> None:
    made = combine(config(), [axis(RANK, 4, 8), axis(ALPHA, 8, 32)]).configs
    assert [(one.lora.rank, one.lora.alpha) for one in made] == [(4, 8), (4, 32), (8, 8), (8, 32)]


def test_values_that_are_the_same_make_one_run() -> None:
    assert len(combine(config(), [axis(RANK, 4, 4.0, "4", 8)]).configs) == 2
    assert len(combine(config(), [axis(RATE, 1e-4, 0.0001)]).configs) == 1


@pytest.mark.parametrize(
    ("path", "values", "title"),
    [
        (RANK, (4, 8, "x"), "Rank is 'x'"),
        (RANK, (4, 0), "Rank is 0"),
        (RATE, (1e-4, 3), "Learning rate is 3"),
        ("quant.bits", (4, 5), "Bits is 5"),
        (SEED, (-1,), "Seed is -1"),
    ],
)
def test_the_value_that_is_wrong_is_named(path: str, values: tuple[Any, ...], title: str) -> None:
    with pytest.raises(ConfigError) as refused:
        combine(config(), [Axis(path=path, values=values)])
    assert refused.value.title == title and refused.value.field == path and refused.value.hint


def test_at_most_so_many_runs_are_made_and_a_sentence_says_how_many_these_would_be() -> None:
    seeds = axis(SEED, *range(MOST_RUNS // 2))
    assert len(combine(config(), [seeds, axis(RANK, 2, 4)]).configs) == MOST_RUNS
    with pytest.raises(ConfigError, match=f"{3 * MOST_RUNS // 2} runs, and {MOST_RUNS} is the most"):
        combine(config(), [seeds, axis(RANK, 2, 4, 8)])
    with pytest.raises(ConfigError, match="10,000 runs"):
        combine(config(), [axis(SEED, *range(10_000))])


@pytest.mark.parametrize(
    ("start", "axes", "field"),
    [
        ({}, [axis("optim.schedule", "linear")], "optim.schedule"),
        ({}, [axis(RANK)], RANK),
        ({"method": "full"}, [axis(RANK, 4)], RANK),
        ({"optim": {"steps": 9}}, [axis("optim.epochs", 1, 2)], "optim.epochs"),
        ({"lora": {"rank_pattern": {"q_proj": 4}}}, [axis(RANK, 4, 8)], "lora.rank_pattern"),
        ({}, [axis(RANK, 4), axis(RANK, 8)], ""),
    ],
)
def test_what_would_vary_nothing_is_refused(start: dict[str, Any], axes: list[Axis], field: str) -> None:
    with pytest.raises(ConfigError) as refused:
        combine(config(**start), axes)
    assert refused.value.field == field


def test_a_run_that_cannot_be_counted_refuses_the_whole() -> None:
    with pytest.raises(ConfigError, match="too large for v_proj"):
        combine(config(), [axis(RANK, 4, 32)], parameters_of=limited)


# -- one budget ------------------------------------------------------------------------------------------------------


def test_fewer_matrices_get_a_higher_rank_as_in_the_papers_table() -> None:
    """Table 5: with d × d matrices and one budget, one kind of matrix at r 8, two at r 4, four at r 2."""

    def square(one: RunConfig) -> int:
        return one.lora.rank * len(one.lora.targets) * 2 * 12288 * 96

    choices = (["q"], ["k"], ["q", "v"], ["q", "k", "v", "o"])
    made = combine(config(), [axis(TARGETS, *choices)], 18_874_368, square).configs
    assert [one.lora.rank for one in made] == [8, 8, 4, 2]
    assert {square(one) for one in made} == {18_874_368}
    assert made[2].name == "captain · q+v · r4"


@settings(deadline=None, max_examples=60)
@given(
    budget=st.integers(1, 2_000_000),
    chosen=st.lists(st.sets(st.sampled_from(list(SHAPES)), min_size=1).map(sorted), min_size=1, max_size=4),
    count=st.sampled_from([trained, limited]),
)
def test_the_rank_is_the_largest_within_the_budget(
    budget: int, chosen: list[list[str]], count: Callable[[RunConfig], int]
) -> None:
    sweep = combine(config(), [axis(TARGETS, *chosen)], budget, count)
    different = {tuple(each) for each in chosen}
    assert len(sweep.configs) + len(sweep.skipped) == len(different)
    for one in sweep.configs:
        assert count(one) <= budget
        larger = trained(one) // one.lora.rank * (one.lora.rank + 1)
        is_the_highest = one.lora.rank == (16 if count is limited else 4096)
        assert is_the_highest or larger > budget
    for left_out in sweep.skipped:
        assert "even rank 1" in left_out.why and f"{budget:,}" in left_out.why


def test_ranks_that_are_asked_for_are_kept_and_those_beyond_the_budget_left_out() -> None:
    budget = trained(config(lora={"rank": 8}))
    sweep = combine(config(), [axis(RANK, 4, 8, 16)], budget, trained)
    assert [one.lora.rank for one in sweep.configs] == [4, 8]
    (left_out,) = sweep.skipped
    assert left_out.name == "captain · r16" and f"{2 * budget:,}" in left_out.why


def test_within_a_budget_alpha_follows_as_well() -> None:
    (one,) = combine(config(lora={"rank": 8, "alpha": 16}), [], trained(config(lora={"rank": 5})), trained).configs
    assert (one.lora.rank, one.lora.alpha, one.name) == (5, 10, "captain · r5")


def test_an_orthogonal_start_gets_an_even_rank() -> None:
    start = config(lora={"init": "orthogonal"})
    (one,) = combine(start, [], trained(config(lora={"rank": 7})), trained).configs
    assert one.lora.rank == 6


@pytest.mark.parametrize(
    ("start", "budget", "count", "words"),
    [
        ({}, 100, None, "before the base model is on this machine"),
        ({}, 100, lambda one: None, "before the base model is on this machine"),
        ({}, 0, trained, "The budget is 0"),
        ({"method": "bitfit"}, 100, trained, "No budget can be kept by BitFit"),
    ],
)
def test_a_budget_that_cannot_be_kept_is_refused(start: dict[str, Any], budget: int, count: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        combine(config(**start), [], budget, count)
    assert refused.value.field == "budget"


# -- names -----------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    name=st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=80),
    targets=st.lists(
        st.lists(st.text("abc_", min_size=1, max_size=30), min_size=1, max_size=6), min_size=1, max_size=4
    ),
    rates=st.lists(st.floats(1e-7, 1), min_size=1, max_size=4),
)
def test_every_run_has_a_name_of_its_own_that_is_allowed(
    name: str, targets: list[list[str]], rates: list[float]
) -> None:
    try:
        start = config(name=name)
    except ConfigError:
        return  # no name for a run at all
    made = combine(start, [axis(TARGETS, *targets), axis(RATE, *rates), axis(SEED, 1, 2)]).configs
    assert len({one.name for one in made}) == len(made)
    assert all(parse({"name": one.name, "data": {"dataset_id": "d"}}).name == one.name for one in made)


def test_values_are_called_as_people_write_them() -> None:
    said = [say(RATE, value) for value in (1e-4, 3e-4, 2.5e-5, 0.01)]
    assert said == ["lr 1e-4", "lr 3e-4", "lr 2.5e-5", "lr 1e-2"]
    assert say(TARGETS, ("q_proj", "v_proj")) == "q_proj+v_proj" and say(TARGETS, ("all-linear",)) == "all linear"
    assert [say("optim.epochs", value) for value in (1, 0.5)] == ["1 epoch", "0.5 epochs"]


@settings(deadline=None)
@given(rates=st.lists(st.floats(1e-12, 1), min_size=2, max_size=2, unique=True))
def test_different_values_are_called_differently(rates: list[float]) -> None:
    first, second = (say(RATE, rate) for rate in rates)
    assert first != second or rates[0] == pytest.approx(rates[1], rel=1e-15)
    attention, others = ("q_proj", "k_proj", "v_proj", "out_proj"), ("q_proj", "gate_proj", "up_proj", "down_proj")
    assert say(TARGETS, attention) != say(TARGETS, others)
    names = [one.name for one in combine(config(), [axis(TARGETS, attention, others)]).configs]
    assert names == ["captain · q_proj+3 more", "captain · q_proj+3 more #2"]


def test_a_sweep_is_told_from_its_runs_alone() -> None:
    made = combine(config(name="a · b"), [axis(RANK, 4, 8), axis(RATE, 1e-4), axis(SEED, 1, 2)]).configs
    assert varied(made) == (RANK, SEED) and shared_name(made) == "a · b · lr 1e-4"
    assert varied(made[:1]) == () and shared_name(made[:1]) == made[0].name
    plain = combine(config(), [axis(RANK, 4, 8)], keeps_scale=False).configs
    assert varied(plain) == (RANK,) and value_of(plain[0], ALPHA) == 16
    assert varied(combine(config(), [axis(RANK, 4, 8), axis(ALPHA, 8, 16)]).configs) == (RANK, ALPHA)


# -- attention -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj"), {"q_proj", "o_proj"}),
        (("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"), {"c_attn", "attn.c_proj"}),
        (("attention.self.query", "attention.output.dense", "output.dense"), {"query", "attention.output.dense"}),
        (("mixer.in_proj", "mixer.out_proj"), set()),
    ],
)
def test_all_attention_is_said_in_targets_that_mean_nothing_else(layers: tuple[str, ...], expected: set[str]) -> None:
    shapes = [LinearShape(name=f"h.{at}.{name}", in_features=8, out_features=8) for at in (0, 1) for name in layers]
    assert set(attention_targets(shapes)) == expected
