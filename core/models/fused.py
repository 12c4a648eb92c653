"""Which output features of a fused projection are its parts: one matrix that computes q, k and v, or gate and up.

Some models lay the parts one behind the other, others interleave them head by head, so a part is a list of features.
The layouts are those that the models' own code in transformers splits by.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

QKV = ("q", "k", "v")


def fused_parts(config: Any, name: str, out_features: int) -> dict[str, Tensor]:
    """The parts of the layer `name` (its dotted name) by their names, each an int64 list of output features.

    Args:
        config: the model's config in transformers' form.

    Returns:
        Nothing where the layer is not a fused one that we know.
    """
    config = config.get_text_config()
    find = _LAYOUTS.get((config.model_type, name.rpartition(".")[2]))
    if find is None:
        return {}
    parts = find(config, torch.arange(out_features))
    return {part: rows for part, rows in parts.items() if rows.numel()}


def _head_size(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _behind_each_other(config: Any, rows: Tensor) -> dict[str, Tensor]:
    size = _head_size(config)
    shared = (getattr(config, "num_key_value_heads", None) or config.num_attention_heads) * size
    split = torch.split(rows, [config.num_attention_heads * size, shared, shared])
    return dict(zip(QKV, split, strict=True))


def _thirds(config: Any, rows: Tensor) -> dict[str, Tensor]:
    return dict(zip(QKV, rows.chunk(3), strict=True))


def _head_by_head(config: Any, rows: Tensor) -> dict[str, Tensor]:
    heads = rows.view(config.num_attention_heads, 3, -1)  # [heads, q k v, size]
    return {part: heads[:, at].flatten() for at, part in enumerate(QKV)}


def _falcon(config: Any, rows: Tensor) -> dict[str, Tensor]:
    size = _head_size(config)
    if config.new_decoder_architecture:
        groups = rows.view(config.num_kv_heads, -1, size)  # [groups, q … q k v, size]
        return {"q": groups[:, :-2].flatten(), "k": groups[:, -2].flatten(), "v": groups[:, -1].flatten()}
    if config.multi_query:
        return dict(zip(QKV, torch.split(rows, [config.num_attention_heads * size, size, size]), strict=True))
    return _head_by_head(config, rows)


def _halves(config: Any, rows: Tensor) -> dict[str, Tensor]:
    return dict(zip(("gate", "up"), rows.chunk(2), strict=True))


_LAYOUTS: dict[tuple[str, str], Callable[[Any, Tensor], dict[str, Tensor]]] = {
    ("phi3", "qkv_proj"): _behind_each_other,
    ("phi3", "gate_up_proj"): _halves,
    ("gpt2", "c_attn"): _thirds,
    ("gpt_neox", "query_key_value"): _head_by_head,
    ("bloom", "query_key_value"): _head_by_head,
    ("falcon", "query_key_value"): _falcon,
    ("mpt", "Wqkv"): _thirds,
}
