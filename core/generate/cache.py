"""Keys and values of a batch that grows column by column, and of single rows kept for the next turn.

transformers' cache joins each new token to a copy of all before it: a step then writes the whole cache anew. Here a
layer's keys and values lie in buffers with room ahead, and a new column goes into its place.

What can be kept. A row's keys and values depend on its tokens and its blend of adapters, so they serve again for
whatever begins with the same tokens. That holds for attention with one key a token, as long as all keys are there: a
window that slides lets early ones go, and a batch that has come so far is not kept. Nor is a recurrent state, nor keys
whose positions turn with the length of what is read (dynamic and longrope): such models compute afresh each time.

Where the columns lie. Rows of a batch have conversations of different lengths, all padded on the left:

    row 0   [ padding | kept        | new ]
    row 1   [ kept                  | new ]      new: the same number of columns in each row

The row with the most to compute says how many columns are new; a row that has more kept than that leaves gives the rest
away and computes it once more, which costs nothing, as the batch is that wide in any case. So a row never has padding
between its tokens, and lies just as it would if all were computed afresh.
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

    def add(self, batch: Sequence[tuple[Owner, Sequence[int], int]], cache: DynamicCache) -> None:
        """Keep what lies in `cache`: of each row of the batch its owner, its tokens, and their first column.

        They take the place of rows that they continue, and of those that have not been used for longest. Nothing is
        kept where a layer has let keys go, or where the rows are together larger than the limit: a batch in which one
        row is missing would compute all of them afresh.
        """
        if any(layer.keys.shape[2] < layer.get_seq_length() for layer in cache.layers):
            return
        views = [
            [(layer.keys[row, :, columns], layer.values[row, :, columns]) for layer in cache.layers]
            for row, (_, tokens, first) in enumerate(batch)
            for columns in [slice(first, first + len(tokens))]
        ]
        if sum(part.nbytes for row in views for pair in row for part in pair) > self._limit:
            return
        for (owner, tokens, _), row in zip(batch, views, strict=True):
            new = KeptRow(owner, tuple(tokens), tuple((keys.clone(), values.clone()) for keys, values in row))
            self._rows = [
                old for old in self._rows if old.owner != owner or new.tokens[: len(old.tokens)] != old.tokens
            ]
            self._rows.append(new)
        while self.bytes > self._limit:
            del self._rows[0]


def laid_out(kept: Sequence[tuple[KeptRow | None, int]], columns: int) -> list[Pair]:
    """For each layer the keys and values `[rows, heads, columns, size]` that a batch begins with.

    Args:
        kept: for each row what it has kept, and how many of its first tokens are used; these end in the last column.
    """
    filled = [(row, used) for row, used in kept if row is not None and used]
    layers = []
    for at, pair in enumerate(filled[0][0].layers if filled else ()):
        parts = []
        for which, like in enumerate(pair):
            all_rows = like.new_zeros(len(kept), like.shape[0], columns, like.shape[2])  # masked, but never NaN
            for index, (row, used) in enumerate(kept):
                if row is not None and used:
                    all_rows[index, :, columns - used :] = row.layers[at][which][:, :used]
            parts.append(all_rows)
        layers.append((parts[0], parts[1]))
    return layers
