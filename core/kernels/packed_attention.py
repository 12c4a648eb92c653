"""Causal attention over rows that lie one behind the other in a single sequence, without padding.

A packed batch is `[1, T]` tokens made of rows (segments) with the boundaries `cu_seq_lens` = [0, n₁, n₁+n₂, …, T].
A dense block-diagonal mask would cost T² work and memory; here each segment gets a causal attention of its own, so the
cost is Σ nᵢ². A row sees exactly the keys that it would see alone.

Rows that begin with the same tokens can share them. A causal model gives a token the same hidden state whatever
follows it, so the common beginning is laid out once, as the first segment, and every other segment sees its keys and
values in front of its own (`shared_tokens` = n₁). The gradients of those keys and values add up over the segments. It
is exact as long as no token of the beginning has a label, which whoever packs the batch sees to.

On a CPU queries are taken in blocks; keys to the right of a block, or to the left of its window, are not read at all.
All is matrix products, which a CPU is best at, of many rows' blocks at once (`core.kernels.row_blocks`). Heads that
share a key are rows of one product. Probabilities of blocks that see few keys are kept for the backward pass, which
costs at most a constant a block; others would cost Σ S² of memory and are computed again. With Q, K, V and
dO = ∂L/∂O of one block:

    P  = softmax(s · Q Kᵀ + mask)         O = P V
    dV = Pᵀ dO                            dP = dO Vᵀ              dS = P ⊙ (dP − Σ_keys P ⊙ dP)
    dQ = s · dS K                         dK = s · dSᵀ Q

Scores and their softmax are in fp32, whatever the rest is kept in; P is rounded once. Numbers that came from bf16 may
go back to it inside the product of Q and K: nothing is lost, its sums are in fp32 all the same, and a processor that
multiplies bf16 needs half the time.

On a GPU it is torch's attention, segment by segment, with its own backward pass.

`register` adds it to transformers' attention registry under `NAME`, where every architecture that uses the registry
finds it; no model's code is rewritten. A registered attention that has no mask function gets no mask from
transformers (masking_utils, `_preprocess_mask_arguments`), which is what is wanted.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from core.kernels.row_blocks import BLOCK, Group, RowBlocks, row_blocks

NAME = "packed_rows"
# What other attention functions know and we must not ignore: capped scores, attention sinks, relative bias.
SCORE_CHANGES = ("softcap", "s_aux", "position_bias")
KEPT_KEYS = 256  # to which a block's probabilities are kept: in rows of 200 tokens, 3 % of a step's time
MANY_BLOCKS = 8  # of a row, whose gradients of keys are added up in fp32


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
        out = _segment_by_segment(query, key, value, layout)
    return out, None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    bounds: tuple[int, ...]
    shared: int
    window: int | None
    scale: float

    def parts(self) -> Iterator[tuple[slice, RowBlocks]]:
        """Tokens that see only each other; then, if there are any, those that see what is shared before their own."""
        lengths = tuple(end - first for first, end in pairwise(self.bounds))
        if not self.shared:
            yield slice(0, self.bounds[-1]), row_blocks(lengths, 0)
            return
        yield slice(0, self.shared), row_blocks(lengths[:1], 0)
        if len(lengths) > 1:
            yield slice(self.shared, self.bounds[-1]), row_blocks(lengths[1:], self.shared)


class _PackedAttention(torch.autograd.Function):
    """From Q, K and V to `[1, T, heads, head_dim]`, on a CPU."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: _Layout) -> Tensor:
        query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
        out = query.new_empty(*query.shape[:2], value.shape[2])
        kept: list[Tensor] = []
        for tokens, rows in layout.parts():
            part = _Part(query[tokens], key, value, tokens, rows, layout)
            out[tokens] = rows.tokens(part.attended(kept), query.shape[1])
        ctx.save_for_backward(query, key, value, *kept)
        ctx.layout = layout
        return out[None]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, *kept = ctx.saved_tensors
        layout: _Layout = ctx.layout
        probabilities = iter(kept)
        dquery, dkey, dvalue = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        for tokens, rows in layout.parts():
            part = _Part(query[tokens], key, value, tokens, rows, layout)
            dq, dk, dv = part.gradients(rows.blocks(grads[0][0, tokens], key.shape[1], is_gradient=True), probabilities)
            dquery[tokens] = rows.tokens(dq, query.shape[1])
            for total, change in ((dkey, dk), (dvalue, dv)):
                own, past = rows.unkeyed(change)
                total[tokens] = own
                total[: rows.past] += past
        return dquery.transpose(0, 1)[None], dkey.transpose(0, 1)[None], dvalue.transpose(0, 1)[None], None


class _Part:
    """Tokens of `rows` and all that they see, laid out in blocks."""

    def __init__(self, query: Tensor, key: Tensor, value: Tensor, tokens: slice, rows: RowBlocks, layout: _Layout):
        self.q = rows.blocks(query, key.shape[1])
        self.k, self.v = (rows.keys(seen[tokens], seen[: rows.past]) for seen in (key, value))
        self.groups = list(rows.groups(layout.window))
        self.window, self.scale = layout.window, layout.scale

    def attended(self, kept: list[Tensor]) -> Tensor:
        """`[blocks, kv_heads, BLOCK · group, head_dim]`; probabilities that `gradients` is to be given go to `kept`."""
        out = self.q.new_empty(*self.q.shape[:3], self.v.shape[3])
        for group in self.groups:
            p, v = self._probabilities(group), _together(self.v[: group.rows, :, group.keys])
            torch.bmm(p, v, out=_together(out[group.blocks]))
            if _is_kept(group):
                kept.append(p)
        return out

    def gradients(self, dout: Tensor, kept: Iterator[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """∂L of `q`, `k` and `v`, from that of what `attended` returns."""
        wide = torch.promote_types(self.k.dtype, torch.float32 if len(self.groups) > MANY_BLOCKS else self.k.dtype)
        dq, dk, dv = torch.empty_like(self.q), *(torch.zeros_like(seen, dtype=wide) for seen in (self.k, self.v))
        for group in self.groups:
            q, do = _together(self.q[group.blocks]), _together(dout[group.blocks])
            k, v = (_together(seen[: group.rows, :, group.keys]).contiguous() for seen in (self.k, self.v))
            p = next(kept) if _is_kept(group) else self._probabilities(group)
            dp = torch.bmm(do, v.transpose(1, 2))
            ds = torch._softmax_backward_data(dp, p, -1, dp.dtype)
            torch.bmm(ds, k, out=_together(dq[group.blocks]))
            for total, wanted in ((dk, torch.bmm(ds.transpose(1, 2), q)), (dv, torch.bmm(p.transpose(1, 2), do))):
                total[: group.rows, :, group.keys] += wanted.view(group.rows, -1, *wanted.shape[1:])
        return dq.mul_(self.scale), dk.mul_(self.scale), dv

    def _probabilities(self, group: Group) -> Tensor:
        """`[rows · kv_heads, BLOCK · group, keys]` in the dtype of the queries."""
        q, k = _together(self.q[group.blocks]), _together(self.k[: group.rows, :, group.keys])
        wide = torch.promote_types(q.dtype, torch.float32)
        k = k.to(wide, memory_format=torch.contiguous_format)
        scores = q.new_empty(len(q), q.shape[1], k.shape[1], dtype=wide)
        with _products_in_bf16(if_exact_for=q.dtype):
            scores.baddbmm_(q.to(wide), k.transpose(1, 2), beta=0, alpha=self.scale)
        columns = k.shape[1] if self.window else BLOCK  # without a window, all that lies left of the block is seen
        scores[:, :, -columns:] += _mask(BLOCK, columns, q.shape[1] // BLOCK, self.window, wide, q.device)
        return torch.softmax(scores, dim=-1).to(q.dtype)


def _is_kept(group: Group) -> bool:
    seen: int = group.keys.stop - group.keys.start
    return seen <= KEPT_KEYS


def _together(tensor: Tensor) -> Tensor:
    """Rows and heads as one: `[rows · kv_heads, …]`, a view."""
    return tensor.flatten(0, 1)


@contextmanager
def _products_in_bf16(*, if_exact_for: torch.dtype) -> Iterator[None]:
    """Inside, products of fp32 factors may take these as bf16, on processors that multiply it; sums stay in fp32."""
    settings: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = settings.fp32_precision
    if if_exact_for == torch.bfloat16:
        settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before


def _segment_by_segment(query: Tensor, key: Tensor, value: Tensor, layout: _Layout) -> Tensor:
    """`[1, T, heads, head_dim]`, by torch's own attention."""
    is_grouped = query.shape[1] != key.shape[1]
    parts = []
    for first, end in pairwise(layout.bounds):
        past = layout.shared if first else 0
        k, v = (torch.cat([seen[:, :, :past], seen[:, :, first:end]], dim=2) for seen in (key, value))
        is_plain = not past and (layout.window is None or end - first <= layout.window)
        mask = None if is_plain else _new_mask(end - first, k.shape[2], 1, layout.window, query.dtype, query.device)
        q = query[:, :, first:end]
        parts.append(
            scaled_dot_product_attention(q, k, v, mask, is_causal=is_plain, scale=layout.scale, enable_gqa=is_grouped)
        )
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous()


def _new_mask(
    queries: int, keys: int, group: int, window: int | None, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """`[queries · group, keys]`: 0 where a query sees a key, else −∞; the last query sees the last key."""
    query = torch.arange(queries, device=device).repeat_interleave(group)[:, None] + keys - queries
    distance = query - torch.arange(keys, device=device)
    hidden = (distance < 0) | (distance >= (window or keys + 1))
    return torch.zeros(queries * group, keys, dtype=dtype, device=device).masked_fill_(hidden, float("-inf"))


# All layers of a model ask for the same few.
_mask = functools.lru_cache(maxsize=32)(_new_mask)
