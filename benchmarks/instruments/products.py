"""The matrix products of a piece of work, and the shortest time in which this machine does each of them.

`Products` notes every product that PyTorch carries out while it is active: shapes, strides and dtypes of both operands,
and how often. It sits below autograd, so products of the backward pass and of our own autograd functions are noted like
any other. A product of three dimensions with more than one matrix belongs to attention and is left out: attention is
counted from the rows alone (`attention`), whatever way it is done in, for a floor must not rise with a wasteful way.

`best_seconds` does one product again and again, alone, into an output that is already there, with the operands laid
out as they were and in every other way that BLAS knows, and takes the least median. A floor made of these is lower than
what any step can reach: operands come out of the caches, and nothing else is paid for.

Attention inside a row of S tokens has two products forward (scores, values) and four backward, each [S, D] by S for
each of H heads. They are timed as `bmm` over the full square and counted half, since attention is causal.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

LEFT_AT = {"mm": 0, "addmm": 1, "addmm_": 1, "bmm": 0, "baddbmm": 1, "baddbmm_": 1, "_addmm_activation": 1}
REPEATS, ENOUGH_SECONDS = 5, 0.2


@dataclass(frozen=True, slots=True)
class Operand:
    """A matrix of a product: its shape, strides and dtype."""

    shape: tuple[int, int]
    strides: tuple[int, int]
    dtype: torch.dtype

    def make(self, *, across: bool | None = None) -> Tensor:
        """Such a matrix with random entries; with `across` in rows (False) or in columns (True) without gaps."""
        if across is None:
            made = torch.empty_strided(self.shape, self.strides, dtype=self.dtype)
            return made.normal_() if made.numel() else made
        rows, columns = self.shape
        return torch.randn(columns, rows).to(self.dtype).t() if across else torch.randn(rows, columns).to(self.dtype)


@dataclass(frozen=True, slots=True)
class Product:
    """left [m, k] times right [k, n]."""

    left: Operand
    right: Operand

    @property
    def flops(self) -> int:
        """Two for each multiplication with its addition."""
        return 2 * self.left.shape[0] * self.left.shape[1] * self.right.shape[1]

    def __str__(self) -> str:
        (m, k), n = self.left.shape, self.right.shape[1]
        return f"[{m}, {k}] by [{k}, {n}]"


class Products(TorchDispatchMode):
    """Counts products while it is active. `unknown` are operators of other libraries, whose insides are not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[Product] = Counter()
        self.unknown: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        at = LEFT_AT.get(func.overloadpacket.__name__)
        if at is not None:
            self._take(args[at], args[at + 1])
        elif func.namespace not in ("aten", "prim", "prims", "profiler"):
            self.unknown[str(func)] += 1
        return func(*args, **(kwargs or {}))

    def _take(self, left: Tensor, right: Tensor) -> None:
        if left.dim() == 3:
            if left.shape[0] != 1:
                return
            left, right = left[0], right[0]
        self.counts[Product(_operand(left), _operand(right))] += 1

    @property
    def flops(self) -> int:
        """Of all of them together."""
        return sum(product.flops * count for product, count in self.counts.items())


def _operand(matrix: Tensor) -> Operand:
    rows, columns = matrix.shape
    down, right = matrix.stride()
    return Operand((rows, columns), (down, right), matrix.dtype)


def best_seconds(product: Product) -> tuple[float, float]:
    """The shortest time in which this machine does `product`, over every layout of its operands; and as they lay."""
    layouts: tuple[bool | None, ...] = (None, False, True)
    ways = [
        (product.left.make(across=left), product.right.make(across=right))
        for left in layouts
        for right in layouts
        if (left is None) == (right is None)
    ]
    out = torch.empty(product.left.shape[0], product.right.shape[1], dtype=product.left.dtype)
    taken = [_median(lambda pair=pair: torch.mm(*pair, out=out)) for pair in ways]  # type: ignore[misc]
    return min(taken), taken[0]


def attention_seconds(length: int, heads: int, width: int, dtype: torch.dtype) -> float:
    """The shortest time for all six products of one layer's attention inside a row of `length` tokens, causal half."""
    wide = torch.randn(heads, length, width).to(dtype)
    square = torch.randn(heads, length, length).to(dtype)
    to_square, to_wide = torch.empty_like(square), torch.empty_like(wide)
    ways: tuple[Callable[[], Any], ...] = (
        lambda: torch.bmm(wide, wide.transpose(1, 2), out=to_square),  # scores; and the gradient of probabilities
        lambda: torch.bmm(square, wide, out=to_wide),  # values; and the gradient of queries
        lambda: torch.bmm(square.transpose(1, 2), wide, out=to_wide),  # the gradients of values and of keys
    )
    return sum(_median(way) for way in ways)  # twice each, half of each


def _median(work: Callable[[], Any]) -> float:
    """The median of some timings of `work`, in seconds; long work is repeated less."""
    work()
    taken: list[float] = []
    while len(taken) < REPEATS and (len(taken) < 3 or sum(taken) < ENOUGH_SECONDS):
        begin = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)
