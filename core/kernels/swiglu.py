"""The gated product of a SwiGLU feed-forward layer as one autograd function (arXiv 2002.05202).

    H = silu(G) ⊙ U        silu(g) = g · σ(g)

    dU = dH ⊙ silu(G)      dG = dH ⊙ U ⊙ σ(G) (1 + G (1 − σ(G)))

Written as plain operations, autograd keeps G, U and silu(G), and the layer behind keeps H: four tensors of the width
of the hidden units, the widest of the block. Here G and U are kept, and H is marked as computed again from them
(`core.kernels.recompute`); silu(G), which that takes, is then there for dU too.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from core.kernels.recompute import Aside, remember


class _Swiglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, activation: Aside) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.activation = activation
        return silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        gate, up = ctx.saved_tensors
        dgate = torch.ops.aten.silu_backward(grads[0] * up, gate)
        return dgate, ctx.activation.take(lambda: silu(gate)).mul_(grads[0]), None


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) ⊙ up, both `[..., f]` in one dtype, which is the result's."""
    activation = Aside()
    product: Tensor = _Swiglu.apply(gate, up, activation)  # type: ignore[no-untyped-call]
    return remember(product, functools.partial(_product, activation), gate, up)


def _product(activation: Aside, gate: Tensor, up: Tensor) -> Tensor:
    return activation.put(silu(gate)) * up
