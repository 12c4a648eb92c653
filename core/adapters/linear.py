"""A linear layer with any number of adapters beside it: plain, GPT-2's Conv1D, or quantized.

With one adapter the update is one autograd function (`core.kernels`). Routing multiplies each row with its own A and B,
stacked and zero-padded to the largest rank, strengths and scales folded into B: a row without an adapter gets zeros,
and adding zero leaves the base's output as it is.
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


@dataclass(frozen=True, slots=True)
class RowUpdates:
    """One update a row of the routing, in the compute dtype.

    `a` `[n, in, R]`, `b` `[n, R, out]` with all factors folded in; `gain` `[n, 1, out]`, what share of the base's
    product is added to it (None: 0); `bias` `[n, 1, out]`, what is added to the base's bias (None: 0).
    """

    a: Tensor
    b: Tensor
    gain: Tensor | None
    bias: Tensor | None


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
        n = rows.a.shape[0]
        if x.shape[0] % n:  # whether the first dimension counts rows or, where there are but two, all their tokens
            raise unequal_rows(x, n)
        base: Tensor = self.base(x)
        grouped = x.reshape(n, -1, x.shape[-1])
        y = base.view(n, -1, base.shape[-1])
        if rows.gain is not None:
            bias: Any = self.base.bias
            y = y + (y if bias is None else y - bias) * rows.gain
        y = torch.baddbmm(y, grouped @ rows.a, rows.b)
        return (y if rows.bias is None else y + rows.bias).view(base.shape)

    @torch.no_grad()
    def _stacked(self, mixes: tuple[Mix, ...], dtype: torch.dtype) -> RowUpdates:
        folded = [[self._folded(update, strength) for update, strength in self.parts_of(mix)] for mix in mixes]
        widest = max(sum(a.shape[0] for a, *_ in row) for row in folded)
        device = next(a.device for row in folded for a, *_ in row)
        a = torch.zeros(len(mixes), self.in_features, widest, dtype=dtype, device=device)
        b = torch.zeros(len(mixes), widest, self.out_features, dtype=dtype, device=device)
        gain = torch.zeros(len(mixes), 1, self.out_features, device=device)
        bias = torch.zeros(len(mixes), 1, self.out_features, device=device)
        for row, parts in enumerate(folded):
            start = 0
            for a_part, b_part, gain_part, bias_part in parts:
                end = start + a_part.shape[0]
                a[row, :, start:end], b[row, start:end] = a_part.t(), b_part.t()
                gain[row, 0] += gain_part
                bias[row, 0] += bias_part
                start = end
        has_gain, has_bias = bool((gain != 0).any()), bool((bias != 0).any())
        return RowUpdates(a, b, gain.to(dtype) if has_gain else None, bias.to(dtype) if has_bias else None)

    def _folded(self, update: Update, strength: float) -> tuple[Tensor, Tensor, Tensor | float, Tensor | float]:
        """A `[R, in]`, B `[out, R]` with all factors, and by how much gain and bias change, each `[out]` or 0."""
        a, b = update.factors()
        bias = strength * self.bias_change(update, b) if update.bias is not None else 0.0
        if update.magnitude is None:
            return a, strength * update.scale * b, 0.0, bias
        gain = self.gain(update)
        return a, strength * update.scale * gain[:, None] * b, strength * (gain - 1), bias
