"""Causal attention over rows that lie one behind the other in a single sequence, without padding.

A packed batch is `[1, T]` tokens made of rows (segments) with the boundaries `cu_seq_lens` = [0, n₁, n₁+n₂, …, T].
A dense block-diagonal mask would cost T² work and memory; here each segment gets a causal attention of its own, so the
cost is Σ nᵢ². A row sees exactly the keys that it would see alone.

Rows that begin with the same tokens can share them. A causal model gives a token the same hidden state whatever
follows it, so the common beginning is laid out once, as the first segment, and every other segment sees its keys and
values in front of its own (`shared_tokens` = n₁). The gradients of those keys and values add up over the segments. It
is exact as long as no token of the beginning has a label, which whoever packs the batch sees to.

On a CPU queries are taken in blocks; keys to the right of a block are not read at all. All is small matrix products,
which a CPU is best at: torch's fused kernel takes half as long again forward and three to five times as long backward
in bf16. Forward it is used all the same in fp32, where it is the quicker one. The probabilities are computed again in
the backward pass rather than kept. With Q, K, V and dO = ∂L/∂O of one block and one group of heads (all heads that
share a key are rows of one product):

    P  = softmax(s · Q Kᵀ + mask)         O = P V
    dV = Pᵀ dO                            dP = dO Vᵀ              dS = P ⊙ (dP − Σ_keys P ⊙ dP)
    dQ = s · dS K                         dK = s · dSᵀ Q

Scores and their softmax are in fp32, whatever the rest is kept in; P is rounded once.

On a GPU it is torch's attention, segment by segment, with its own backward pass.

`register` adds it to transformers' attention registry under `NAME`, where every architecture that uses the registry
finds it; no model's code is rewritten. A registered attention that has no mask function gets no mask from
transformers (masking_utils, `_preprocess_mask_arguments`), which is what is wanted.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "packed_rows"
# What other attention functions know and we must not ignore: capped scores, attention sinks, relative bias.
SCORE_CHANGES = ("softcap", "s_aux", "position_bias")
BLOCK = 128  # queries at once: enough for quick products, few enough to leave most keys to the right of a block out


def register() -> None:
    """Make `attn_implementation=NAME` known to transformers; calling it again changes nothing."""
    AttentionInterface.register(NAME, packed_attention)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor,
    shared_tokens: int = 0,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention inside each segment.

    Args:
        query: `[1, heads, T, head_dim]`; key and value: `[1, kv_heads, T, head_dim]`.
        cu_seq_lens_q: `[segments + 1]` integers, the segments' boundaries.
        shared_tokens: how many tokens the first segment has if all others go on from it, else 0.
        sliding_window: a token sees itself and so many tokens less one before it, where given.

    Returns:
        `[1, T, heads, head_dim]` and None (no attention weights).

    Raises:
        NotImplementedError: the model asks for something that would change the scores.
    """
    unknown = [name for name in SCORE_CHANGES if others.get(name) is not None] + ["dropout"] * bool(dropout)
    if unknown:
        raise NotImplementedError(f"packed attention has no {unknown[0]}")
    layout = _Layout(
        bounds=tuple(cu_seq_lens_q.tolist()),
        shared=shared_tokens,
        window=sliding_window,
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
    )
    query, key = query.to(value.dtype), key.to(value.dtype)  # under autocast, rotated ones come in fp32
    if query.device.type == "cpu":
        out: Tensor = _PackedAttention.apply(query, key, value, layout)  # type: ignore[no-untyped-call]
    else:
        out = torch.cat([_attend(query, key, value, block, layout) for block in layout.blocks(None)], dim=2)
    return out.transpose(1, 2).contiguous(), None


@dataclass(frozen=True, slots=True)
class _Block:
    """Queries `[start, end)` of a segment that begins at `first`; they see the shared tokens and `[first, end)`."""

    first: int
    start: int
    end: int
    shared: int

    @property
    def queries(self) -> slice:
        return slice(self.start, self.end)

    @property
    def size(self) -> int:
        return self.end - self.start

    @property
    def keys(self) -> int:
        return self.shared + self.end - self.first

    def seen(self, tokens: Tensor) -> Tensor:
        """Those of `tokens` `[..., T, head_dim]` that are keys of this block, `[..., keys, head_dim]`."""
        own = tokens[..., self.first : self.end, :]
        return torch.cat([tokens[..., : self.shared, :], own], dim=-2) if self.shared else own

    def rows(self, tokens: Tensor, kv_heads: int) -> Tensor:
        """Those of `tokens` `[heads, T, …]` that are queries of this block, `[kv_heads, group · queries, …]`."""
        return tokens[:, self.queries].reshape(kv_heads, -1, tokens.shape[-1])

    def add_seen(self, total: Tensor, shared: Tensor, change: Tensor) -> None:
        """Add `change` `[..., keys, head_dim]` to what `seen` took it from; `shared` gets the shared tokens' part."""
        if self.shared:
            shared += change[..., : self.shared, :].to(shared.dtype)
        total[..., self.first : self.end, :] += change[..., self.shared :, :]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    bounds: tuple[int, ...]
    shared: int
    window: int | None
    scale: float

    def blocks(self, size: int | None = BLOCK) -> Iterator[_Block]:
        """All queries in blocks of at most `size`, each within one segment; None: a segment is a block."""
        for number, (first, end) in enumerate(zip(self.bounds, self.bounds[1:], strict=False)):
            shared = self.shared if number else 0
            for start in range(first, end, size or max(1, end - first)):
                yield _Block(first, start, min(end, start + (size or end)), shared)


class _PackedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: _Layout) -> Tensor:
        batch, heads, tokens, _ = query.shape
        out = query.new_empty(batch, tokens, heads, value.shape[3]).transpose(1, 2)
        scores = _Scores(query[0], key[0], layout)
        for block in layout.blocks():
            if query.dtype.itemsize > 2:
                out[:, :, block.queries] = _attend(query, key, value, block, layout)
            else:
                p, values = scores.probabilities(block), block.seen(value[0])
                out[0, :, block.queries] = torch.bmm(p, values).view(heads, block.size, -1)
        ctx.save_for_backward(query, key, value)
        ctx.layout = layout
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value = (tensor[0] for tensor in ctx.saved_tensors)
        layout: _Layout = ctx.layout
        dout = grads[0][0]
        dquery, dkey, dvalue = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        wide = torch.promote_types(key.dtype, torch.float32)  # for what many segments add to
        dkey_shared, dvalue_shared = (torch.zeros_like(t[:, : layout.shared], dtype=wide) for t in (dkey, dvalue))
        scores = _Scores(query, key, layout)
        for block in layout.blocks():
            dq, dk, dv = _gradients(query, key, value, dout, block, scores)
            dquery[:, block.queries] = dq
            block.add_seen(dkey, dkey_shared, dk)
            block.add_seen(dvalue, dvalue_shared, dv)
        dkey[:, : layout.shared] += dkey_shared.to(key.dtype)
        dvalue[:, : layout.shared] += dvalue_shared.to(value.dtype)
        return dquery[None], dkey[None], dvalue[None], None


class _Scores:
    """What all blocks of `query` `[heads, T, head_dim]` and `key` `[kv_heads, T, head_dim]` need for their P."""

    def __init__(self, query: Tensor, key: Tensor, layout: _Layout) -> None:
        self.layout, self._dtype = layout, query.dtype
        wide = torch.promote_types(query.dtype, torch.float32)
        self._query, self._key = query.to(wide), key.to(wide)

    def probabilities(self, block: _Block) -> Tensor:
        """`[kv_heads, group · queries, keys]` in the dtype of the queries."""
        keys = block.seen(self._key)
        mask = _mask(block, self.layout.window, keys.dtype, keys.device).repeat(len(self._query) // len(keys), 1)
        rows = block.rows(self._query, len(keys))
        scores = torch.baddbmm(mask, rows, keys.transpose(1, 2), alpha=self.layout.scale)
        return torch.softmax(scores, dim=-1).to(self._dtype)


def _gradients(
    query: Tensor, key: Tensor, value: Tensor, dout: Tensor, block: _Block, scores: _Scores
) -> tuple[Tensor, Tensor, Tensor]:
    """dQ `[heads, queries, head_dim]`, dK and dV `[kv_heads, keys, head_dim]` of one block, as written above."""
    keys, values, scale = block.seen(key), block.seen(value), scores.layout.scale
    rows, drows = block.rows(query, len(keys)), block.rows(dout, len(keys))
    p = scores.probabilities(block)
    dv = torch.bmm(p.transpose(1, 2), drows)
    dp = torch.bmm(drows, values.transpose(1, 2))
    ds = torch._softmax_backward_data(dp, p, -1, dp.dtype)
    dq = torch.bmm(ds, keys).mul_(scale).view(len(query), block.size, -1)
    return dq, torch.bmm(ds.transpose(1, 2), rows).mul_(scale), dv


def _attend(query: Tensor, key: Tensor, value: Tensor, block: _Block, layout: _Layout) -> Tensor:
    """`[1, heads, queries, head_dim]`, by torch's own attention."""
    q, k, v = query[:, :, block.queries], block.seen(key), block.seen(value)
    is_plain = block.size == block.keys and layout.window is None
    mask = None if is_plain else _mask(block, layout.window, query.dtype, query.device)
    grouped = query.shape[1] != key.shape[1]
    return scaled_dot_product_attention(q, k, v, mask, is_causal=is_plain, scale=layout.scale, enable_gqa=grouped)


def _mask(block: _Block, window: int | None, dtype: torch.dtype, device: torch.device) -> Tensor:
    """`[queries, keys]`: 0 where a query of `block` sees a key, else −∞; a view."""
    rows, columns = (-(-size // 512) * 512 if size > BLOCK else BLOCK for size in (block.size, block.keys))
    whole = _corner(rows, max(columns, rows), window, dtype, device)
    return whole[whole.shape[0] - block.size :, whole.shape[1] - block.keys :]


@functools.lru_cache(maxsize=16)
def _corner(rows: int, columns: int, window: int | None, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The lower right corner of a causal mask without end: what smaller blocks see lies in its own corner."""
    query = torch.arange(rows, device=device)[:, None] + columns - rows
    distance = query - torch.arange(columns, device=device)
    hidden = (distance < 0) | (distance >= (window or columns + rows))
    return torch.zeros(rows, columns, dtype=dtype, device=device).masked_fill_(hidden, float("-inf"))
