from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from core.kernels.row_blocks import BLOCK, row_blocks

rows_of = st.lists(st.integers(1, 3 * BLOCK), min_size=1, max_size=6)


def numbers(tokens: int, heads: int) -> Tensor:
    """`[tokens, heads, 2]`, no number twice and none 0."""
    return torch.arange(1.0, tokens * heads * 2 + 1, dtype=torch.float64).view(tokens, heads, 2)


@given(lengths=rows_of, kv_heads=st.integers(1, 3), group=st.integers(1, 3))
def test_every_token_lies_in_one_block_and_comes_back(lengths: list[int], kv_heads: int, group: int) -> None:
    layout, tokens = row_blocks(tuple(lengths), 0), numbers(sum(lengths), kv_heads * group)
    blocks, gradients = (layout.blocks(tokens, kv_heads, is_gradient=which) for which in (False, True))
    assert blocks.shape[1:] == (kv_heads, BLOCK * group, 2)
    assert gradients.sum() == tokens.sum() and (gradients != 0).sum() == tokens.numel()
    assert torch.equal(torch.where(gradients != 0, blocks, 0), gradients)
    assert torch.equal(layout.tokens(blocks, kv_heads * group), tokens)


@given(lengths=rows_of, past=st.integers(0, 5), window=st.none() | st.integers(1, 2 * BLOCK))
def test_a_block_holds_one_row_s_queries_beside_that_row_s_keys(
    lengths: list[int], past: int, window: int | None
) -> None:
    layout, tokens = row_blocks(tuple(lengths), past), numbers(sum(lengths), 1)
    before = -numbers(past, 1)
    queries, keys = layout.blocks(tokens, 1, is_gradient=True)[:, 0], layout.keys(tokens, before)[:, 0]
    row_at = dict(zip(tokens[:, 0, 0].tolist(), (row for row, n in enumerate(lengths) for _ in range(n)), strict=True))
    place = dict(zip(tokens[:, 0, 0].tolist(), (at for n in lengths for at in range(n)), strict=True))
    seen = 0
    for group in layout.groups(window):
        for block, own in zip(queries[group.blocks], keys[: group.rows, group.keys], strict=True):
            first = float(block[0, 0])
            wanted = [*before.tolist(), *tokens[[row == row_at[first] for row in row_at.values()]].tolist()]
            end = past + int(place[first]) + BLOCK
            start = 0 if window is None else max(0, past + int(place[first]) - window + 1)
            assert own[: len(wanted[start:end])].tolist() == [pair for [pair] in wanted[start:end]]
            seen += int((block[:, 0] != 0).sum())
    assert seen == sum(lengths)


@pytest.mark.parametrize("past", [0, 4])
def test_gradients_go_back_to_where_the_keys_came_from(past: int) -> None:
    """⟨keys(x), y⟩ = ⟨x, unkeyed(y)⟩ for every y that is 0 where no key is: one is the other's transpose."""
    layout = row_blocks((BLOCK + 3, 7, 1), past)
    own, before = torch.randn(BLOCK + 11, 2, 3).double(), torch.randn(past, 2, 3).double()
    laid = layout.keys(own, before)
    is_key = torch.zeros(laid.shape[0] * laid.shape[2]).index_fill_(0, layout.key_places, 1).view(laid.shape[0], -1)
    is_key[:, :past] = 1
    y = torch.randn_like(laid) * is_key[:, None, :, None]
    down, down_before = layout.unkeyed(y)
    assert torch.allclose((laid * y).sum(), (own * down).sum() + (before * down_before).sum())


def test_what_many_rows_saw_adds_up_in_fp32() -> None:
    layout = row_blocks((1,) * 300, 1)
    _, before = layout.unkeyed(torch.ones(300, 1, 1 + BLOCK, 1, dtype=torch.bfloat16))
    assert before.dtype == torch.float32 and before.item() == 300  # in bf16 the sum stops at 256
