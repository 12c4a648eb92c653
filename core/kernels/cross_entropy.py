"""Cross-entropy of a frozen output head, at labeled positions alone, in chunks.

Logits are the largest tensor of a small model's step: T · V numbers, where the vocabulary V is tens of thousands. Only
positions with a label need them, and since the head W [V, d] is frozen the gradient for the hidden states is known as
soon as a chunk's logits are:

    ℓ = Σ_t (log Σ_v exp z_tv − z_t,y_t)      z = H Wᵀ      dH = (softmax(z) − onehot(y)) W

So each chunk's logits live only until its dH is formed, within the forward pass; backward scales dH. Logits are
raised to fp32 before the softmax, as the plain computation does. Not for a head that is adapted or trained, nor for
models that transform their logits afterwards (soft capping, scaling): those take `plain_cross_entropy`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

CHUNK_ROWS = 256


class _FrozenHeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        total = torch.zeros(
            (), dtype=torch.float64 if hidden.dtype == torch.float64 else torch.float32, device=hidden.device
        )
        dhidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, hidden.shape[0], CHUNK_ROWS):
            part = slice(start, start + CHUNK_ROWS)
            logits = hidden[part] @ weight.t()
            scores = logits if logits.dtype == torch.float64 else logits.float()  # [chunk, V]
            log_norm = torch.logsumexp(scores, dim=-1, keepdim=True)
            total += (log_norm - scores.gather(1, labels[part, None])).sum()
            if dhidden is not None:
                error = scores.sub_(log_norm).exp_()
                error.scatter_add_(1, labels[part, None], error.new_full((error.shape[0], 1), -1.0))
                torch.mm(error.to(weight.dtype), weight, out=dhidden[part])
        ctx.save_for_backward(dhidden)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (dhidden,) = ctx.saved_tensors
        return dhidden * grads[0], None, None  # a scalar factor: it is not rounded to dhidden's dtype first


def frozen_head_cross_entropy(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Summed cross-entropy in nats.

    Args:
        hidden: `[n, d]`, the labeled positions' final hidden states.
        weight: `[V, d]` in the same dtype, frozen.
        labels: `[n]` int64, each in `[0, V)`.

    Returns:
        A scalar, fp32 (fp64 for fp64 inputs).
    """
    result: Tensor = _FrozenHeadLoss.apply(hidden, weight, labels)  # type: ignore[no-untyped-call]
    return result


def plain_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Summed cross-entropy in nats of `[n, V]` logits and `[n]` labels, computed in fp32."""
    return cross_entropy(logits.float(), labels, reduction="sum")
