"""RMSNorm as one autograd function (arXiv 1910.07467).

    y = n ⊙ w        n = ρ x        ρ = (mean(x²) + ε)^(−1/2), one number a row of width d

With dn = dy ⊙ w:

    dx = ρ (dn − n · mean(dn ⊙ n))        dw = Σ_rows dy ⊙ n

All in fp32, whatever x is kept in. Written as plain operations, autograd keeps x in fp32, n in fp32 and n in 16 bits;
here x and ρ are kept, and y is marked as computed again from them (`core.kernels.recompute`), so that a layer behind
the norm keeps nothing of its own; n, which that takes, is then there for dx too.

Two forms are in use: weights around 1 that multiply n once it is rounded to x's dtype, as in Llama, and weights around
0, where 1 + w multiplies n in fp32 (`is_centered`), as in Gemma.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from core.kernels.recompute import Aside, remember


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, eps: float, is_centered: bool, normalized: Aside
    ) -> tuple[Tensor, Tensor]:
        wide = _widened(x)
        rho = (torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square() / x.shape[-1] + eps).rsqrt()
        ctx.save_for_backward(x, rho, weight)
        ctx.is_centered, ctx.normalized = is_centered, normalized
        ctx.mark_non_differentiable(rho)
        return _weighted(wide * rho, weight, x.dtype, is_centered), rho

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        x, rho, weight = ctx.saved_tensors
        n, dy = ctx.normalized.take(lambda: _widened(x) * rho), _widened(grads[0])
        dweight = None
        if ctx.needs_input_grad[1]:
            dweight = (dy * n).reshape(-1, x.shape[-1]).sum(0).to(weight.dtype)
        if not ctx.needs_input_grad[0]:
            return None, dweight, None, None, None
        dn = dy * (weight.to(dy.dtype) + 1 if ctx.is_centered else weight.to(dy.dtype))
        mean = torch.linalg.vecdot(dn, n)[..., None] / x.shape[-1]
        return dn.addcmul_(n, mean, value=-1).mul_(rho).to(x.dtype), dweight, None, None, None


def rms_norm(x: Tensor, weight: Tensor, eps: float, *, is_centered: bool = False) -> Tensor:
    """x, each row divided by its root mean square and multiplied by the weight.

    Args:
        x: `[..., d]`. weight: `[d]`, in the dtype of x or a wider one.
        is_centered: 1 + weight is meant.

    Returns:
        `[..., d]` in x's dtype; in the weight's where that is wider and not `is_centered`.
    """
    normalized = Aside()
    y, rho = _RmsNorm.apply(x, weight, eps, is_centered, normalized)  # type: ignore[no-untyped-call]
    return remember(y, functools.partial(_again, normalized, is_centered), x, rho, weight)


def _again(normalized: Aside, is_centered: bool, x: Tensor, rho: Tensor, weight: Tensor) -> Tensor:
    return _weighted(normalized.put(_widened(x) * rho), weight, x.dtype, is_centered)


def _weighted(n: Tensor, weight: Tensor, dtype: torch.dtype, is_centered: bool) -> Tensor:
    if is_centered:
        return (n * (weight.to(n.dtype) + 1)).to(dtype)
    return n.to(dtype) * weight


def _widened(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
