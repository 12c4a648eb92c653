"""Keys and values of one conversation, which grows token by token, and what of earlier ones is kept for the next turn.

transformers' cache joins each new token to a copy of all before it: a step then writes the whole cache anew. Here a
layer's keys and values lie in buffers with room ahead, and a new column goes into its place.

Each row of a batch has a cache of its own, as long as its own text: rows come and go without moving each other's, there
is no padding, and a row's keys are summed up in the same order whoever is beside it (`core.generate.joined`).

What can be kept. A row's keys and values depend on its tokens and its blend of adapters, so they serve again for
whatever begins with the same tokens. That holds for attention with one key a token, as long as all keys are there: a
window that slides lets early ones go, and a row that has come so far is not kept. Nor is a recurrent state, nor keys
whose positions turn with the length of what is read (dynamic and longrope): such models compute afresh each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, TypeAlias
from weakref import ReferenceType

from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

ROOM_AHEAD = 256  # columns, at least
_LENGTH_DEPENDENT = ("dynamic", "longrope")

Owner: TypeAlias = tuple[tuple[ReferenceType[nn.Module], float], ...]  # adapters' modules, each with its strength
Pair: TypeAlias = tuple[Tensor, Tensor]  # keys and values


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values, `[rows, heads, columns, size]` each, with room ahead."""

    keys: Tensor
    values: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._buffers: Pair | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Pair:
        """Put new columns behind those that are there; returns views of all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if not self._has_room(end):
            self._buffers = _roomier(self.keys, key_states, end), _roomier(self.values, value_states, end)
        assert self._buffers is not None
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:end] = states
        self.keys, self.values = (buffer[:, :, :end] for buffer in self._buffers)
        return self.keys, self.values

    def _has_room(self, end: int) -> bool:
        """Whether what is there lies in our buffers, not in a copy of another order, and they reach up to `end`."""
        ours = self._buffers
        return ours is not None and ours[0].data_ptr() == self.keys.data_ptr() and ours[0].shape[2] >= end


def _roomier(held: Tensor, new: Tensor, end: int) -> Tensor:
    """A buffer for more than `end` columns that begins with those of `held`, which may have none."""
    rows, heads, _, size = new.shape
    buffer = new.new_empty(rows, heads, end + max(ROOM_AHEAD, end // 4), size)
    if held.numel():
        buffer[:, :, : held.shape[2]] = held
    return buffer


def growing_cache(config: Any) -> DynamicCache:
    """An empty cache for a model of this config; layers that are more than keys and values are transformers' own."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def can_be_kept(config: Any) -> bool:
    """Whether a row's keys and values serve again whatever is computed beside and behind it."""
    settings = getattr(config.get_text_config(decoder=True), "rope_parameters", None)
    is_dynamic = any(f"'{kind}'" in repr(settings) for kind in _LENGTH_DEPENDENT)
    has_keys = (GrowingLayer, DynamicSlidingWindowLayer)
    return not is_dynamic and all(type(layer) in has_keys for layer in growing_cache(config).layers)


@dataclass(frozen=True, slots=True, eq=False)
class KeptRow:
    """What was computed of one conversation: for each layer keys and values `[heads, tokens, size]`."""

    owner: Owner
    tokens: tuple[int, ...]
    layers: tuple[Pair, ...]

    @property
    def bytes(self) -> int:
        """What the keys and values take."""
        return sum(part.nbytes for pair in self.layers for part in pair)

    def shared_with(self, prompt: Sequence[int]) -> int:
        """With how many of its tokens `prompt` begins; one at least is left over, whose logits are to be computed."""
        pairs = zip(self.tokens, prompt[:-1], strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


class KeptRows:
    """Rows that may be needed again, those used last; together they take at most `limit_bytes`."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._rows: list[KeptRow] = []  # those used last at the end

    @property
    def is_off(self) -> bool:
        """Whether none is kept."""
        return self._limit == 0

    @property
    def bytes(self) -> int:
        """What all of them take."""
        return sum(row.bytes for row in self._rows)

    def longest(self, owner: Owner, prompt: Sequence[int]) -> tuple[KeptRow | None, int]:
        """The row of `owner` that shares most with the beginning of `prompt`, if any, and how many tokens that is."""
        shared = [(row.shared_with(prompt), row) for row in self._rows if row.owner == owner]
        most, best = max(shared, key=lambda pair: pair[0], default=(0, None))
        if best is None or most == 0:
            return None, 0
        self._rows.remove(best)
        self._rows.append(best)
        return best, most

    def add(self, owner: Owner, tokens: Sequence[int], cache: DynamicCache) -> None:
        """Keep what lies in `cache` of the row of `owner` that began with `tokens`.

        It takes the place of rows that it continues, and of those that have not been used for longest. Nothing is kept
        where a layer has let keys go, or where the row alone is larger than the limit.
        """
        if not tokens or any(layer.keys.shape[2] < layer.get_seq_length() for layer in cache.layers):
            return
        views = [(layer.keys[0, :, : len(tokens)], layer.values[0, :, : len(tokens)]) for layer in cache.layers]
        if sum(part.nbytes for pair in views for part in pair) > self._limit:
            return
        new = KeptRow(owner, tuple(tokens), tuple((keys.clone(), values.clone()) for keys, values in views))
        self._rows = [old for old in self._rows if old.owner != owner or new.tokens[: len(old.tokens)] != old.tokens]
        self._rows.append(new)
        while self.bytes > self._limit:
            del self._rows[0]


def begun_with(config: Any, kept: KeptRow | None, tokens: int) -> DynamicCache:
    """A growing cache for one row, which holds the first `tokens` of what is `kept`."""
    cache = growing_cache(config)
    for layer, (keys, values) in zip(cache.layers, kept.layers if kept is not None and tokens else (), strict=False):
        layer.update(keys[None, :, :tokens], values[None, :, :tokens])
    return cache
