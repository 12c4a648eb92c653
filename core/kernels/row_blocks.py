"""Rows of different lengths, laid out so that few large products compute their attention.

Each row's queries are cut into blocks of `BLOCK` tokens. The j-th block of a row sees `past` + (j + 1) · BLOCK keys at
most: those before the row (what it shares with others) and its own up to the block's end. So the j-th blocks of all
rows that have one are multiplied at once, and rows that have more blocks come first: they are the first n_j of them.

    blocks, one group behind the other          keys, a row each

      j = 0   row a │ row b │ row c               a   past │ 0 … BLOCK │ … 2 BLOCK │ … 3 BLOCK
      j = 1   row a │ row b                       b   past │ 0 … BLOCK │ … 2 BLOCK │
      j = 2   row a                               c   past │ 0 … BLOCK │           │

What a row lacks to a whole block, and keys to the longest row, are filled with copies of some token: a row that is much
longer than the others, or a long shared beginning, costs copies for each of them. A filled key lies to the right of all
true queries, so a causal mask hides it; what a filled query attends to is dropped, and its gradient is 0.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 64


@dataclass(frozen=True, slots=True)
class Group:
    """The j-th blocks of the rows that have one: which `blocks` they are, of how many `rows`, and the keys they see."""

    blocks: slice
    rows: int
    keys: slice


@dataclass(frozen=True, slots=True, eq=False)
class RowBlocks:
    """Where the tokens of rows lie as blocks and as keys.

    Attributes:
        query_places: `[T]`, the place of each token among all queries of all blocks.
        query_tokens: the other way around, `[blocks · BLOCK]`; a token's number stands in its place and in filled ones.
        filled: the places of queries that are no token's.
        key_places: `[T]`, the place of each token among all keys of all rows.
        key_tokens: the other way around, `[rows · width]`.
        counts: n_j, of how many rows there is a j-th block.
        past: keys before each row.
    """

    query_places: Tensor
    query_tokens: Tensor
    filled: Tensor
    key_places: Tensor
    key_tokens: Tensor
    counts: tuple[int, ...]
    past: int

    def groups(self, window: int | None) -> Iterator[Group]:
        """All blocks; with a window, keys that no query of a block can see are left out."""
        first = 0
        for number, count in enumerate(self.counts):
            end = self.past + (number + 1) * BLOCK
            left = 0 if window is None else max(0, end - BLOCK - window + 1)
            yield Group(slice(first, first + count), count, slice(left, end))
            first += count

    def blocks(self, tokens: Tensor, kv_heads: int, *, is_gradient: bool = False) -> Tensor:
        """`[T, heads, head_dim]` as `[blocks, kv_heads, BLOCK · group, head_dim]`: heads that share a key are rows."""
        flat = tokens.index_select(0, self.query_tokens)
        if is_gradient:
            flat.index_fill_(0, self.filled, 0)
        by_head = flat.view(-1, BLOCK, kv_heads, tokens.shape[1] // kv_heads, tokens.shape[2]).transpose(1, 2)
        return by_head.contiguous().flatten(2, 3)

    def tokens(self, blocks: Tensor, heads: int) -> Tensor:
        """`blocks`, undone: `[T, heads, head_dim]`."""
        count, kv_heads, rows, head_dim = blocks.shape
        by_token = blocks.view(count, kv_heads, BLOCK, rows // BLOCK, head_dim).transpose(1, 2)
        return by_token.reshape(-1, heads, head_dim).index_select(0, self.query_places)

    def keys(self, own: Tensor, past: Tensor) -> Tensor:
        """`[T, kv_heads, head_dim]` and what lies before each row, `[past, kv_heads, head_dim]`, as
        `[rows, kv_heads, past + counted, head_dim]`.
        """
        flat = own.index_select(0, self.key_tokens)
        rows = flat.view(self.counts[0], self._width, *own.shape[1:])
        rows[:, : self.past] = past
        return rows.transpose(1, 2).contiguous()

    def unkeyed(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """`keys`, transposed: gradients of the own and of the past ones; the latter add up over rows, in fp32."""
        own = rows.transpose(1, 2).flatten(0, 1).index_select(0, self.key_places)
        wide = torch.promote_types(rows.dtype, torch.float32)
        return own, rows[:, :, : self.past].sum(0, dtype=wide).transpose(0, 1)

    @property
    def _width(self) -> int:
        return self.past + len(self.counts) * BLOCK


@functools.lru_cache(maxsize=8)
def row_blocks(lengths: Sequence[int], past: int) -> RowBlocks:
    """The blocks of rows of `lengths` tokens that lie one behind the other; the layers of a model ask for the same."""
    needed = [-(-length // BLOCK) for length in lengths]
    counts = tuple(sum(blocks > number for blocks in needed) for number in range(max(needed)))
    firsts = [sum(counts[:number]) for number in range(len(counts))]
    ranks = {row: rank for rank, row in enumerate(sorted(range(len(lengths)), key=lambda row: -needed[row]))}
    width = past + len(counts) * BLOCK
    at = [torch.arange(length) for length in lengths]
    first = torch.tensor(firsts)
    queries = [(first[t // BLOCK] + ranks[row]) * BLOCK + t % BLOCK for row, t in enumerate(at)]
    keys = [ranks[row] * width + past + t for row, t in enumerate(at)]
    query_places, key_places = torch.cat(queries), torch.cat(keys)
    query_tokens, filled = _inverse(query_places, sum(counts) * BLOCK)
    key_tokens, _ = _inverse(key_places, counts[0] * width)
    return RowBlocks(query_places, query_tokens, filled, key_places, key_tokens, counts, past)


def _inverse(places: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Which token lies in each of `count` places, the first one in those that are left over; and those."""
    tokens = torch.full((count,), -1)
    tokens[places] = torch.arange(len(places))
    filled = (tokens < 0).nonzero()[:, 0]
    return tokens.clamp_(min=0), filled
