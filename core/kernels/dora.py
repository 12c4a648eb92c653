"""DoRA: the length of each row of the weight is trained apart from its direction (arXiv 2402.09353).

    W' = m ⊙ (W₀ + s · B A) / ‖W₀ + s · B A‖      W₀ [out, in], A [r, in], B [out, r], m [out]; the norm is each row's

so that with the gain g = m / ‖W₀ + s · B A‖

    Y  = g ⊙ Z + bias,      Z = X W₀ᵀ + s · (X Aᵀ) Bᵀ

The norm. peft forms the product B A, by sending an identity matrix of size in² through the adapter. It is not needed:

    ‖W₀ + s · B A‖² = ‖W₀‖² + 2 s · Σ (W₀ Aᵀ) ⊙ B + s² · Σ (B (A Aᵀ)) ⊙ B

where ‖W₀‖² never changes, W₀ Aᵀ is [out, r] and A Aᵀ [r, r]. It is summed in fp32 (fp64 for fp64) whatever W₀ is kept
in, and is a constant to the gradient, as section 4.3 of the paper proposes.

The product. With dY = ∂L/∂Y, and W₀ frozen:

    dg = Σ_T dY ⊙ Z                     dB = s · g ⊙ (dYᵀ (X Aᵀ))
    dX = (g ⊙ dY) W₀ + dT A             dA = dTᵀ X                  with dT = s · dY (g ⊙ B)

Kept for the backward pass: X for dA, the thin X Aᵀ for dB, and Z [T, out] for dg, each only where its gradient is
wanted. Z is what DoRA costs over LoRA. Getting it back as (Y − bias) / g would save it where the next layer keeps Y
anyway, but fails where g is 0 and where that layer writes into Y; computing it again would cost half as much again as
both products with W₀ together.

In 16 bits g is applied as Z + (g − 1) ⊙ Z. Near 1 bf16 has steps of 1/128, and all of a row would be off by as much as
g was rounded by; near 0, where g − 1 is, the steps are small. A gain of 1 gives what `lora_linear` gives, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from core.models.quantize import frozen_weight

_ROWS_AT_ONCE = 1024  # of a 16-bit weight, widened to fp32


def squared_row_norms(weight: Tensor) -> Tensor:
    """‖W₀‖² of each row of `weight` `[out, in]`: `[out]` fp32, or fp64 for fp64. To be kept: W₀ never changes."""
    return torch.cat([block.square().sum(1) for block in _widened(weight)])


@torch.no_grad()
def dora_norm(weight: Tensor, weight_sq_norms: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """‖W₀ + scale · B A‖ of each row, a constant to autograd.

    Where B A takes all but the last digits of a row away, what is left of the sum is rounding, and may be negative. The
    norm is therefore never less than √eps times the root of ‖W₀‖² + ‖scale · B A‖². For a row of zeros it is the root
    of the smallest normal number, so that its gain is 0 rather than 0 / 0.

    Args:
        weight: W₀ `[out, in]` in any float dtype. weight_sq_norms: its `squared_row_norms`.
        a: `[r, in]` fp32. b: `[out, r]` fp32.

    Returns:
        `[out]` in the dtype of `weight_sq_norms`.
    """
    wide = weight_sq_norms.dtype
    a, b = a.to(wide), b.to(wide)
    crossed = torch.cat([block @ a.t() for block in _widened(weight)])  # [out, r]
    update = scale**2 * ((b @ (a @ a.t())) * b).sum(1)
    squared = weight_sq_norms + 2 * scale * (crossed * b).sum(1) + update
    limits = torch.finfo(wide)
    noise = limits.eps * (weight_sq_norms + update.abs())
    return squared.maximum(noise).clamp_min(limits.tiny).sqrt()


def dora_gain(magnitude: Tensor, norm: Tensor) -> Tensor:
    """g = m / norm, `[out]`, through which the gradient reaches `magnitude` `[out]` and nothing else."""
    return magnitude / norm


class _DoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, a: Tensor, b: Tensor, gain: Tensor, scale: float, base: nn.Module) -> Tensor:
        own: Any = base.bias
        bias = None if own is None else own.to(rows.dtype)
        plain = nn.functional.linear(rows, frozen_weight(base, rows.dtype), bias)  # [T, out]
        thin = rows @ a.to(rows.dtype).t()  # [T, r]
        plain.addmm_(thin, b.to(rows.dtype).t(), alpha=scale)
        z = plain if bias is None else plain - bias
        y = torch.addcmul(plain, z, (gain - 1).to(rows.dtype))
        _, wants_a, wants_b, wants_gain, *_ = ctx.needs_input_grad
        kept = rows if wants_a else None, thin if wants_b else None, z if wants_gain else None
        ctx.save_for_backward(*kept, a, b, gain)
        ctx.scale, ctx.base = scale, base
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, thin, z, a, b, gain = ctx.saved_tensors
        dy = grads[0]  # [T, out]
        gained = gain[:, None] * b  # g ⊙ B, [out, r]
        dthin = (dy @ gained.to(dy.dtype)).mul_(ctx.scale)  # [T, r]
        da = None if rows is None else (dthin.t() @ rows).to(a.dtype)
        db = None if thin is None else (dy.t() @ thin).to(b.dtype).mul_(ctx.scale * gain[:, None])
        dgain = None if z is None else (dy * z).sum(0, dtype=gain.dtype)
        if not ctx.needs_input_grad[0]:
            return None, da, db, dgain, None, None
        dx = torch.addcmul(dy, dy, (gain - 1).to(dy.dtype)) @ frozen_weight(ctx.base, dy.dtype)
        dx.addmm_(dthin, a.to(dy.dtype))
        return dx, da, db, dgain, None, None


def dora_linear(x: Tensor, base: nn.Module, a: Tensor, b: Tensor, scale: float, gain: Tensor) -> Tensor:
    """gain ⊙ (X W₀ᵀ + scale · (X Aᵀ) Bᵀ) + bias.

    Args:
        x: `[..., in]` in the compute dtype.
        base: the frozen linear layer (plain, Conv1D or quantized) that holds W₀ `[out, in]` and perhaps a bias.
        a: `[r, in]` fp32. b: `[out, r]` fp32.
        scale: s, a number without unit.
        gain: `[out]` fp32, of `dora_gain`.

    Returns:
        `[..., out]` in x's dtype.
    """
    rows = x.reshape(-1, x.shape[-1])
    result: Tensor = _DoraLinear.apply(rows, a, b, gain, scale, base)  # type: ignore[no-untyped-call]
    return result.view(*x.shape[:-1], -1)  # as in `lora_linear`


def _widened(weight: Tensor) -> Iterator[Tensor]:
    """`weight` block by block of rows, in fp32 or wider; views where it is that wide already."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    return (block.to(wide) for block in torch.split(weight, _ROWS_AT_ONCE))
