"""A linear layer with any number of adapters beside it: plain, GPT-2's Conv1D, or quantized.

With one adapter the update is one autograd function (`core.kernels`). Routing multiplies each row with its own A and B,
stacked and zero-padded to the largest rank, strengths and scales folded into B: a row without an adapter gets zeros,
and adding zero leaves the base's output as it is. One mix for all rows is two plain products.

While an answer is written, each row has one token, and a thin product costs what it takes to begin one: on a CPU oneDNN
needs 12 µs for a 16-bit product of any size, where the library behind fp32 needs 2 to 6 (SmolLM2's shapes, 1 to 4
rows). Few tokens are therefore multiplied in fp32, which the adapters are kept in anyway; many, as in a prompt, in the
dtype of the base.
"""

from __future__ import annotations

from dataclasses import dataclass
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
class RowUpdates:
    """One update a row of the routing; n is 1 where all rows have the same.

    `a` `[n, in, R]`, `b` `[n, R, out]` with all factors folded in, on a CPU at least fp32, else in the compute dtype;
    in the compute dtype `gain` `[n, 1, out]`, what share of the base's product is added to it (None: 0), and `bias`
    `[n, 1, out]`, what is added to the base's bias (None: 0).
    """

    a: Tensor
    b: Tensor
    gain: Tensor | None
    bias: Tensor | None

    def add_to(self, y: Tensor, x: Tensor) -> Tensor:
        """y, `[n, t, out]`, with x A B added in place, for x `[n, t, in]` in the same dtype."""
        a, b = self.a, self.b
        if x.shape[1] > FEW_TOKENS:
            a, b = a.to(x.dtype), b.to(x.dtype)
        if a.dtype == x.dtype:
            return y.baddbmm_(torch.bmm(x, a), b)
        return y.add_(torch.bmm(torch.bmm(x.to(a.dtype), a), b))


class LoraLinear(LoraLayer):
    """`base` (`nn.Linear`, `Conv1D` or `QuantizedLinear`, frozen) with low-rank updates.

    A head that is tied to an adapted embedding takes that embedding's updates through `tied`, an `nn.Module` with the
    same `adapters`: the same parameters serve both ends, so they cannot drift apart.
    """

    def __init__(self, base: nn.Module, tied: LoraLayer | None = None) -> None:
        super().__init__(base)
        self._tied = [tied] if tied is not None else []  # in a list, so that its parameters are counted once
        self.stack: RowUpdates | None = None

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
        self.stack = self._stacked(self.rows, dtype) if self.rows is not None else None

    def routed(self, x: Tensor) -> Tensor:
        rows = self.stack
        assert rows is not None
        n = len(self.rows or ())
        if x.shape[0] % n:  # whether the first dimension counts rows or, where there are but two, all their tokens
            raise unequal_rows(x, n)
        base: Tensor = self.base(x)
        is_by_row = x.dim() == 3 and x.shape[0] == n  # or a multiple of it, or one heap
        grouped, y = (x, base) if is_by_row else (x.reshape(n, -1, x.shape[-1]), base.view(n, -1, base.shape[-1]))
        if rows.gain is not None:
            bias: Any = self.base.bias
            y = y + (y if bias is None else y - bias) * rows.gain
        y = rows.add_to(y, grouped)
        if rows.bias is not None:
            y = y + rows.bias
        return y if is_by_row else y.view(base.shape)

    @torch.no_grad()
    def _stacked(self, mixes: tuple[Mix, ...], dtype: torch.dtype) -> RowUpdates:
        folded = [[self._folded(update, strength) for update, strength in self.parts_of(mix)] for mix in mixes]
        like = next(part[0] for row in folded for part in row)
        thin = torch.promote_types(dtype, torch.float32) if like.device.type == "cpu" else dtype
        a = _joined([[part[0] for part in row] for row in folded], like.new_empty(0, self.in_features))
        b = _joined([[part[1].t() for part in row] for row in folded], like.new_empty(0, self.out_features))
        gains, biases = ([[part[at] for part in row] for row in folded] for at in (2, 3))
        return RowUpdates(a.to(thin).transpose(1, 2), b.to(thin), self._sums(gains, dtype), self._sums(biases, dtype))

    def _sums(self, changes: list[list[Tensor | None]], dtype: torch.dtype) -> Tensor | None:
        """`[rows, 1, out]`, each row's changes `[out]` added up; None where there is none that is not 0."""
        present = [change for row in changes for change in row if change is not None]
        if not any(change.any() for change in present):
            return None
        nothing = present[0].new_zeros(self.out_features, dtype=torch.float32)
        sums = [sum((change for change in row if change is not None), nothing) for row in changes]
        return torch.stack(sums)[:, None].to(dtype)

    def _folded(self, update: Update, strength: float) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """A `[R, in]`, B `[out, R]` with all factors, and by how much gain and bias change, each `[out]` if at all."""
        a, b = update.factors()
        bias = strength * self.bias_change(update, b) if update.bias is not None else None
        if update.magnitude is None:
            return a, strength * update.scale * b, None, bias
        gain = self.gain(update)
        return a, strength * update.scale * gain[:, None] * b, strength * (gain - 1), bias


def _joined(rows: list[list[Tensor]], nothing: Tensor) -> Tensor:
    """`[rows, R, width]` of each row's parts `[r, width]` below each other, filled up with zeros; `nothing` has r 0."""
    whole = [row[0] if len(row) == 1 else torch.cat([nothing, *row]) for row in rows]
    widest = max(len(part) for part in whole)
    pad = nn.functional.pad
    return torch.stack([part if len(part) == widest else pad(part, (0, 0, 0, widest - len(part))) for part in whole])
