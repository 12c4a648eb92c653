from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from core.adapters.inject import activate, lora_layers, routed
from core.errors import AdapterError
from core.models.load import LoadedModel
from tests.core.tiny import adapt, random_rows

ROUTES = (None, "a", "b", None)
BATCH = torch.tensor([row.tokens for row in random_rows([19] * 4)])


@pytest.fixture
def shared(plain: LoadedModel) -> LoadedModel:
    """A base with two adapters: of other ranks, other scales, and on layers that overlap in part."""
    adapt(plain.model, key="a", rank=2, alpha=8, targets=("q_proj", "v_proj", "down_proj"))
    adapt(plain.model, key="b", rank=6, alpha=3, targets=("v_proj", "o_proj", "up_proj"), seed=5)
    return plain


def logits(loaded: LoadedModel, batch: Tensor) -> Tensor:
    with torch.no_grad():
        result: Tensor = loaded.model(input_ids=batch, use_cache=False).logits
    return result


def with_adapter(loaded: LoadedModel, key: str | None, batch: Tensor) -> Tensor:
    activate(loaded.model, key)
    result = logits(loaded, batch)
    activate(loaded.model, None)
    return result


def test_each_row_of_a_mixed_batch_gets_what_it_gets_alone(shared: LoadedModel) -> None:
    with routed(shared.model, ROUTES, torch.float32):
        mixed = logits(shared, BATCH)
    for row, key in enumerate(ROUTES):
        alone = with_adapter(shared, key, BATCH[row : row + 1])[0]
        assert torch.allclose(mixed[row], alone, atol=1e-4), key
        assert key is None or (mixed[row] - with_adapter(shared, None, BATCH)[row]).abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_without_an_adapter_are_the_base_to_the_last_bit(shared: LoadedModel, dtype: torch.dtype) -> None:
    shared.model.to(dtype)
    base = with_adapter(shared, None, BATCH)
    with routed(shared.model, ROUTES, dtype):
        mixed = logits(shared, BATCH)
    assert torch.equal(mixed[0], base[0]) and torch.equal(mixed[3], base[3])
    assert not torch.equal(mixed[1], base[1]) and not torch.equal(mixed[2], base[2])


def test_a_neighbours_adapter_cannot_be_felt(shared: LoadedModel) -> None:
    def row_of_a(neighbours: Sequence[str | None]) -> Tensor:
        with routed(shared.model, ["a", *neighbours], torch.float32):
            return logits(shared, BATCH)[0]

    assert torch.allclose(row_of_a(["b", "b", "b"]), row_of_a([None, "a", None]), atol=1e-5)


def test_a_batch_of_base_rows_alone_is_the_base(shared: LoadedModel) -> None:
    base = with_adapter(shared, None, BATCH)
    with routed(shared.model, [None] * 4, torch.float32):
        assert torch.equal(logits(shared, BATCH), base)


def test_the_active_adapter_rests_within_the_block_and_is_back_after_it(shared: LoadedModel) -> None:
    activate(shared.model, "a")
    before = logits(shared, BATCH)
    with pytest.raises(ZeroDivisionError), routed(shared.model, [None] * 4, torch.float32):
        assert not torch.equal(logits(shared, BATCH), before)
        raise ZeroDivisionError
    assert torch.equal(logits(shared, BATCH), before)


def test_a_key_that_is_not_loaded_is_refused_and_not_answered_by_the_base(shared: LoadedModel) -> None:
    with pytest.raises(AdapterError, match="No adapter zebra"), routed(shared.model, ["a", "zebra"], torch.float32):
        pass
    assert all(layer.rows is None for layer in lora_layers(shared.model).values())


def test_rows_that_come_in_one_heap_are_told_apart_by_their_order(shared: LoadedModel) -> None:
    layer = lora_layers(shared.model)["model.layers.0.mlp.up_proj"]
    x = torch.randn(4, 19, 64)
    with routed(shared.model, ROUTES, torch.float32):
        assert torch.equal(layer(x.view(4 * 19, 64)), layer(x).view(4 * 19, -1))


def test_a_heap_that_is_not_so_many_equal_rows_is_refused_and_not_routed_wrongly(shared: LoadedModel) -> None:
    layer = lora_layers(shared.model)["model.layers.0.mlp.up_proj"]
    with routed(shared.model, ROUTES, torch.float32), pytest.raises(AdapterError, match="side by side"):
        layer(torch.randn(4 * 19 + 1, 64))
