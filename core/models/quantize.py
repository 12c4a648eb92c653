"""A frozen linear layer in 4 or 8 bits.

NF4 (QLoRA, section 3): weights are normalized in blocks by their largest magnitude and rounded to the 16 quantiles of a
normal distribution; with double quantization the blocks' scales are themselves quantized to 8 bits. At block size
64 that is 4 + 8/64 + 32/(64·256) ≈ 4.127 bits a weight. 8-bit is one signed byte a weight with an fp32 scale a row.

The arithmetic is bitsandbytes'; the module is ours, because bitsandbytes' own layer repacks its weight in place the
first time it is evaluated on a CPU, after which it cannot be trained through.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bitsandbytes.functional as bnb
import torch
from torch import Tensor, nn

from core.config import QuantConfig


class _FrozenProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer = layer
        return nn.functional.linear(x, layer.dequantize(x.dtype), layer.bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] @ ctx.layer.dequantize(grads[0].dtype), None


class QuantizedLinear(nn.Module):
    """A frozen linear layer, `[out, in]`, that dequantizes its weight for each product.

    Args:
        linear: the layer to quantize; it is not changed. Its bias is kept in its own dtype.
        config: `bits` 4 or 8; block size and double quantization apply to 4.
    """

    def __init__(self, linear: nn.Linear, config: QuantConfig) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self.bits = config.bits
        weight = linear.weight.detach()
        if config.bits == 4:
            packed, self.state = bnb.quantize_4bit(
                weight, blocksize=config.block_size, compress_statistics=config.double_quant, quant_type="nf4"
            )
            self.register_buffer("packed", packed, persistent=False)
        else:
            scale = weight.float().abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / 127
            self.register_buffer("packed", (weight.float() / scale).round().to(torch.int8), persistent=False)
            self.register_buffer("scale", scale, persistent=False)

    packed: Tensor
    scale: Tensor

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight `[out, in]` in `dtype`, made anew at each call."""
        if self.bits == 4:
            weight: Tensor = bnb.dequantize_4bit(self.packed, self.state)
            return weight.to(dtype)
        return (self.packed * self.scale).to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = _FrozenProduct.apply(x, self)  # type: ignore[no-untyped-call]
        return result

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantizedLinear:
        """What `.to(device)` calls; bitsandbytes' state is no buffer and has to be taken along."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.bits == 4:
            self.state.to(self.packed.device)
        return self

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits}"


def frozen_weight(layer: nn.Module, dtype: torch.dtype) -> Tensor:
    """The weight `[out, in]` of a plain or quantized linear layer in `dtype`; a view where no copy is needed."""
    if isinstance(layer, QuantizedLinear):
        return layer.dequantize(dtype)
    weight: Tensor = layer.weight  # type: ignore[assignment]
    return weight.detach().to(dtype)


def quantize_linears(model: nn.Module, names: list[str], config: QuantConfig) -> None:
    """Replace the linear layers called `names` in `model` by quantized ones, one at a time: memory only falls."""
    for name in names:
        parent_name, _, child = name.rpartition(".")
        parent = model.get_submodule(parent_name)
        setattr(parent, child, QuantizedLinear(getattr(parent, child), config))
