from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig as PeftConfig
from peft import get_peft_model
from peft.utils import merge_utils
from torch import Tensor, nn

from core.adapters.combine import Delta, Reduced, concatenate, dare_linear, dare_ties, shrink, svd, ties
from core.errors import AdapterError, ConfigError, UserError

FULL = 10**6
CANCELED = 1e-3  # the energy of a sum that may be no more than what rounding left of its terms
SHAPES = {"q": (10, 7), "v": (6, 9)}  # [out, in]

Adapter = Mapping[str, Delta]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def adapter(seed: int, rank: int = 3, modules: tuple[str, ...] = ("q", "v"), size: float = 1.0) -> dict[str, Delta]:
    draw = generator(seed)
    return {
        name: Delta(
            torch.randn(rank, SHAPES[name][1], generator=draw),
            size * torch.randn(SHAPES[name][0], rank, generator=draw),
        )
        for name in modules
    }


def dense(deltas: Adapter) -> dict[str, Tensor]:
    """Every module's ΔW in fp64."""
    return {name: delta.b.double() @ delta.a.double() for name, delta in deltas.items()}


def dense_sum(adapters: list[dict[str, Delta]], weights: list[float]) -> dict[str, Tensor]:
    """Σ wᵢ ΔWᵢ the obvious way; zeros where no adapter changes a module."""
    total = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in SHAPES.items()}
    for one, weight in zip(adapters, weights, strict=True):
        for name, delta in dense(one).items():
            total[name] += weight * delta
    return total


def dense_energy(matrix: Tensor) -> float:
    return float(matrix.square().sum())


def bulk(adapters: list[dict[str, Delta]], weights: list[float]) -> float:
    """How much is added up: Σ |wᵢ| ‖ΔWᵢ‖, to which rounding is relative even where the sum cancels."""
    pairs = zip(adapters, weights, strict=True)
    return sum(abs(weight) * float(matrix.norm()) for one, weight in pairs for matrix in dense(one).values())


def assert_close(got: Adapter, wanted: Mapping[str, Tensor], size: float = 1.0) -> None:
    """Each module of `got` is that of `wanted`, where a module that is missing counts as zero.

    Args:
        size: of what went into it, where that is more than came out.
    """
    found = dense(got)
    assert set(found) <= set(wanted)
    for name, matrix in wanted.items():
        difference = found.get(name, torch.zeros_like(matrix)) - matrix
        assert difference.norm() <= 1e-5 * max(size, float(matrix.norm()))


factors = st.integers(-200, 200).map(lambda percent: percent / 100)
modules = st.sampled_from([("q", "v"), ("q",), ("v",)])
one_adapter = st.builds(
    adapter, st.integers(0, 10**6), st.integers(1, 5), modules, st.sampled_from([0.0, 0.1, 1.0, 5.0])
)
weighted = st.lists(st.tuples(one_adapter, factors), min_size=1, max_size=4).map(
    lambda pairs: ([one for one, _ in pairs], [weight for _, weight in pairs])
)
Weighted = tuple[list[dict[str, Delta]], list[float]]
few = settings(max_examples=40, deadline=None)


@few
@given(weighted)
def test_concatenating_gives_the_weighted_sum_at_the_sum_of_the_ranks(sums: Weighted) -> None:
    result = concatenate(*sums)
    assert_close(result, dense_sum(*sums), bulk(*sums))
    for name, delta in result.items():
        assert delta.a.shape[0] == sum(one[name].a.shape[0] for one in sums[0] if name in one)


@few
@given(weighted, st.randoms())
def test_the_order_of_adapters_does_not_matter(sums: Weighted, random: Any) -> None:
    pairs = list(zip(*sums, strict=True))
    random.shuffle(pairs)
    shuffled = concatenate([one for one, _ in pairs], [weight for _, weight in pairs])
    assert_close(shuffled, dense(concatenate(*sums)), bulk(*sums))


@few
@given(weighted, factors)
def test_scaling_the_weights_scales_the_change(sums: Weighted, factor: float) -> None:
    adapters, weights = sums
    wanted = {name: factor * matrix for name, matrix in dense(concatenate(adapters, weights)).items()}
    scaled = [factor * weight for weight in weights]
    size = bulk(adapters, weights)
    assert_close(concatenate(adapters, scaled), wanted, 2 * size)
    assert_close(svd(adapters, scaled, FULL).deltas, wanted, 2 * size)


WAYS: dict[str, Callable[[list[Any], list[float], int], Reduced]] = {
    "svd": svd,
    "ties": lambda adapters, weights, rank: ties(adapters, weights, rank, density=1.0),
    "dare_linear": lambda adapters, weights, rank: dare_linear(
        adapters, weights, rank, density=1.0, generator=generator()
    ),
    "dare_ties": lambda adapters, weights, rank: dare_ties(adapters, weights, rank, density=1.0, generator=generator()),
}


@pytest.mark.parametrize("way", WAYS)
@few
@given(one=one_adapter)
def test_one_adapter_with_weight_one_stays_what_it_is(way: str, one: dict[str, Delta]) -> None:
    result = WAYS[way]([one], [1.0], FULL)
    assert_close(result.deltas, dense(one))
    assert result.energy == dict.fromkeys(one, 1.0) and result.energy_in_all == 1.0


def test_concatenating_one_adapter_with_weight_one_returns_its_very_numbers() -> None:
    one = adapter(0)
    result = concatenate([one], [1.0])
    assert all(torch.equal(result[name].a, one[name].a) and torch.equal(result[name].b, one[name].b) for name in one)


@few
@given(weighted)
def test_svd_at_full_rank_is_the_exact_sum(sums: Weighted) -> None:
    result = svd(*sums, FULL)
    assert_close(result.deltas, dense_sum(*sums), bulk(*sums))
    assert result.energy_in_all == 1.0


@few
@given(weighted, st.integers(1, 8))
def test_svd_is_the_best_its_rank_allows_and_says_what_it_kept(sums: Weighted, rank: int) -> None:
    """Against the decomposition of the whole matrix."""
    result = svd(*sums, rank)
    total = sum(dense_energy(matrix) for matrix in dense_sum(*sums).values())
    kept = 0.0
    exact = {name: matrix for name, matrix in dense_sum(*sums).items() if name in result.deltas}
    for name, matrix in exact.items():
        u, sigma, vh = torch.linalg.svd(matrix, full_matrices=False)
        best = (u[:, :rank] * sigma[:rank]) @ vh[:rank]
        found = dense(result.deltas)[name]
        assert result.deltas[name].a.shape[0] <= rank
        assert (found - matrix).norm() <= (best - matrix).norm() + 1e-5 * bulk(*sums)
        kept += dense_energy(best)
        assert 0 <= result.energy[name] <= 1
        if dense_energy(matrix) > CANCELED:
            assert abs(result.energy[name] - dense_energy(best) / dense_energy(matrix)) <= 1e-5
    if total > CANCELED:
        assert abs(result.energy_in_all - kept / total) <= 1e-5


@few
@given(weighted)
def test_energy_never_falls_with_rank(sums: Weighted) -> None:
    results = [svd(*sums, rank) for rank in range(1, 9)]
    for less, more in zip(results, results[1:], strict=False):
        assert less.energy_in_all <= more.energy_in_all + 1e-12
        assert all(less.energy[name] <= more.energy[name] for name in less.energy)


@few
@given(one_adapter, st.integers(0, 3))
def test_shrinking_to_the_rank_it_has_returns_the_very_numbers(one: dict[str, Delta], more: int) -> None:
    rank = max(delta.a.shape[0] for delta in one.values()) + more
    result = shrink(one, rank=rank)
    assert all(result.deltas[name] is one[name] for name in one)
    assert list(result.deltas) == list(one)
    assert result.energy == dict.fromkeys(one, 1.0) and result.energy_in_all == 1.0


@few
@given(one_adapter, st.integers(1, 5))
def test_shrinking_is_svd_of_one(one: dict[str, Delta], rank: int) -> None:
    ours, theirs = shrink(one, rank=rank), svd([one], [1.0], rank)
    assert_close(ours.deltas, dense(theirs.deltas))
    assert ours.energy == theirs.energy


@few
@given(one_adapter, st.floats(0.01, 1))
def test_shrinking_to_an_energy_takes_the_lowest_rank_that_keeps_it(one: dict[str, Delta], energy: float) -> None:
    result = shrink(one, energy=energy)
    for name, delta in result.deltas.items():
        rank = delta.a.shape[0]
        assert result.energy[name] >= energy and 1 <= rank <= one[name].a.shape[0]
        if rank > 1:
            assert svd([one], [1.0], rank - 1).energy[name] < energy
    assert result.energy_in_all >= energy - 1e-12


@few
@given(one_adapter, st.integers(1, 4), st.integers(0, 10**6))
def test_no_result_depends_on_how_a_change_is_split_into_a_and_b(one: dict[str, Delta], rank: int, seed: int) -> None:
    """B A = (B M)(M⁻¹ A): the same change in other factors."""
    mixed = {}
    for name, delta in one.items():
        size = delta.a.shape[0]
        m = torch.linalg.qr(torch.randn(size, size, generator=generator(seed), dtype=torch.float64)).Q * 3
        mixed[name] = Delta((torch.linalg.inv(m) @ delta.a.double()).float(), (delta.b.double() @ m).float())
    first, second = shrink(one, rank=rank), shrink(mixed, rank=rank)
    assert all(abs(first.energy[name] - second.energy[name]) <= 1e-5 for name in one)
    other = adapter(seed + 1)
    assert_close(svd([mixed, other], [1.0, 0.5], FULL).deltas, dense_sum([one, other], [1.0, 0.5]))


def peft_result(
    name: str, adapters: list[dict[str, Delta]], weights: list[float], density: float, **settings: Any
) -> dict[str, Tensor]:
    """peft's function of that name on every ΔW, module after module, its random numbers drawn from seed 5."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        result = {}
        for module in SHAPES:
            deltas = [one[module].b @ one[module].a for one in adapters]
            merge = getattr(merge_utils, name)
            result[module] = merge(deltas, torch.tensor(weights), density, **settings).double()
    return result


densities = st.floats(0.05, 0.95)
several = st.lists(st.tuples(st.integers(0, 10**6), factors), min_size=1, max_size=4)


@pytest.mark.parametrize("majority", ["total", "frequency"])
@few
@given(drawn=several, density=densities)
def test_ties_is_pefts(majority: Any, drawn: list[tuple[int, float]], density: float) -> None:
    adapters, weights = [adapter(seed) for seed, _ in drawn], [weight for _, weight in drawn]
    wanted = peft_result("ties", adapters, weights, density, majority_sign_method=majority)
    assert_close(ties(adapters, weights, FULL, density=density, majority=majority).deltas, wanted)


@few
@given(drawn=several, density=densities)
def test_dare_linear_is_pefts(drawn: list[tuple[int, float]], density: float) -> None:
    adapters, weights = [adapter(seed) for seed, _ in drawn], [weight for _, weight in drawn]
    wanted = peft_result("dare_linear", adapters, weights, density)
    assert_close(dare_linear(adapters, weights, FULL, density=density, generator=generator(5)).deltas, wanted)


@pytest.mark.parametrize("majority", ["total", "frequency"])
@few
@given(drawn=several, density=densities)
def test_dare_ties_is_pefts(majority: Any, drawn: list[tuple[int, float]], density: float) -> None:
    adapters, weights = [adapter(seed) for seed, _ in drawn], [weight for _, weight in drawn]
    wanted = peft_result("dare_ties", adapters, weights, density, majority_sign_method=majority)
    ours = dare_ties(adapters, weights, FULL, density=density, generator=generator(5), majority=majority)
    assert_close(ours.deltas, wanted)


@pytest.mark.parametrize("way", ["ties", "dare_ties"])
def test_a_module_that_one_adapter_leaves_alone_has_no_vote_of_it(way: str) -> None:
    both, without, nothing = adapter(1), adapter(2, modules=("q",)), adapter(3, size=0.0)
    zeros = {**without, "v": nothing["v"]}

    def merged(second: dict[str, Delta]) -> dict[str, Tensor]:
        draws = {"generator": generator(7)} if way == "dare_ties" else {}
        merge: Any = ties if way == "ties" else dare_ties
        return dense(merge([both, second], [1.0, 1.0], FULL, density=0.5, **draws).deltas)

    assert all(torch.allclose(merged(without)[name], merged(zeros)[name], atol=1e-5) for name in SHAPES)


def test_dare_keeps_the_sum_on_average() -> None:
    one = {"q": adapter(1)["q"]}
    draws = generator(3)
    mean = (
        sum(dense(dare_linear([one], [1.0], FULL, density=0.4, generator=draws).deltas)["q"] for _ in range(400)) / 400
    )
    assert (mean - dense(one)["q"]).norm() <= 0.15 * dense(one)["q"].norm()


@pytest.mark.parametrize("rank", [1, 3])
def test_a_rank_bounds_what_ties_leaves_and_the_energy_says_so(rank: int) -> None:
    adapters, weights = [adapter(1), adapter(2)], [1.0, 0.7]
    whole = dense(ties(adapters, weights, FULL, density=0.5).deltas)
    result = ties(adapters, weights, rank, density=0.5)
    for name, matrix in whole.items():
        lost = (dense(result.deltas)[name] - matrix).square().sum() / matrix.square().sum()
        assert result.deltas[name].a.shape[0] == rank and 0 < result.energy[name] < 1
        assert abs(1 - float(lost) - result.energy[name]) <= 1e-5


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.v = nn.Linear(7, 10), nn.Linear(9, 6)


@pytest.mark.parametrize(("way", "density"), [("cat", None), ("svd", None), ("ties_svd", 0.5)])
def test_whole_adapters_combine_as_in_peft(way: str, density: float | None) -> None:
    config = PeftConfig(target_modules=["q", "v"], r=3, lora_alpha=6)
    model: Any = get_peft_model(TwoLayers(), config, adapter_name="0")  # type: ignore[arg-type]
    model.add_adapter("1", config)
    adapters = [adapter(seed) for seed in range(2)]
    for key, one in enumerate(adapters):
        for name, delta in one.items():
            layer = getattr(model.base_model.model, name)
            layer.lora_A[str(key)].weight.data = delta.a
            layer.lora_B[str(key)].weight.data = delta.b / 2  # peft's scale is 6 / 3
    settings = {"svd_rank": 2, "density": density} if density or way == "svd" else {}
    model.add_weighted_adapter(["0", "1"], [0.7, 1.3], "both", combination_type=way, **settings)
    ours = {
        "cat": lambda: concatenate(adapters, [0.7, 1.3]),
        "svd": lambda: svd(adapters, [0.7, 1.3], 2).deltas,
        "ties_svd": lambda: ties(adapters, [0.7, 1.3], 2, density=0.5).deltas,
    }[way]()
    theirs = {name: getattr(model.base_model.model, name).get_delta_weight("both").double() for name in SHAPES}
    assert_close(ours, {name: matrix.detach() for name, matrix in theirs.items()})


@pytest.mark.parametrize("way", [concatenate, *WAYS.values()])
@pytest.mark.parametrize(
    ("adapters", "weights", "error", "words"),
    [
        ([], [], AdapterError, "no adapter to combine"),
        ([adapter(0)], [1.0, 2.0], ConfigError, "there are 1 adapters"),
        ([adapter(0), adapter(1)], [], ConfigError, "missing"),
        ([adapter(0)], [float("nan")], ConfigError, "nan"),
        (
            [adapter(0), {"v": Delta(torch.zeros(1, 9), torch.zeros(7, 1))}],
            [1.0, 1.0],
            AdapterError,
            r"change v in different shapes \(6 × 9 and 7 × 9\)",
        ),
    ],
)
def test_adapters_that_cannot_be_combined_are_refused(
    way: Any, adapters: list[Any], weights: list[float], error: type[UserError], words: str
) -> None:
    with pytest.raises(error, match=words):
        way(adapters, weights, *([2] if way is not concatenate else []))


@pytest.mark.parametrize(
    ("act", "field"),
    [
        (lambda: svd([adapter(0)], [1.0], 0), "rank"),
        (lambda: shrink(adapter(0), rank=0), "rank"),
        (lambda: shrink(adapter(0), energy=0.0), "energy"),
        (lambda: shrink(adapter(0), energy=1.1), "energy"),
        (lambda: shrink(adapter(0)), ""),
        (lambda: shrink(adapter(0), rank=1, energy=0.5), ""),
        (lambda: ties([adapter(0)], [1.0], 2, density=0.0), "density"),
        (lambda: dare_linear([adapter(0)], [1.0], 2, density=1.5, generator=generator()), "density"),
        (lambda: dare_ties([adapter(0)], [1.0], 2, density=float("nan"), generator=generator()), "density"),
    ],
)
def test_settings_out_of_range_are_refused(act: Callable[[], Any], field: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        act()
    assert refusal.value.field == field


def test_an_adapter_that_changes_nothing_has_lost_nothing() -> None:
    result = svd([adapter(0, size=0.0)], [1.0], 1)
    assert result.energy_in_all == 1.0 and all(not matrix.any() for matrix in dense(result.deltas).values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_results_are_in_fp32_whatever_comes_in(dtype: torch.dtype) -> None:
    one = {name: Delta(delta.a.to(dtype), delta.b.to(dtype)) for name, delta in adapter(0).items()}
    for result in (concatenate([one], [0.5]), svd([one], [0.5], 2).deltas, ties([one], [0.5], 2, density=0.5).deltas):
        assert {tensor.dtype for delta in result.values() for tensor in (delta.a, delta.b)} == {torch.float32}
