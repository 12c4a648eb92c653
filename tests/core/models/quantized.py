"""What the tests of quantization share: layers to quantize, and a slow twin of the 4-bit arithmetic."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from core.config import QuantConfig
from core.models.quantize import QuantizedLinear

# The 16 values of NF4 (QLoRA, appendix E).
NF4 = torch.tensor([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
])  # fmt: skip
# FP4: sign, two bits of exponent, one of mantissa, here over the largest of them, 12; 1/16 is the subnormal one.
_MAGNITUDES = [0, 1 / 16, 2, 3, 4, 6, 8, 12]
FP4 = torch.tensor(sorted(sign * value / 12 for value in _MAGNITUDES for sign in (-1, 1)))
GRIDS = {"nf4": NF4, "fp4": FP4}


def linear(dtype: torch.dtype = torch.float32, *, bias: bool = True, shape: tuple[int, int] = (512, 1024)) -> nn.Linear:
    """A frozen layer `shape` = (out, in), its weights drawn as a trained model's are."""
    torch.manual_seed(0)
    layer = nn.Linear(shape[1], shape[0], bias=bias).requires_grad_(False)
    layer.weight.data.normal_(std=0.02)
    return layer.to(dtype)


def conv1d(like: nn.Linear) -> Conv1D:
    """The layer of GPT-2's kind that computes what `like` does."""
    layer = Conv1D(like.out_features, like.in_features).requires_grad_(False).to(like.weight.dtype)
    layer.weight.data = like.weight.t().contiguous()
    layer.bias.data = like.bias.clone()
    return layer


def config(bits: int, **settings: Any) -> QuantConfig:
    return QuantConfig(bits=bits, **settings)  # type: ignore[arg-type]


def quantized(bits: int, base: nn.Module, **settings: Any) -> QuantizedLinear:
    return QuantizedLinear(base, config(bits, **settings))


def buffers(layer: QuantizedLinear) -> dict[str, Tensor]:
    return dict(layer.named_buffers())


def nearest(values: Tensor, grid: Tensor) -> Tensor:
    return grid[(values[..., None] - grid).abs().argmin(dim=-1)]


def rounded_in_blocks(weight: Tensor, block_size: int, grid: Tensor) -> Tensor:
    """`weight` with each block of `block_size` numbers, row after row, rounded to its largest one times `grid`."""
    rounded = []
    for block in weight.float().reshape(-1).split(block_size):
        scale = block.abs().max().clamp_min(1e-30)
        rounded.append(nearest(block / scale, grid) * scale)
    return torch.cat(rounded).view(weight.shape)
