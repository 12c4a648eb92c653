"""A convolution with adapters beside it ("any network with dense layers", LoRA paper, section 4.1).

A is a convolution of the base's own geometry into r channels, B mixes these at every place:

    ΔW = s · B A        A [r, in · kernel], B [out, r]        y = conv(x, W₀) + s · B conv(x, A)

Grouped convolutions are not adapted: their ΔW would not be of rank r in every group.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from core.adapters.layer import LoraLayer
from core.adapters.lowrank import Update


class LoraConv(LoraLayer):
    """`base` (`nn.Conv1d` or `nn.Conv2d`, one group, frozen) with low-rank updates."""

    @property
    def in_features(self) -> int:
        """Input channels times the kernel's places."""
        weight: Any = self.base.weight
        return int(weight[0].numel())

    @property
    def out_features(self) -> int:
        return int(self.base.out_channels)  # type: ignore[arg-type]

    def change(self, x: Tensor, y: Tensor, update: Update) -> Tensor:
        base: Any = self.base
        a, b = update.factors()
        thin = base._conv_forward(self._dropped(x, update), a.to(x.dtype).view(-1, *base.weight.shape[1:]), None)
        change = update.scale * torch.einsum("or,nr...->no...", b.to(x.dtype), thin)
        if update.magnitude is None:
            return change
        gain = self._channelwise((self.gain(update) - 1).to(x.dtype), y)
        product = y if base.bias is None else y - self._channelwise(base.bias, y)
        return change + gain * (product + change)

    def _dropped(self, x: Tensor, update: Update) -> Tensor:
        return torch.nn.functional.dropout(x, update.dropout, training=self.training)

    def bias_change(self, update: Update, like: Tensor) -> Tensor:
        return self._channelwise(super().bias_change(update, like), like)

    def _channelwise(self, vector: Tensor, like: Tensor) -> Tensor:
        """`[out]` shaped so that it meets `like` `[n, out, …]` channel by channel."""
        return vector.view(-1, *[1] * (like.ndim - 2))

    def matrix(self) -> Tensor:
        weight: Tensor = self.base.weight  # type: ignore[assignment]
        return weight.detach().flatten(1)

    def weight_change(self, update: Update) -> Tensor:
        weight: Any = self.base.weight
        return self.matrix_change(update).view_as(weight)
