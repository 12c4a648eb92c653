"""Rows with caches of their own that take a step together: products over all of them, attention for each.

A step with one new token a row is bound by reading the base's weights, which serve all rows at once. Not so its keys
and values: they are each row's own. So a joined step gives a row's new column to the row's own cache, and its query to
its own keys. No row is padded to another's length, rows may come and go between any two steps, and the sums over a
row's keys are formed in the same order whoever is beside it.

transformers' models know nothing of this. They hand new keys and values to a cache, and what that gives back to an
attention function (`core.generate.attention`), together with what else was handed to the model: there it finds the
rows by the number of its layer. `rows_together` tries out whether a model does so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

from core.generate.cache import Pair

CHANGES_SCORES = ("softcap", "s_aux", "position_bias")


class JoinedLayer(DynamicLayer):  # type: ignore[misc]
    """One layer of several rows; `pairs` is what each row's own gave back at the step under way."""

    def __init__(self, layers: Sequence[Any]) -> None:
        super().__init__()
        self._layers = layers
        self.is_sliding = layers[0].is_sliding
        self.pairs: list[Pair] = []

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Pair:
        """Give each row its new column `[1, heads, 1, size]`; what is returned is the new columns alone."""
        self.pairs = [
            layer.update(key_states[row : row + 1], value_states[row : row + 1], *args, **kwargs)
            for row, layer in enumerate(self._layers)
        ]
        return key_states, value_states

    def get_seq_length(self) -> int:
        """The longest row's."""
        return max(int(layer.get_seq_length()) for layer in self._layers)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """As if there were no other columns; a row sees all of its own."""
        return query_length, 0


class JoinedCache(Cache):  # type: ignore[misc]
    """What a model takes for the cache of all `caches`, each of one row."""

    def __init__(self, caches: Sequence[DynamicCache]) -> None:
        super().__init__(layers=[JoinedLayer(layers) for layers in zip(*(c.layers for c in caches), strict=True)])


def attend_by_row(
    query: Tensor, pairs: Sequence[Pair], *, scaling: float | None = None, dropout: float = 0.0, **others: Any
) -> Tensor:
    """Attention of each row's one query to its own keys.

    Args:
        query: `[rows, heads, 1, size]`. pairs: keys and values `[1, key heads, columns, size]` of the first rows; rows
            beyond these only fill up, and get zeros.

    Returns:
        `[rows, 1, heads, size]`.

    Raises:
        NotImplementedError: the model asks for something that would change the scores.
    """
    unknown = [name for name in CHANGES_SCORES if others.get(name) is not None] + ["dropout"] * bool(dropout)
    if unknown:
        raise NotImplementedError(f"Attention row by row has no {unknown[0]}")
    heads, size = query.shape[1], pairs[0][1].shape[3]
    out = query.new_zeros(query.shape[0], 1, heads, size)
    for row, (keys, values) in enumerate(pairs):
        grouped = query[row].view(1, keys.shape[1], -1, query.shape[3])  # queries that share a key, as its tokens
        out[row] = scaled_dot_product_attention(grouped, keys, values, scale=scaling).view(1, heads, size)
    return out


def fill(tensor: Tensor, rows: int) -> Tensor:
    """`tensor` with zeros behind it, so that its first dimension is `rows`."""
    missing = rows - tensor.shape[0]
    return tensor if missing <= 0 else torch.cat([tensor, tensor.new_zeros(missing, *tensor.shape[1:])])
