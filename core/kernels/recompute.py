"""Cheap results are computed again in the backward pass instead of being kept (selective recomputation).

A layer with a trained A keeps its input X for dA = dTᵀ X. Where X is a norm's output or a gated product, it follows
from tensors that are kept anyway, by a pass or two over memory, which costs far less than a matrix product. What a
block of Llama's shape keeps for T tokens of width d, with keys and values of width d_kv and f hidden units, falls to

    T · (4d + 2 d_kv + 2f)      its input, queries, keys, values, attention's output, the middle, gate and up

beside the probabilities that attention keeps (`core.kernels.packed_attention`).

Whoever computes such an X marks it with `remember`; whoever needs X in its backward pass asks `keep` what to save and
`Kept.get` there. What comes of X by a view, a slice or another operation is another tensor and is kept as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor


class Kept:
    """How to have a tensor in the backward pass again from what was saved for it; holds no tensors in between.

    Several layers may have read the same one: it is computed once for all that ask in turn, and dropped when the last
    has it.
    """

    def __init__(self, compute: Callable[..., Tensor]) -> None:
        self._compute = compute
        self._readers = self._asked = 0
        self._value: Tensor | None = None

    def get(self, saved: Sequence[Tensor]) -> Tensor:
        """The tensor, from `saved`, which is what `keep` said to save."""
        value = self._compute(*saved) if self._value is None else self._value
        self._asked = (self._asked + 1) % self._readers
        self._value = value if self._asked else None
        return value

    def add_reader(self) -> None:
        """Count one more that will `get`."""
        self._readers += 1


class Aside:
    """What a recomputation formed on its way, kept for the gradient that is formed right behind it."""

    def __init__(self) -> None:
        self._value: Tensor | None = None

    def put(self, value: Tensor) -> Tensor:
        """Keep `value`, which is returned."""
        self._value = value
        return value

    def take(self, compute: Callable[[], Tensor]) -> Tensor:
        """What was put here, and no longer kept; else `compute()`."""
        value, self._value = self._value, None
        return compute() if value is None else value


def remember(x: Tensor, compute: Callable[..., Tensor], *sources: Tensor) -> Tensor:
    """`x`, marked as `compute(*sources)`, which gives it bit for bit and runs without autograd."""
    x.recipe = (Kept(compute), sources, _version(x))  # type: ignore[attr-defined]
    return x


def keep(x: Tensor) -> tuple[Kept, tuple[Tensor, ...]]:
    """How to have `x` again, and what is to be saved for that: `x` itself where nothing better is known, or where it
    was changed in place since.
    """
    kept, saved, version = getattr(x, "recipe", None) or (Kept(_itself), (x,), _version(x))
    if version != _version(x):
        kept, saved = Kept(_itself), (x,)
    kept.add_reader()
    return kept, saved


def _version(x: Tensor) -> int | None:
    """How often it was changed in place; None where that is not counted."""
    return None if x.is_inference() else x._version


def _itself(x: Tensor) -> Tensor:
    return x
