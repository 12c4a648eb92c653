from __future__ import annotations

import heapq
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import EvaConfig, get_peft_model
from peft import LoraConfig as PeftConfig
from peft.tuners.lora.eva import get_eva_state_dict
from peft.utils.incremental_pca import IncrementalPCA
from torch import Tensor, nn

from core.adapters.starts import Factors, InputDirections, Place, begin, redistribute
from core.config import QuantConfig, Start
from core.errors import ConfigError, ModelError
from core.models.quantize import QuantizedLinear

SCALE = 2.5
RANK = 6
WIDE, TALL = (40, 56), (56, 40)  # [out, in]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weight(shape: tuple[int, int] = TALL, seed: int = 3) -> Tensor:
    return torch.randn(shape, generator=generator(seed)) / shape[1] ** 0.5


def place(w: Tensor, rank: int = RANK, **seen: Tensor) -> Place:
    out_features, in_features = w.shape
    return Place(in_features=in_features, out_features=out_features, rank=rank, scale=SCALE, weight=w, **seen)


def change(factors: Factors) -> Tensor:
    """What the update adds to the base, `[out, in]` fp64."""
    product = factors.b.double() @ factors.a.double()
    if factors.anchor is not None:
        product = product - factors.anchor[1].double() @ factors.anchor[0].double()
    return SCALE * product


def projector(rows: Tensor) -> Tensor:
    """Onto the space that orthonormal `rows` span: the same whatever their signs and order."""
    return rows.double().t() @ rows.double()


def inputs(rows: int, features: int, seed: int = 0) -> Tensor:
    """Activations whose directions differ in size by a factor each, with a mean."""
    sizes = 0.8 ** torch.arange(features)
    rotation = torch.linalg.qr(torch.randn(features, features, generator=generator(99))).Q
    return (torch.randn(rows, features, generator=generator(seed)) * sizes + 0.3) @ rotation


def seen(w: Tensor) -> dict[str, Tensor]:
    """What EVA and LoftQ look at."""
    collected = InputDirections(w.shape[1])
    collected.add(inputs(100, w.shape[1]))
    return {"directions": collected.leading(RANK)[0], "quantized": (w * 8).round() / 8}


STARTS: tuple[Start, ...] = get_args(Start)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("shape", [WIDE, TALL])
def test_the_factors_have_the_papers_shapes_in_fp32(start: Start, shape: tuple[int, int]) -> None:
    w = weight(shape)
    factors = begin(start, place(w, **seen(w)), generator())
    assert factors.a.shape == (RANK, shape[1]) and factors.b.shape == (shape[0], RANK)
    assert factors.a.dtype == factors.b.dtype == torch.float32
    assert not factors.a.requires_grad and not factors.b.requires_grad


@pytest.mark.parametrize("start", [start for start in STARTS if start != "loftq"])
@pytest.mark.parametrize("shape", [WIDE, TALL])
def test_a_fresh_update_changes_nothing(start: Start, shape: tuple[int, int]) -> None:
    w = weight(shape)
    factors = begin(start, place(w, **seen(w)), generator())
    exact = start != "orthogonal"  # whose B A is 0 by orthogonality, and so up to the rounding of A and B
    assert change(factors).abs().max() <= (0 if exact else 1e-7 * factors.a.norm() * factors.b.norm())
    assert factors.a.any()


@pytest.mark.parametrize("start", ["kaiming", "gaussian", "orthogonal"])
def test_a_seed_decides_a_random_start(start: Start) -> None:
    first, again, other = (begin(start, place(weight()), generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.a, again.a) and torch.equal(first.b, again.b) and not torch.equal(first.a, other.a)


@pytest.mark.parametrize("start", STARTS)
def test_the_weight_is_left_as_it_is(start: Start) -> None:
    w = weight()
    before = w.clone()
    factors = begin(start, place(w, **seen(w)), generator())
    factors.a.add_(1)
    factors.b.add_(1)
    assert torch.equal(w, before)
    if factors.anchor is not None:  # training A and B must not move what is subtracted
        assert not torch.equal(factors.anchor[0], factors.a) and not torch.equal(factors.anchor[1], factors.b)


class OneLayer(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer


def peft_layer(w: Tensor, init: Any, rank: int = RANK) -> Any:
    """peft's adapted layer over `w`, fresh."""
    linear = nn.Linear(w.shape[1], w.shape[0], bias=False)
    linear.weight.data = w.clone()
    config = PeftConfig(target_modules=["layer"], r=rank, lora_alpha=SCALE * rank, init_lora_weights=init)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return get_peft_model(OneLayer(linear), config).base_model.model.layer  # type: ignore[arg-type]


@pytest.mark.parametrize("start", ["pissa", "olora"])
@pytest.mark.parametrize("shape", [WIDE, TALL])
def test_the_product_is_pefts_and_so_is_what_it_leaves_of_the_base(start: Start, shape: tuple[int, int]) -> None:
    w = weight(shape)
    theirs = peft_layer(w, start)
    factors = begin(start, place(w), generator())
    product = SCALE * factors.b @ factors.a
    assert torch.allclose(product, theirs.get_delta_weight("default"), rtol=0, atol=1e-5 * float(w.norm()))
    assert torch.allclose(w - product, theirs.base_layer.weight, rtol=0, atol=1e-5 * float(w.norm()))


def test_olora_is_pefts_factor_by_factor() -> None:
    theirs = peft_layer(weight(), "olora")
    factors = begin("olora", place(weight()), generator())
    assert torch.allclose(factors.a, theirs.lora_A["default"].weight, atol=1e-6)
    assert torch.allclose(factors.b, theirs.lora_B["default"].weight, atol=1e-6)


def test_pissa_splits_the_singular_values_evenly() -> None:
    factors = begin("pissa", place(weight()), generator())
    sigma = torch.linalg.svdvals(weight())[:RANK]
    assert torch.allclose(SCALE * factors.a @ factors.a.t(), sigma.diag(), atol=1e-5)
    assert torch.allclose(SCALE * factors.b.t() @ factors.b, sigma.diag(), atol=1e-5)


@pytest.mark.parametrize("start", ["kaiming", "gaussian", "orthogonal"])
def test_random_factors_are_as_large_as_pefts(start: Start) -> None:
    w = weight((3000, 2000))
    theirs = peft_layer(w, True if start == "kaiming" else start, rank=8)
    factors = begin(start, place(w, rank=8), generator())
    for ours, peft in ((factors.a, theirs.lora_A["default"].weight), (factors.b, theirs.lora_B["default"].weight)):
        assert abs(ours.std() - peft.std()) <= 0.05 * peft.std()
        if start == "kaiming":  # the one whose numbers have a bound
            assert abs(ours.abs().max() - peft.abs().max()) <= 0.01 * peft.abs().max()


def test_orthogonal_factors_are_of_half_the_rank_each() -> None:
    factors = begin("orthogonal", place(weight()), generator())
    assert torch.linalg.matrix_rank(factors.a) == torch.linalg.matrix_rank(factors.b) == RANK // 2


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", [(64, 128), (128, 64)])
def test_loftq_comes_as_near_to_the_weight_as_its_rank_allows(bits: Any, shape: tuple[int, int]) -> None:
    linear = nn.Linear(shape[1], shape[0])
    linear.weight.data = weight(shape)
    quantized = QuantizedLinear(linear, QuantConfig(bits=bits)).dequantize(torch.float32)
    factors = begin("loftq", place(linear.weight, quantized=quantized), generator())
    lost = linear.weight.detach().double() - quantized.double()
    left = (lost - change(factors)).norm()
    best = torch.linalg.svdvals(lost)[RANK:].norm()
    assert best <= left <= best * (1 + 1e-5) and left < lost.norm()
    assert factors.anchor is None


def test_eva_starts_at_the_singular_vectors_of_all_batches_together() -> None:
    batches = [inputs(30, 24, seed).view(2, 15, 24) for seed in range(4)]
    collected = InputDirections(24)
    for batch in batches:
        collected.add(batch)
    directions, shares = collected.leading(RANK)
    factors = begin("eva", place(weight((40, 24)), directions=directions), generator())
    _, sigma, vh = torch.linalg.svd(torch.cat(batches).view(-1, 24).double(), full_matrices=False)
    assert collected.rows == 120
    assert torch.allclose((factors.a.double() @ vh[:RANK].t()).abs(), torch.eye(RANK, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(shares.double(), (sigma**2 / (sigma**2).sum())[:RANK], rtol=1e-6)


def test_eva_gives_b_a_larger_first_gradient_than_any_random_directions_do() -> None:
    x = inputs(200, 24)
    collected = InputDirections(24)
    collected.add(x)
    ours = (x @ collected.leading(RANK)[0].t()).norm()
    for seed in range(20):
        drawn = torch.linalg.qr(torch.randn(24, RANK, generator=generator(seed))).Q
        assert (x @ drawn).norm() < ours


def test_centered_directions_are_those_of_pefts_analysis() -> None:
    batches = [inputs(40, 24, seed) for seed in range(3)]
    collected = InputDirections(24, centered=True)
    theirs = IncrementalPCA(n_components=24)
    for batch in batches:
        collected.add(batch)
        theirs.partial_fit(batch.double())
    directions, shares = collected.leading(RANK)
    assert torch.allclose(projector(directions), projector(theirs.components_[:RANK]), atol=1e-6)
    assert torch.allclose(shares.double(), theirs.explained_variance_ratio_[:RANK], rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_batch_is_taken_in_as_exactly_as_it_comes(dtype: torch.dtype) -> None:
    x = inputs(50, 12).to(dtype)
    one, other = InputDirections(12), InputDirections(12)
    one.add(x.requires_grad_())
    other.add(x.detach().double())
    assert all(torch.equal(*pair) for pair in zip(one.leading(12), other.leading(12), strict=True))


def test_small_directions_beside_huge_ones_are_found() -> None:
    """As in transformers, where a few directions are thousands of times larger than the rest."""
    x = inputs(200, 24).double()
    huge = nn.functional.normalize(torch.randn(24, generator=generator(), dtype=torch.float64), dim=0)
    x += 1e5 * torch.outer(x @ huge, huge)
    collected = InputDirections(24)
    collected.add(x)
    vh = torch.linalg.svd(x, full_matrices=False).Vh
    assert torch.allclose(projector(collected.leading(5)[0]), projector(vh[:5]), atol=1e-4)


def test_inputs_of_few_dimensions_give_orthonormal_directions_all_the_same() -> None:
    collected = InputDirections(24)
    collected.add(inputs(3, 24))
    directions, shares = collected.leading(24)
    assert torch.allclose(directions @ directions.t(), torch.eye(24), atol=1e-5)
    assert (shares[3:] < 1e-6).all() and (shares >= 0).all() and abs(shares[:3].sum() - 1) < 1e-6


def test_activations_that_are_not_finite_are_refused() -> None:
    collected = InputDirections(4)
    collected.add(torch.tensor([[1.0, 2.0, float("inf"), 0.0]]))
    with pytest.raises(ModelError, match="not finite"):
        collected.leading(2)


@pytest.mark.parametrize(
    ("start", "changes", "words"),
    [
        ("orthogonal", {"rank": 5}, "5 is odd"),
        ("loftq", {"quantized": None}, "not quantized"),
        ("eva", {"directions": None}, "none went through"),
        ("pissa", {"rank": 41}, "takes 41 directions from a matrix that has 40"),
        ("olora", {"rank": 41}, "takes 41 directions from a matrix that has 40"),
        ("pissa", {"weight": None}, "not at hand"),
    ],
)
def test_a_start_that_cannot_be_had_is_refused(start: Start, changes: dict[str, Any], words: str) -> None:
    w = weight()
    settings = {"in_features": 40, "out_features": 56, "rank": RANK, "scale": SCALE, "weight": w} | seen(w) | changes
    with pytest.raises(ConfigError, match=words) as refusal:
        begin(start, Place(**settings), generator())
    assert refusal.value.field == "lora.init"


class Beside(nn.Module):
    """Layers beside each other, each with its share of the input's features."""

    def __init__(self, count: int, features: int) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({f"l{index}": nn.Linear(features, 8) for index in range(count)})

    def forward(self, x: Tensor) -> Tensor:
        parts = zip(self.layers.values(), x.chunk(len(self.layers), dim=-1), strict=True)
        return torch.stack([layer(part.contiguous()) for layer, part in parts])


@pytest.mark.parametrize("rho", [1.0, 1.5, 2.0])
def test_ranks_are_redistributed_as_peft_does(rho: float) -> None:
    falls = (0.3, 0.6, 0.9, 0.95)
    sizes = torch.cat([fall ** torch.arange(12) for fall in falls])
    x = torch.randn(400, len(sizes), generator=generator()) * sizes
    config = PeftConfig(r=4, target_modules=r".*\.l\d", init_lora_weights="eva", eva_config=EvaConfig(rho=rho))
    theirs = get_eva_state_dict(
        Beside(len(falls), 12), [x], config, lambda model, batch: model(batch), None, None, show_progress_bar=False
    )
    shares = {}
    for index, part in enumerate(x.chunk(len(falls), dim=-1)):
        collected = InputDirections(12, centered=True)
        collected.add(part)
        shares[f"layers.l{index}"] = collected.leading(12)[1]
    ranks = redistribute(shares, dict.fromkeys(shares, 4), rho)
    assert ranks == {name: len(rows) for name, rows in theirs.items()}
    assert (len(set(ranks.values())) > 1) == (rho > 1)


falling = st.lists(st.floats(0, 1), min_size=1, max_size=12).map(lambda shares: sorted(shares, reverse=True))
spectra = st.dictionaries(st.text("abc", min_size=1, max_size=3), falling, min_size=1, max_size=6)


def best_shares(shares: dict[str, list[float]], caps: dict[str, int], budget: int) -> list[float]:
    """What a greedy choice, one direction at a time from whichever layer offers most next, gathers."""
    queue = [(-values[0], name, 0) for name, values in shares.items() if caps[name]]
    heapq.heapify(queue)
    gathered: list[float] = []
    while queue and len(gathered) < budget:
        share, name, position = heapq.heappop(queue)
        gathered.append(-share)
        if position + 1 < min(len(shares[name]), caps[name]):
            heapq.heappush(queue, (-shares[name][position + 1], name, position + 1))
    return gathered


@given(shares=spectra, rank=st.integers(1, 6), rho=st.floats(1, 3))
def test_a_budget_of_ranks_goes_where_it_explains_most(shares: dict[str, list[float]], rank: int, rho: float) -> None:
    ranks = redistribute(shares, dict.fromkeys(shares, rank), rho)
    caps = dict.fromkeys(shares, round(rank * rho))
    wanted = best_shares(shares, caps, rank * len(shares))
    gathered = [share for name, count in ranks.items() for share in shares[name][:count]]
    assert all(ranks[name] <= min(caps[name], len(shares[name])) for name in shares)
    assert sorted(gathered) == sorted(wanted)


@given(shares=spectra, ranks=st.lists(st.integers(1, 6), min_size=6, max_size=6))
def test_with_rho_one_every_layer_keeps_its_rank(shares: dict[str, list[float]], ranks: list[int]) -> None:
    wanted = {name: min(rank, len(shares[name])) for name, rank in zip(shares, ranks, strict=False)}
    assert redistribute(shares, wanted, rho=1.0) == wanted


def test_shares_may_be_tensors() -> None:
    shares = {"a": torch.tensor([0.9, 0.8, 0.7]), "b": torch.tensor([0.1, 0.05])}
    assert redistribute(shares, {"a": 2, "b": 2}) == {"a": 3, "b": 1}
