"""Causal attention over rows that lie one behind the other in a single sequence, without padding.

A packed batch is `[1, T]` tokens made of rows (segments) with the boundaries `cu_seq_lens` = [0, n₁, n₁+n₂, …, T].
A dense block-diagonal mask would cost T² work and memory; here each segment gets a causal attention of its own, so the
cost is Σ nᵢ². A row sees exactly the keys that it would see alone.

`register` adds it to transformers' attention registry under `NAME`, where every architecture that uses the registry
finds it; no model's code is rewritten. A registered attention that has no mask function gets no mask from
transformers (masking_utils, `_preprocess_mask_arguments`), which is what is wanted. On a GPU the same name could
lead to a variable-length kernel; that is not written yet.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "packed_rows"
# What other attention functions know and we must not ignore: capped scores, attention sinks, relative bias.
SCORE_CHANGES = ("softcap", "s_aux", "position_bias")


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
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention inside each segment.

    Args:
        query: `[1, heads, T, head_dim]`; key and value: `[1, kv_heads, T, head_dim]`.
        cu_seq_lens_q: `[segments + 1]` integers, the segments' boundaries.
        sliding_window: a token sees itself and so many tokens less one before it, where given.

    Returns:
        `[1, T, heads, head_dim]` and None (no attention weights).

    Raises:
        NotImplementedError: the model asks for something that would change the scores.
    """
    unknown = [name for name in SCORE_CHANGES if others.get(name) is not None]
    if unknown:
        raise NotImplementedError(f"packed attention has no {unknown[0]}")
    bounds = cu_seq_lens_q.tolist()
    grouped = query.shape[1] != key.shape[1]
    parts = []
    for start, end in zip(bounds, bounds[1:], strict=False):
        q, k, v = query[:, :, start:end], key[:, :, start:end], value[:, :, start:end]
        mask = _window_mask(end - start, sliding_window, query.device)
        parts.append(
            scaled_dot_product_attention(
                q, k, v, mask, dropout, is_causal=mask is None, scale=scaling, enable_gqa=grouped
            )
        )
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


def _window_mask(length: int, window: int | None, device: torch.device) -> Tensor | None:
    if window is None or length <= window:
        return None
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)[None]
    return (distance >= 0) & (distance < window)
