"""A linear layer with any number of adapters beside it.

The layer wraps the frozen one and never changes it. It answers in one of three ways: as the base; with one active
adapter (training, or chat with one); or routed, where each row of the batch has its own adapter (chat with several).
Routing multiplies each row with its own A and B, stacked and zero-padded to the largest rank, the scale folded into B:
a row without an adapter gets zeros, and adding zero leaves the base's output as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.adapters.lowrank import LowRank
from core.errors import AdapterError
from core.kernels.lora_linear import lora_linear


@dataclass(frozen=True, slots=True)
class RowUpdates:
    """One update a batch row: `a` `[batch, in, r]` and `b` `[batch, r, out]` in the compute dtype, s folded into b."""

    a: Tensor
    b: Tensor


class LoraLinear(nn.Module):
    """`base` (a frozen plain or quantized linear layer) with low-rank updates, by key, in `adapters`.

    `active` is the key that every row uses, `rows` what each row uses while routed, and `merged` the key that is
    folded into the base's weight for now (`core.adapters.merge`).
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.adapters = nn.ModuleDict()
        self.active: str | None = None
        self.rows: RowUpdates | None = None
        self.merged: str | None = None

    @property
    def in_features(self) -> int:
        return int(self.base.in_features)  # type: ignore[arg-type]

    @property
    def out_features(self) -> int:
        return int(self.base.out_features)  # type: ignore[arg-type]

    def update(self, key: str) -> LowRank | None:
        """The update called `key`, or None where that adapter leaves this layer alone."""
        if key not in self.adapters:
            return None
        update = self.adapters[key]
        assert isinstance(update, LowRank)
        return update

    def forward(self, x: Tensor) -> Tensor:
        if self.rows is not None:
            return self._routed(x, self.rows)
        update = self.update(self.active) if self.active is not None else None
        if update is None:
            plain: Tensor = self.base(x)
            return plain
        if update.dropout and self.training:
            return self._with_dropout(x, update)
        return lora_linear(x, self.base, update.a, update.b, update.scale)

    def _routed(self, x: Tensor, rows: RowUpdates) -> Tensor:
        if (
            x.shape[:-2] != rows.a.shape[:1]
        ):  # tokens of all rows in one heap, as some models' feed-forward layers take them
            raise AdapterError(
                "An adapter on this layer cannot be used side by side with others yet",
                f"the base model gives it {list(x.shape)} and not [{rows.a.shape[0]}, tokens, {self.in_features}]",
                "Leave the model's feed-forward layers out of the targets",
            )
        base: Tensor = self.base(x)
        return base + torch.bmm(torch.bmm(x, rows.a), rows.b)

    def _with_dropout(self, x: Tensor, update: LowRank) -> Tensor:
        dropped = nn.functional.dropout(x, update.dropout)
        thin = dropped @ update.a.to(x.dtype).t()
        result: Tensor = self.base(x) + update.scale * (thin @ update.b.to(x.dtype).t())
        return result

    def stack(self, keys: Sequence[str | None], dtype: torch.dtype) -> RowUpdates | None:
        """The updates of `keys`, one a batch row, or None where no row has one here."""
        updates = [self.update(key) if key is not None else None for key in keys]
        largest = max((update.rank for update in updates if update), default=0)
        if largest == 0:
            return None
        device = next(update.a.device for update in updates if update)
        a = torch.zeros(len(keys), self.in_features, largest, dtype=dtype, device=device)
        b = torch.zeros(len(keys), largest, self.out_features, dtype=dtype, device=device)
        for row, update in enumerate(updates):
            if update is not None:
                a[row, :, : update.rank] = update.a.detach().t()
                b[row, : update.rank] = update.scale * update.b.detach().t()
        return RowUpdates(a, b)
