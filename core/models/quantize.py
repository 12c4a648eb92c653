"""A frozen dense layer in 4 or 8 bits.

4 bits (QLoRA, section 3). The weight `[out, in]`, read row after row, is cut into blocks; each block is divided by its
largest magnitude, its scale c, and rounded to the nearest of 16 values q:

    W ≈ c · q[code]        NF4: q are quantiles of a normal distribution, as weights nearly have it
                           FP4: q are the floating-point numbers of one sign, two exponent and one mantissa bit

Double quantization stores the scales as c ≈ m + c₂ · p[code₂]: their mean m, one of 256 values p each, and an fp32
c₂ for every 256 of them. A weight then takes 4 + 8/block + 32/(256 · block) bits, without it 4 + 32/block
(`core.models.footprint` counts them). 8 bits are one signed byte a weight and an fp32 scale a row.

The arithmetic is bitsandbytes'; the module is ours, for two reasons. bitsandbytes' own layer repacks its weight the
first time it is evaluated on a CPU, after which it cannot be trained through. And its CPU kernel (0.50.2, AVX-512)
gives weights the scale of another block where `in` is no multiple of the block size; here the weight is padded to whole
blocks and handed over as `[blocks, block]`, where no row can straddle two. The tables q and p exist once, not once
a layer.

What this does not do: train the weight, or multiply without dequantizing it first.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from core.config import QuantConfig
from core.models import targets
from core.models.block_bits import SCALES_A_GROUP

_DIRECT = (torch.float32, torch.bfloat16, torch.float16)
# Weights worked on at once, for small fp32 copies. Quantizing takes whole blocks, and larger pieces leave the heap in
# holes: 718 MB resident in place of 565 for the starter. Dequantizing on a GPU wants larger ones.
_QUANTIZED_AT_ONCE, _DEQUANTIZED_AT_ONCE = 2**18, 2**20


@functools.cache
def _bitsandbytes() -> ModuleType:
    """Imported when a layer is first quantized: it brings torch's compiler along, a quarter of what the engine's import
    takes and 47 MB, which a run in 16 bits does without.
    """
    return importlib.import_module("bitsandbytes.functional")


class _FrozenProduct(torch.autograd.Function):
    """Y = X Wᵀ + bias with W dequantized in each direction and never kept; X and the bias may need gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, layer: QuantizedLinear) -> Tensor:
        ctx.layer, ctx.bias_dtype = layer, None if bias is None else bias.dtype
        return nn.functional.linear(x, layer.dequantize(x.dtype), None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        dy = grads[0]
        dx = dy @ ctx.layer.dequantize(dy.dtype) if ctx.needs_input_grad[0] else None
        dbias = dy.reshape(-1, dy.shape[-1]).sum(0, dtype=ctx.bias_dtype) if ctx.needs_input_grad[1] else None
        return dx, dbias, None


class QuantizedLinear(nn.Module):
    """A frozen dense layer that dequantizes its weight `[out, in]` for each product; answers in its input's dtype.

    Args:
        layer: an nn.Linear, or transformers' Conv1D, whose weight is `[in, out]`. It is not changed; its bias is shared
            and keeps its dtype.
        config: `bits` 4 or 8; the kind, block size and double quantization apply to 4.
    """

    packed: Tensor  # 4 bits: [blocks · block / 2, 1] uint8; 8 bits: [out, in] int8
    scale: Tensor  # [blocks] fp32, or uint8 where quantized again; 8 bits: [out, 1] fp32
    group_scale: Tensor  # [blocks / 256] fp32, for double quantization
    mean_scale: Tensor  # [] fp32, for double quantization

    def __init__(self, layer: nn.Module, config: QuantConfig) -> None:
        super().__init__()
        self.training = layer.training
        weight = _matrix(layer)
        self.out_features, self.in_features = weight.shape
        self.bias: nn.Parameter | None = layer.bias  # type: ignore[assignment]
        self.bits, self.quant_type, self.block_size = config.bits, config.quant_type, config.block_size
        self.double_quant = config.bits == 4 and config.double_quant
        for name, tensor in (_in_4_bits(weight, config) if config.bits == 4 else _in_8_bits(weight)).items():
            self.register_buffer(name, tensor, persistent=False)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight `[out, in]`, computed in fp32 and rounded once to `dtype`; made anew at each call."""
        if self.bits == 8:
            return self._from_8_bits(dtype)
        scale = self._scale()
        state = _bitsandbytes().QuantState(
            absmax=scale,
            shape=(len(scale), self.block_size),
            dtype=dtype if dtype in _DIRECT else torch.float32,
            blocksize=self.block_size,
            quant_type=self.quant_type,
        )
        weights: Tensor = (
            _bitsandbytes().dequantize_4bit(self.packed, state).view(-1)[: self.out_features * self.in_features]
        )
        return weights.view(self.out_features, self.in_features).to(dtype)

    def _from_8_bits(self, dtype: torch.dtype) -> Tensor:
        weight = torch.empty(self.packed.shape, dtype=dtype, device=self.packed.device)
        rows = max(1, _DEQUANTIZED_AT_ONCE // self.in_features)
        for start in range(0, self.out_features, rows):
            piece = slice(start, start + rows)
            weight[piece] = self.packed[piece] * self.scale[piece]
        return weight

    def _scale(self) -> Tensor:
        """Every block's scale c, `[blocks]` fp32."""
        if not self.double_quant:
            return self.scale
        code = _scale_code(self.scale.device)
        scale: Tensor = _bitsandbytes().dequantize_blockwise(
            self.scale, absmax=self.group_scale, code=code, blocksize=SCALES_A_GROUP
        )
        return scale.add_(self.mean_scale)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = _FrozenProduct.apply(x, self.bias, self)  # type: ignore[no-untyped-call]
        return result

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantizedLinear:
        """What `.to` calls: a device is for everything, a dtype for the bias alone: scales must stay exact."""
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, old in before.items():
            new = self._buffers[name]
            if old is not None and new is not None and new.dtype != old.dtype:
                self._buffers[name] = old.to(new.device)
        return self

    def extra_repr(self) -> str:
        kind = f"{self.quant_type}, block_size={self.block_size}" if self.bits == 4 else "int8"
        return f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits}, {kind}"


def _in_4_bits(weight: Tensor, config: QuantConfig) -> dict[str, Tensor]:
    pieces = [_codes_and_scales(piece, config) for piece in torch.split(weight.reshape(-1), _QUANTIZED_AT_ONCE)]
    packed, scale = (torch.cat(parts) for parts in zip(*pieces, strict=True))
    if not config.double_quant:
        return {"packed": packed, "scale": scale}
    mean_scale = scale.mean()
    codes, state = _bitsandbytes().quantize_blockwise(
        scale - mean_scale, _scale_code(scale.device), blocksize=SCALES_A_GROUP
    )
    return {"packed": packed, "scale": codes, "group_scale": state.absmax, "mean_scale": mean_scale}


def _codes_and_scales(weights: Tensor, config: QuantConfig) -> tuple[Tensor, Tensor]:
    """Codes, two a byte, and scales of some weights; the last block is filled up with zeros."""
    weights = weights if weights.dtype in _DIRECT else weights.float()
    blocks = nn.functional.pad(weights, (0, -len(weights) % config.block_size)).view(-1, config.block_size)
    packed, state = _bitsandbytes().quantize_4bit(
        blocks, blocksize=config.block_size, compress_statistics=False, quant_type=config.quant_type
    )
    return packed, state.absmax


def _in_8_bits(weight: Tensor) -> dict[str, Tensor]:
    rows = max(1, _QUANTIZED_AT_ONCE // weight.shape[1])
    pieces = [_rows_in_8_bits(piece.float()) for piece in torch.split(weight, rows)]
    packed, scale = (torch.cat(parts) for parts in zip(*pieces, strict=True))
    return {"packed": packed, "scale": scale}


def _rows_in_8_bits(weight: Tensor) -> tuple[Tensor, Tensor]:
    scale = (weight.abs().amax(dim=1, keepdim=True) / 127).clamp_min(torch.finfo(torch.float32).tiny)
    return (weight / scale).round().to(torch.int8), scale


@functools.cache
def _scale_code(device: torch.device) -> Tensor:
    """The 256 values p that scales are rounded to, fp32: one table for all layers on `device`."""
    code: Tensor = _bitsandbytes().create_dynamic_map().to(device)
    return code


def _matrix(layer: nn.Module) -> Tensor:
    """The weight of an nn.Linear or a Conv1D as a view `[out, in]`."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    return weight.detach().t() if isinstance(layer, Conv1D) else weight.detach()


def frozen_weight(layer: nn.Module, dtype: torch.dtype) -> Tensor:
    """The weight `[out, in]` of an nn.Linear, a Conv1D or a quantized layer in `dtype`; a view where it can be."""
    if isinstance(layer, QuantizedLinear):
        return layer.dequantize(dtype)
    return _matrix(layer).to(dtype)


def quantize_linears(model: nn.Module, names: Sequence[str], config: QuantConfig) -> None:
    """Replace the dense layers called `names` in `model`, but those that `config.skip` means, by quantized ones.

    They are replaced one at a time. What is not quantized moves out of the file that it may still lie in.

    Raises:
        ConfigError: on `quant.skip`, where something in it means none of the layers, or it means all of them.
    """
    for name in targets.not_skipped(names, config.skip):
        parent_name, _, child = name.rpartition(".")
        parent = model.get_submodule(parent_name)
        setattr(parent, child, QuantizedLinear(getattr(parent, child), config))
    leave_the_file(model)


def leave_the_file(model: nn.Module) -> None:
    """Copy the parameters that lie in a file's mapping: one of them keeps all of it in memory, matrices included."""
    for parameter in model.parameters():
        if not parameter.untyped_storage().resizable():  # memory that is not torch's own
            parameter.data = parameter.data.clone()
