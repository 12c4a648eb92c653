"""Cross-entropy of a frozen output head, at labeled positions alone, in chunks.

Logits are the largest tensor of a small model's step: T · V numbers, where the vocabulary V is tens of thousands. Only
positions with a label need them, and since the head W [V, d] is frozen the gradient for the hidden states is known as
soon as a chunk's logits are:

    ℓ = Σ_t (log Σ_v exp z_tv − z_t,y_t)      z = H Wᵀ      dH = (softmax(z) − onehot(y)) W

So each chunk's logits live only until its dH is formed, within the forward pass; backward scales dH. Logits are
raised to fp32 before the softmax, as the plain computation does.

The two products want a chunk of hundreds of rows. All between them is bound by memory, and wants few rows at a time
that stay in the cache, in one fp32 buffer that is written over and over: memory that a process gets anew is handed out
page by page, which on a CPU took four times as long as the arithmetic. The softmax less the label goes where the
logits were.

Where no gradient is wanted, as in an evaluation, the same pass also counts the labels that have the largest logit: one
more look at numbers that are in the cache.

Not for a head that is adapted or trained, nor for models that transform their logits afterwards (soft capping,
scaling): those take `plain_cross_entropy`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

CHUNK_ROWS = 256
_WIDE_BYTES = 16 * 2**20  # of the fp32 buffer, for at least one row's logits and their softmax


class _FrozenHeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        dhidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        total = hidden.new_zeros((), dtype=_wide(hidden))
        for loss, _ in _parts(hidden, weight, labels, dhidden):
            total += loss
        ctx.save_for_backward(dhidden)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (dhidden,) = ctx.saved_tensors
        return dhidden * grads[0], None, None  # a scalar factor: it is not rounded to dhidden's dtype first


def _wide(hidden: Tensor) -> torch.dtype:
    """What sums are kept in."""
    return torch.promote_types(hidden.dtype, torch.float32)


def _parts(hidden: Tensor, weight: Tensor, labels: Tensor, dhidden: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    """The summed loss of some rows after the other, and their logits in the wide dtype, until the next are asked for;
    `dhidden` becomes the gradient of all, where it is given.
    """
    wide = _wide(hidden)
    rows = max(1, _WIDE_BYTES // (2 * weight.shape[0] * wide.itemsize))
    buffer = hidden.new_empty(2, min(rows, len(hidden)), weight.shape[0], dtype=wide)
    for chunk in _slices(len(hidden), CHUNK_ROWS):
        logits = hidden[chunk] @ weight.t()  # [chunk, V]
        for part in _slices(len(logits), rows):
            loss = _loss(logits[part], labels[chunk][part], buffer, is_gradient_wanted=dhidden is not None)
            yield loss, buffer[0, : len(logits[part])]
        if dhidden is not None:
            torch.mm(logits, weight, out=dhidden[chunk])


def _slices(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _loss(logits: Tensor, labels: Tensor, buffer: Tensor, *, is_gradient_wanted: bool) -> Tensor:
    """The summed loss of some rows; their `logits` become softmax − onehot where the gradient is wanted."""
    scores, p, labels = buffer[0, : len(logits)].copy_(logits), buffer[1, : len(logits)], labels[:, None]
    largest, chosen = scores.amax(dim=1, keepdim=True), scores.gather(1, labels)
    torch.softmax(scores, dim=1, out=p)
    norm = p.amax(dim=1, keepdim=True).reciprocal()  # Σ exp(z − largest), of which the largest is 1
    if is_gradient_wanted:
        logits.copy_(p.scatter_add_(1, labels, torch.full_like(chosen, -1.0)))
    return (norm.log() + largest - chosen).sum()


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


@torch.no_grad()
def frozen_head_score(hidden: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy in nats, as `frozen_head_cross_entropy` of the same arguments has it, and how many labels
    have the largest logit of their row (of equal ones, the first counts): scalars, fp32 or fp64, and int64.
    """
    total = hidden.new_zeros((), dtype=_wide(hidden))
    correct = hidden.new_zeros((), dtype=torch.int64)
    answered = 0
    for loss, logits in _parts(hidden, weight, labels, None):
        total += loss
        correct += (logits.argmax(dim=1) == labels[answered : answered + len(logits)]).sum()
        answered += len(logits)
    return total, correct


def plain_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Summed cross-entropy in nats of `[n, V]` logits and `[n]` labels, computed in fp32."""
    return cross_entropy(logits.float(), labels, reduction="sum")
