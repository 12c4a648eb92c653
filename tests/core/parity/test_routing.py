"""Any adapters, of any rank and in any order, beside each other in one batch."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from core.adapters.inject import inject, lora_layers, routed
from core.adapters.layer import Mix
from core.adapters.lowrank import LowRank
from core.config import LoraConfig
from tests.core.parity.architectures import batch, build
from tests.core.parity.cases import LIMIT, LINEARS, Case
from tests.core.parity.twins import blended_base, relative

TARGETS = st.lists(st.sampled_from(LINEARS["llama"]), min_size=1, unique=True)
ADAPTERS = st.builds(
    LoraConfig,
    rank=st.integers(1, 6),
    alpha=st.floats(0.5, 12),
    targets=TARGETS.map(tuple),
    use_rslora=st.booleans(),
    use_dora=st.booleans(),
)
KEYS = ("a", "b", "c")
PARTS = st.tuples(st.sampled_from(KEYS), st.floats(-2, 2))
MIXES = st.lists(st.lists(PARTS, max_size=3, unique_by=lambda part: part[0]).map(tuple), min_size=1, max_size=5)
TOKENS = batch("llama", 0)["input_ids"][0]
few = settings(max_examples=25, deadline=None)


def adapted(configs: list[LoraConfig]) -> nn.Module:
    """A tiny Llama with an adapter of each config that changes what it says."""
    model = build("llama")
    for seed, (key, config) in enumerate(zip(KEYS, configs, strict=True)):
        put(model, config, key, seed)
    return model


def put(model: nn.Module, config: LoraConfig, key: str, seed: int) -> None:
    inject(model, config, key=key, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for layer in lora_layers(model).values():
        update = getattr(layer.adapters, key, None)
        if isinstance(update, LowRank):
            update.b.data.copy_(0.1 * torch.randn(update.b.shape, generator=generator))


def logits(model: nn.Module, rows: int = 1) -> Tensor:
    """`[rows, length, vocabulary]` for the same tokens in each row."""
    with torch.no_grad():
        found: Tensor = model(input_ids=TOKENS.expand(rows, -1), use_cache=False).logits
    return found


def mixed(model: nn.Module, mixes: list[Mix]) -> Tensor:
    with routed(model, mixes, torch.float32):
        return logits(model, len(mixes))


@few
@given(st.lists(ADAPTERS, min_size=3, max_size=3), MIXES)
def test_a_row_is_the_base_with_its_changes_added_whatever_is_beside_it(
    configs: list[LoraConfig], mixes: list[Mix]
) -> None:
    model = adapted(configs)
    case = Case(architecture="llama", kind="linear", variant="drawn", config=configs[0])
    for found, mix in zip(mixed(model, mixes), mixes, strict=True):
        assert relative(found, logits(blended_base(case, model, mix))[0]) < LIMIT


@few
@given(st.lists(ADAPTERS, min_size=3, max_size=3), MIXES, st.randoms(use_true_random=False))
def test_the_order_of_rows_is_the_order_of_answers(configs: list[LoraConfig], mixes: list[Mix], random: Any) -> None:
    model = adapted(configs)
    order = list(range(len(mixes)))
    random.shuffle(order)
    assert relative(mixed(model, [mixes[at] for at in order]), mixed(model, mixes)[order]) < LIMIT


@few
@given(st.lists(ADAPTERS, min_size=3, max_size=3), st.floats(-2, 2), st.floats(-2, 2))
def test_strengths_of_one_adapter_add_up_and_zero_is_the_base(
    configs: list[LoraConfig], first: float, second: float
) -> None:
    model = adapted(configs)
    parts, whole, nothing = mixed(model, [(("a", first), ("a", second)), (("a", first + second),), (("a", 0.0),)])
    assert relative(parts, whole) < LIMIT
    assert torch.equal(nothing, logits(model)[0])
