"""What all adapted layers have in common: a frozen base, updates by key beside it, and which of them answer.

The base is never changed. A layer answers in one of three ways: as the base; with one `active` adapter (training, or
chat with one); or with `rows`, where each row of a batch has a mix of its own. A mix is a list of adapters with a
strength t each:

    h = W₀ x + Σ t · (W_adapter − W₀) x

so that 0 is the base, 1 the adapter, and −1 its opposite, for DoRA, trained biases and whole copies alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from core.adapters.lowrank import LowRank, Update
from core.errors import AdapterError
from core.kernels.dora import dora_gain, dora_norm, squared_row_norms

Mix: TypeAlias = tuple[tuple[str, float], ...]


class Adapted(nn.Module, ABC):
    """`base` (a frozen module) with what any number of adapters bring to it, by key, in `adapters`.

    `active` is the key that every row uses, `rows` the mix of each row while routed (one mix alone serves every row),
    and `merged` the key that is folded into the base for now (`core.adapters.merge`).
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.training = base.training
        self.adapters = nn.ModuleDict()
        self.active: str | None = None
        self.rows: tuple[Mix, ...] | None = None
        self.merged: str | None = None

    def __getattr__(self, name: str) -> Any:
        """What a model's code asks of the module that this one stands for, such as a layer's `weight`."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)

    def has(self, key: str) -> bool:
        """Whether the adapter `key` brings anything here."""
        return key in self.adapters

    def is_bare(self) -> bool:
        """Whether no adapter needs this layer any more."""
        return len(self.adapters) == 0

    def route(self, mixes: tuple[Mix, ...] | None, dtype: torch.dtype) -> None:
        """Let row i use `mixes[i]` from now on, one mix alone every row; None ends it. `dtype` is computed in."""
        is_concerned = mixes is not None and any(self.has(key) for mix in mixes for key, _ in mix)
        self.rows = mixes if is_concerned else None

    def shares(self, x: Tensor) -> Sequence[Tensor]:
        """x in equal, contiguous shares of its first dimension, one a row of the routing."""
        assert self.rows is not None
        if x.shape[0] % len(self.rows):
            raise unequal_rows(x, len(self.rows))
        return x.chunk(len(self.rows))


def unequal_rows(x: Tensor, rows: int) -> AdapterError:
    """The error for a layer that gets the rows' tokens in one heap."""
    return AdapterError(
        "An adapter on this layer cannot be used side by side with others",
        f"the base model gives it {list(x.shape)}, which is not {rows} equal rows",
        "Leave this layer out of the targets",
    )


class LoraLayer(Adapted):
    """An adapted layer that is a matrix [out, in] in some form, with low-rank updates."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self._squared_norms: Tensor | None = None

    def update(self, key: str) -> Update | None:
        """The update called `key`, or None where that adapter leaves this layer alone."""
        if key not in self.adapters:
            return None
        update = self.adapters[key]
        assert isinstance(update, LowRank)
        return update

    def forward(self, x: Tensor) -> Tensor:
        if self.rows is not None:
            return self.routed(x)
        update = self.update(self.active) if self.active is not None else None
        if update is None:
            plain: Tensor = self.base(x)
            return plain
        result = self.adapted(x, update)
        return result if update.bias is None else result + self.bias_change(update, result)

    def adapted(self, x: Tensor, update: Update) -> Tensor:
        """The output with `update` in full, its bias aside."""
        y: Tensor = self.base(x)
        return y + self.change(x, y, update)

    @abstractmethod
    def change(self, x: Tensor, y: Tensor, update: Update) -> Tensor:
        """What `update` adds to the base's output `y` for `x`, its bias aside; in y's shape and dtype."""

    @abstractmethod
    def matrix(self) -> Tensor:
        """W₀ as `[out, in]` in the dtype that it is stored in, fp32 where it is quantized; a view where one will do."""

    @abstractmethod
    def weight_change(self, update: Update) -> Tensor:
        """W_adapter − W₀ in the shape of the base's weight, fp32, detached, DoRA's rescaling included."""

    def bias_change(self, update: Update, like: Tensor) -> Tensor:
        """Trained bias − the base's, in the dtype of `like` and in a shape that adds to it."""
        assert update.bias is not None
        base: Any = self.base.bias
        change: Tensor = update.bias - base
        return change.to(like.dtype)

    def matrix_change(self, update: Update) -> Tensor:
        """W_adapter − W₀ as `[out, in]` fp32, detached."""
        with torch.no_grad():
            delta = update.delta()
            if update.magnitude is None:
                return delta
            weight = self.matrix()
            weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
            return self.gain(update)[:, None] * (weight + delta) - weight

    def gain(self, update: Update) -> Tensor:
        """DoRA's g = m / ‖W₀ + ΔW‖, `[out]` fp32, differentiable in m alone (arXiv 2402.09353, section 4.3)."""
        assert update.magnitude is not None
        weight = self.matrix()
        if self._squared_norms is None:
            self._squared_norms = squared_row_norms(weight)
        a, b = update.factors()
        return dora_gain(update.magnitude, dora_norm(weight, self._squared_norms, a, b, update.scale))

    def routed(self, x: Tensor) -> Tensor:
        """Each row's own mix: row i of n owns the i-th of n equal, contiguous shares of x's first dimension."""
        assert self.rows is not None
        return torch.cat([self.blended(part, mix) for part, mix in zip(self.shares(x), self.rows, strict=True)])

    def blended(self, x: Tensor, mix: Mix) -> Tensor:
        """The base's output plus each adapter's change, times its strength."""
        y: Tensor = self.base(x)
        total = y
        for update, strength in self.parts_of(mix):
            change = self.change(x, y, update)
            if update.bias is not None:
                change = change + self.bias_change(update, change)
            total = total + strength * change
        return total

    def parts_of(self, mix: Mix) -> Iterator[tuple[Update, float]]:
        """The updates that `mix` has on this layer, with their strengths."""
        for key, strength in mix:
            update = self.update(key)
            if update is not None:
                yield update, strength
