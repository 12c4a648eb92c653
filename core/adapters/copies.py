"""Modules that an adapter trains whole (`modules_to_save`): each adapter has a copy of its own beside the base's.

A classifier's head is one, or a normalization whose bias is trained. The copy is an fp32 master; it computes in fp32,
and its result returns in the dtype that came in. A strength t between base and adapter is a copy with the weights
W₀ + t · (W − W₀), made when a batch is routed.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from core.adapters.layer import Adapted, Mix


class TrainedCopy(nn.Module):
    """An fp32 copy of `base`; only the parameters in `names` (all where None) are trained."""

    def __init__(self, base: nn.Module, names: Sequence[str] | None = None) -> None:
        super().__init__()
        self.module = copy.deepcopy(base).float()
        self.module.requires_grad_(names is None)
        for name in names or ():
            self.module.get_parameter(name).requires_grad_(True)
        self.names = tuple(names) if names is not None else tuple(name for name, _ in self.module.named_parameters())

    def forward(self, x: Tensor, *others: Any, **named: Any) -> Any:
        if not x.is_floating_point():
            return self.module(x, *others, **named)
        return self.module(x.float(), *others, **named).to(x.dtype)

    def trained(self) -> dict[str, nn.Parameter]:
        """The trained parameters by their names inside the module."""
        return {name: self.module.get_parameter(name) for name in self.names}


class AdaptedWhole(Adapted):
    """`base` (any module, frozen) with whole copies of it in `adapters`."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self._blends: list[nn.Module] = []

    def copy_of(self, key: str) -> TrainedCopy | None:
        """The copy that the adapter `key` trains, or None."""
        found = self.adapters[key] if self.has(key) else None
        assert found is None or isinstance(found, TrainedCopy)
        return found

    def forward(self, x: Tensor, *others: Any, **named: Any) -> Any:
        if self.rows is not None:
            parts = zip(self.shares(x), self._blends, strict=True)
            return torch.cat([blend(part, *others, **named) for part, blend in parts])
        found = self.copy_of(self.active) if self.active is not None else None
        return (self.base if found is None else found)(x, *others, **named)

    def route(self, mixes: tuple[Mix, ...] | None, dtype: torch.dtype) -> None:
        super().route(mixes, dtype)
        self._blends = [self._blend(mix) for mix in self.rows or ()]

    @torch.no_grad()
    def _blend(self, mix: Mix) -> nn.Module:
        """The base where `mix` has no copy here, a copy where it has one at strength 1, else one in between."""
        found = [(trained, strength) for key, strength in mix if (trained := self.copy_of(key)) is not None]
        if not found:
            return self.base
        first = found[0][0]
        if len(found) == 1 and found[0][1] == 1:
            return first
        blend = TrainedCopy(self.base)
        start = dict(self.base.named_parameters())
        for name, parameter in blend.module.named_parameters():
            for trained, strength in found:
                parameter.add_(strength * (trained.module.get_parameter(name) - start[name].float()))
        return blend
