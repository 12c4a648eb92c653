"""A linear layer with any number of adapters beside it: plain, GPT-2's Conv1D, or quantized.

With one adapter the update is one autograd function (`core.kernels`). Routing multiplies each row with its own A and B,
strengths and scales folded into B. Rows that all differ are done at once, A and B stacked and zero-padded to the
largest rank: a row without an adapter gets zeros, and adding zero leaves the base's output as it is. Where neighbors
have the same mix, each such run is done by itself, and its A and B lie in memory once. Either way a row's product is
its own, so that what it gets does not depend on the others. One mix for all rows is two plain products.

While an answer is written, each row has one token, and a thin product costs what it takes to begin one: on a CPU oneDNN
needs 12 µs for a 16-bit product of any size, where the library behind fp32 needs 2 to 6 (SmolLM2's shapes, 1 to 4
rows). Few tokens are therefore multiplied in fp32, which the adapters are kept in anyway; many, as in a prompt, in the
dtype of the base.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from core.adapters.layer import LoraLayer, Mix, unequal_rows
from core.adapters.lowrank import BiasOnly, LowRank, Transposed, Update
from core.kernels.dora import dora_linear
from core.kernels.lora_linear import lora_linear
from core.models.quantize import frozen_weight

FEW_TOKENS = 8  # a row


@dataclass(frozen=True, slots=True)
class Folded:
    """What a mix comes to on one layer: A `[R, in]` and B `[R, out]` with all factors folded in, by what share of
    itself the base's product grows, and what is added to its bias, each `[out]` fp32 or None.
    """

    a: Tensor
    b: Tensor
    gain: Tensor | None
    bias: Tensor | None


@dataclass(frozen=True, slots=True)
class RowUpdates:
    """One update for each of the rows from `first` to before `end` of the routing, or the same for all of them.

    `a` `[n, in, R]`, `b` `[n, R, out]` with all factors folded in, on a CPU at least fp32, else in the compute dtype;
    in the compute dtype `gain` `[n, 1, out]`, what share of the base's product is added to it (None: 0), and `bias`
    `[n, 1, out]`, what is added to the base's bias (None: 0); n is 1 where all have the same.
    """

    first: int
    end: int
    a: Tensor
    b: Tensor
    gain: Tensor | None
    bias: Tensor | None

    def add_to(self, y: Tensor, x: Tensor, base_bias: Tensor | None) -> None:
        """Change the rows' outputs `[rows, t, out]` in place, for their inputs `[rows, t, in]` in the same dtype."""
        if self.gain is not None:
            y.add_((y if base_bias is None else y - base_bias) * self.gain)
        a, b = (part.expand(len(x), -1, -1) for part in (self.a, self.b))  # a product a row, whoever shares an update
        if x.shape[1] > FEW_TOKENS:
            a, b = a.to(x.dtype), b.to(x.dtype)
        if a.dtype == x.dtype:
            y.baddbmm_(torch.bmm(x, a), b)
        else:
            y.add_(torch.bmm(torch.bmm(x.to(a.dtype), a), b))
        if self.bias is not None:
            y.add_(self.bias)


class LoraLinear(LoraLayer):
    """`base` (`nn.Linear`, `Conv1D` or `QuantizedLinear`, frozen) with low-rank updates.

    A head that is tied to an adapted embedding takes that embedding's updates through `tied`, an `nn.Module` with the
    same `adapters`: the same parameters serve both ends, so they cannot drift apart.
    """

    def __init__(self, base: nn.Module, tied: LoraLayer | None = None) -> None:
        super().__init__(base)
        self._tied = [tied] if tied is not None else []  # in a list, so that its parameters are counted once
        self.updates: tuple[RowUpdates, ...] = ()  # while it is routed
        self._folded: dict[Mix, Folded | None] = {}

    def follow(self, embedding: LoraLayer) -> None:
        """Take the updates of `embedding`, whose weight is the base's, from now on."""
        self._tied[:] = [embedding]

    @property
    def in_features(self) -> int:
        return int(self.base.in_features if hasattr(self.base, "in_features") else self.base.nx)  # type: ignore[arg-type]

    @property
    def out_features(self) -> int:
        return int(self.base.out_features if hasattr(self.base, "out_features") else self.base.nf)  # type: ignore[arg-type]

    @property
    def is_transposed(self) -> bool:
        """Whether the base's weight lies as `[in, out]` (Conv1D)."""
        return hasattr(self.base, "nf")

    def has(self, key: str) -> bool:
        return self.update(key) is not None

    def is_bare(self) -> bool:
        return super().is_bare() and not (self._tied and len(self._tied[0].adapters))

    def update(self, key: str) -> Update | None:
        own = super().update(key)
        shared = self._tied[0].update(key) if own is None and self._tied else None
        return Transposed(shared) if isinstance(shared, LowRank) else own

    def adapted(self, x: Tensor, update: Update) -> Tensor:
        if isinstance(update, BiasOnly):
            plain: Tensor = self.base(x)
            return plain
        if update.dropout and self.training:
            y: Tensor = self.base(x)
            return y + self.change(nn.functional.dropout(x, update.dropout), y, update)
        a, b = update.factors()
        if update.magnitude is None:
            return lora_linear(x, self.base, a, b, update.scale)
        return dora_linear(x, self.base, a, b, update.scale, self.gain(update))

    def change(self, x: Tensor, y: Tensor, update: Update) -> Tensor:
        a, b = update.factors()
        thin = update.scale * ((x @ a.to(x.dtype).t()) @ b.to(x.dtype).t())
        if update.magnitude is None:
            return thin
        gain = self.gain(update)
        bias: Any = self.base.bias
        product = (y if bias is None else y - bias) + thin
        return thin + (gain - 1).to(x.dtype) * product  # gain - 1 keeps digits that a gain in 16 bits would lose

    def matrix(self) -> Tensor:
        weight: Any = getattr(self.base, "weight", None)
        return frozen_weight(self.base, torch.float32 if weight is None else weight.dtype)

    def weight_change(self, update: Update) -> Tensor:
        change = self.matrix_change(update)
        return change.t() if self.is_transposed else change

    def route(self, mixes: tuple[Mix, ...] | None, dtype: torch.dtype) -> None:
        super().route(mixes, dtype)
        self.updates = tuple(self._by_runs(self.rows, dtype)) if self.rows is not None else ()
        if mixes is None:
            self._folded.clear()

    def routed(self, x: Tensor) -> Tensor:
        n = len(self.rows or ())
        if x.shape[0] % n:  # whether the first dimension counts rows or, where there are but two, all their tokens
            raise unequal_rows(x, n)
        y: Tensor = self.base(x)
        is_by_row = x.dim() == 3 and x.shape[0] == n  # or a multiple of it, or one heap
        grouped, outputs = (x, y) if is_by_row else (x.reshape(n, -1, x.shape[-1]), y.view(n, -1, y.shape[-1]))
        base_bias: Any = self.base.bias
        for rows in self.updates:
            part = slice(rows.first, rows.end)
            rows.add_to(outputs[part], grouped[part], base_bias)
        return y

    def _by_runs(self, mixes: tuple[Mix, ...], dtype: torch.dtype) -> Iterator[RowUpdates]:
        """One for each run of rows with the same mix, but none where that is the base; or one for all rows where no two
        neighbors have the same, so that they are done at once. Rows of the base at the end are left out.
        """
        end = max(row for row, mix in enumerate(mixes) if any(self.parts_of(mix))) + 1
        runs = [(mix, len(list(rows))) for mix, rows in groupby(mixes[:end])]
        if len(runs) == end:
            yield self._stacked(0, end, mixes[:end], dtype)
            return
        first = 0
        for mix, count in runs:
            if any(self.parts_of(mix)):
                yield self._stacked(first, first + count, (mix,), dtype)
            first += count

    @torch.no_grad()
    def _stacked(self, first: int, end: int, mixes: Sequence[Mix], dtype: torch.dtype) -> RowUpdates:
        found = [self._of_mix(mix) for mix in mixes]
        like = next(each for each in found if each is not None)
        rows = [Folded(like.a[:0], like.b[:0], None, None) if each is None else each for each in found]
        thin = torch.promote_types(dtype, torch.float32) if rows[0].a.device.type == "cpu" else dtype
        a, b = _joined([row.a for row in rows]), _joined([row.b for row in rows])
        gain, bias = (_rows_of(parts, dtype) for parts in ([row.gain for row in rows], [row.bias for row in rows]))
        return RowUpdates(first, end, a.to(thin).transpose(1, 2), b.to(thin), gain, bias)

    def _of_mix(self, mix: Mix) -> Folded | None:
        """None where it is the base; made once while the layer is routed."""
        if mix not in self._folded:
            parts = [self._fold(update, strength) for update, strength in self.parts_of(mix)]
            self._folded[mix] = _sum_of(parts) if parts else None
        return self._folded[mix]

    def _fold(self, update: Update, strength: float) -> Folded:
        a, b = update.factors()
        bias = strength * self.bias_change(update, b) if update.bias is not None else None
        if update.magnitude is None:
            return Folded(a, (strength * update.scale * b).t(), None, bias)
        gain = self.gain(update)
        return Folded(a, (strength * update.scale * gain[:, None] * b).t(), strength * (gain - 1), bias)


def _sum_of(parts: Sequence[Folded]) -> Folded:
    """Several updates as one, whose rank is theirs together."""
    a, b = (torch.cat([getattr(part, name) for part in parts]) for name in ("a", "b"))
    return Folded(a, b, _sum([part.gain for part in parts]), _sum([part.bias for part in parts]))


def _sum(changes: Sequence[Tensor | None]) -> Tensor | None:
    """Their sum, None where there is none that is not 0."""
    present = [change for change in changes if change is not None and change.any()]
    return sum(present[1:], present[0]) if present else None


def _rows_of(changes: Sequence[Tensor | None], dtype: torch.dtype) -> Tensor | None:
    """`[rows, 1, out]` of each row's `[out]`, 0 where it has none; None where no row has."""
    like = next((change for change in changes if change is not None), None)
    if like is None:
        return None
    nothing = torch.zeros_like(like)
    return torch.stack([nothing if change is None else change for change in changes])[:, None].to(dtype)


def _joined(rows: Sequence[Tensor]) -> Tensor:
    """`[rows, R, width]` of each row's `[r, width]`, filled up with zeros."""
    widest = max(len(row) for row in rows)
    pad = nn.functional.pad
    return torch.stack([row if len(row) == widest else pad(row, (0, 0, 0, widest - len(row))) for row in rows])
