"""A LoRA linear layer as one autograd function.

    Y  = X W₀ᵀ + s · (X Aᵀ) Bᵀ                      X [T, in], W₀ [out, in], A [r, in], B [out, r]

With dY = ∂L/∂Y, and W₀ frozen:

    dB = s · dYᵀ (X Aᵀ)      dA = (s · dY B)ᵀ X      dX = dY W₀ + (s · dY B) A

Left to autograd, the three terms of Y are separate passes over [T, out] and each keeps its inputs. Here the update is
accumulated into the base's output, `s · dY B` is formed once for dA and dX, and only X and the thin X Aᵀ are kept; X
itself is computed again where it is known how (`core.kernels.recompute`). dX is skipped where X needs no gradient,
which ends the backward pass below the lowest adapted layer. X is only needed for dA: where A is frozen (LoRA-FA, arXiv
2308.03303) it is not kept.

A quantized W₀ is dequantized for the product and again in the backward pass; the 16-bit copy is never kept.
A and B are fp32 masters; they are cast to X's dtype for the products and their gradients return in fp32.
What this does not do: dropout on X (the caller composes that from plain operations).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from core.kernels.recompute import keep
from core.models.quantize import frozen_weight


class _LoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor, scale: float, base: nn.Module) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        bias: Any = base.bias
        y = torch.nn.functional.linear(rows, frozen_weight(base, rows.dtype), bias)  # [T, out]
        thin = rows @ a.to(rows.dtype).t()  # [T, r]
        y.addmm_(thin, b.to(rows.dtype).t(), alpha=scale)
        ctx.kept, sources = keep(x) if ctx.needs_input_grad[1] else (None, ())
        ctx.save_for_backward(thin, a, b, *sources)
        ctx.scale, ctx.base, ctx.shape = scale, base, x.shape
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor, None, None]:
        thin, a, b, *sources = ctx.saved_tensors
        dy = grads[0]  # [T, out]
        db = (thin.t() @ dy).t().to(b.dtype).contiguous().mul_(ctx.scale)
        dthin = (dy @ b.to(dy.dtype)).mul_(ctx.scale)  # [T, r]
        da = None
        if ctx.kept is not None:
            rows = ctx.kept.get(sources).reshape(-1, a.shape[1])
            da = (dthin.t() @ rows).to(a.dtype)
        if not ctx.needs_input_grad[0]:
            return None, da, db, None, None
        dx = dy @ frozen_weight(ctx.base, dy.dtype)
        dx.addmm_(dthin, a.to(dy.dtype))
        return dx.view(ctx.shape), da, db, None, None


def lora_linear(x: Tensor, base: nn.Module, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """X W₀ᵀ + bias + scale · (X Aᵀ) Bᵀ.

    Args:
        x: `[..., in]` in the compute dtype.
        base: the frozen linear layer (plain or quantized) that holds W₀ `[out, in]` and perhaps a bias.
        a: `[r, in]` fp32. b: `[out, r]` fp32.
        scale: s = α / r.

    Returns:
        `[..., out]` in x's dtype.
    """
    result: Tensor = _LoraLinear.apply(x, a, b, scale, base)  # type: ignore[no-untyped-call]
    return result.view(*x.shape[:-1], -1)  # not inside, where a model that adds to it in place would be refused
