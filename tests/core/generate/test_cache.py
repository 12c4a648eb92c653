from __future__ import annotations

import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import DynamicCache, LlamaConfig
from transformers.cache_utils import DynamicLayer

from core.generate.cache import (
    ROOM_AHEAD,
    GrowingLayer,
    KeptRow,
    KeptRows,
    Owner,
    begun_with,
    can_be_kept,
    growing_cache,
)
from tests.core.parity.architectures import build

HEADS, SIZE = 2, 4


def states(columns: int, seed: int, rows: int = 2) -> Tensor:
    return torch.randn(rows, HEADS, columns, SIZE, generator=torch.Generator().manual_seed(seed))


@given(st.lists(st.integers(1, ROOM_AHEAD), min_size=1, max_size=6))
def test_a_growing_layer_holds_what_transformers_own_holds(parts: list[int]) -> None:
    ours, theirs = GrowingLayer(), DynamicLayer()
    for seed, columns in enumerate(parts):
        keys, values = states(columns, seed), states(columns, seed + 100)
        for found, expected in zip(ours.update(keys, values), theirs.update(keys, values), strict=True):
            assert torch.equal(found, expected)
        assert ours.get_seq_length() == theirs.get_seq_length() == sum(parts[: seed + 1])


def test_a_new_column_goes_into_the_room_ahead_and_moves_nothing() -> None:
    layer = GrowingLayer()
    layer.update(states(7, 0), states(7, 1))
    place = layer.keys.data_ptr()
    for seed in range(ROOM_AHEAD):
        layer.update(states(1, seed), states(1, seed))
    assert layer.keys.data_ptr() == place
    layer.update(states(1, 0), states(1, 0))
    assert layer.keys.data_ptr() != place and layer.get_seq_length() == 7 + ROOM_AHEAD + 1


def test_a_layer_whose_rows_were_put_in_another_order_or_cut_goes_on_from_there() -> None:
    ours, theirs = GrowingLayer(), DynamicLayer()
    for layer in (ours, theirs):
        layer.update(states(5, 0), states(5, 1))
        layer.reorder_cache(torch.tensor([1, 1]))
        layer.update(states(2, 2), states(2, 3))
        layer.crop(-3)
        layer.update(states(1, 4), states(1, 5))
    assert torch.equal(ours.keys, theirs.keys) and torch.equal(ours.values, theirs.values)


def row(columns: int, seed: int = 0, layers: int = 2) -> DynamicCache:
    cache = DynamicCache()
    cache.layers = [GrowingLayer() for _ in range(layers)]
    for at, layer in enumerate(cache.layers):
        layer.update(states(columns, seed + at, 1), states(columns, seed + at + 50, 1))
    return cache


ROW_BYTES = 2 * 2 * HEADS * SIZE * 4  # a token's, in two layers


def keep(kept: KeptRows, tokens: tuple[int, ...], owner: Owner = ()) -> None:
    kept.add(owner, tokens, row(len(tokens) + 1))


def test_the_row_that_shares_most_with_a_prompt_is_found() -> None:
    kept = KeptRows(2**20)
    for tokens in ((1, 2, 3, 9), (1, 2, 3, 4, 9), (1, 2), (7, 8)):
        keep(kept, tokens)
    row, shared = kept.longest((), (1, 2, 3, 4, 5, 6))
    assert row is not None and row.tokens == (1, 2, 3, 4, 9) and shared == 4
    assert kept.longest((), (5, 1, 2, 3)) == (None, 0)


def test_one_token_of_a_prompt_is_always_left_to_compute() -> None:
    kept = KeptRows(2**20)
    keep(kept, (1, 2, 3))
    assert kept.longest((), (1, 2, 3))[1] == 2
    assert kept.longest((), (1, 2))[1] == 1
    assert kept.longest((), (1,)) == (None, 0)


def test_a_row_of_another_adapter_is_of_no_use() -> None:
    one, other, kept = nn.Linear(1, 1), nn.Linear(1, 1), KeptRows(2**20)
    keep(kept, (1, 2, 3), (weakref.ref(one),))
    assert kept.longest((weakref.ref(one),), (1, 2, 3, 4))[1] == 3
    assert kept.longest((weakref.ref(other),), (1, 2, 3, 4)) == (None, 0)
    assert kept.longest((), (1, 2, 3, 4)) == (None, 0)


def test_a_row_takes_the_place_of_those_that_it_continues_and_of_no_others() -> None:
    kept = KeptRows(2**20)
    for tokens in ((1, 2), (1, 3), (1, 2, 3)):
        keep(kept, tokens)
    assert kept.bytes == (2 + 3) * ROW_BYTES
    assert kept.longest((), (1, 3, 4))[1] == 2


def test_rows_take_at_most_so_many_bytes_and_those_used_last_stay() -> None:
    kept = KeptRows(9 * ROW_BYTES)
    keep(kept, (1, 1, 1, 1))
    keep(kept, (2, 2, 2, 2))
    kept.longest((), (1, 1, 1, 1, 1))  # used again
    keep(kept, (3, 3, 3, 3))
    assert kept.bytes == 8 * ROW_BYTES
    assert kept.longest((), (2, 2, 2)) == (None, 0)
    assert kept.longest((), (1, 1, 1))[1] == kept.longest((), (3, 3, 3))[1] == 2


def test_a_row_larger_than_all_that_may_be_kept_is_not_kept_and_costs_no_other_its_place() -> None:
    kept = KeptRows(4 * ROW_BYTES)
    keep(kept, (1, 2, 3))
    keep(kept, (4,) * 5)
    assert kept.longest((), (1, 2, 3))[1] == 2 and kept.bytes == 3 * ROW_BYTES


def test_what_is_kept_is_a_copy_of_the_columns_of_its_tokens() -> None:
    kept, cache = KeptRows(2**20), row(6)
    kept.add((), (5, 6, 7), cache)
    expected = [layer.keys[0, :, :3].clone() for layer in cache.layers]
    for layer in cache.layers:
        layer.keys.zero_()
    found, _ = kept.longest((), (5, 6, 7, 8))
    assert found is not None
    for (keys, _), wanted in zip(found.layers, expected, strict=True):
        assert torch.equal(keys, wanted) and keys.untyped_storage().nbytes() == keys.nbytes


def test_a_row_begins_with_as_much_of_what_is_kept_as_is_asked_for() -> None:
    found = KeptRow((), (1, 2, 3), tuple((states(3, at)[0], states(3, at + 9)[0]) for at in range(2)))
    config = build("llama").config
    cache = begun_with(config, found, 2)
    for layer, (keys, values) in zip(cache.layers, found.layers, strict=True):
        assert torch.equal(layer.keys[0], keys[:, :2]) and torch.equal(layer.values[0], values[:, :2])
    for empty in (begun_with(config, found, 0), begun_with(config, None, 0)):
        assert empty.get_seq_length() == 0


def test_attention_over_single_keys_can_be_kept_and_positions_that_turn_with_the_length_cannot() -> None:
    for architecture in ("llama", "gpt2", "mixtral", "gemma3_text"):
        assert can_be_kept(build(architecture).config), architecture
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    assert not can_be_kept(LlamaConfig(num_hidden_layers=2, rope_parameters=dynamic))


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text"])
def test_layers_that_let_keys_go_are_left_to_transformers(architecture: str) -> None:
    config = build(architecture).config
    for ours, theirs in zip(growing_cache(config).layers, DynamicCache(config=config).layers, strict=True):
        assert type(ours) is (GrowingLayer if type(theirs) is DynamicLayer else type(theirs))
