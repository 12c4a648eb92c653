"""A model's norms and gated feed-forward layers go through our kernels where these compute the same.

Architectures share a few building blocks under many names, and a list of names would never be complete. So each module
that looks like one of ours is tried on a few random numbers, small and large, and its forward is replaced where ours
agrees to rounding. Weights, names and classes stay as they are; what the model's own code then makes of it all is tried
on whole rows before training (`core.train.trial`).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from core.kernels.rms_norm import rms_norm
from core.kernels.swiglu import swiglu

_Forward: TypeAlias = Callable[[Tensor], Tensor]
TRIED_ROWS = 4
# What is tried must tell apart what differs in small numbers alone (an epsilon) or in large ones (a clamp).
TRIED_SCALES = (1.0, 1e-3, 64.0)
# Two roundings of a number of the dtype lie between a module's own order of operations and ours.
TOLERANCE = {torch.bfloat16: 2**-6, torch.float16: 2**-9, torch.float32: 1e-5, torch.float64: 1e-5}
_EPS = ("variance_epsilon", "eps", "epsilon")


def make_lean(model: nn.Module, dtype: torch.dtype, device: torch.device) -> int:
    """Replace what can be replaced in `model`, which computes in `dtype` on `device`; returns in how many modules."""
    replaced = 0
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        for width, forward in _candidates(module):
            x = torch.randn(1, TRIED_ROWS, width, generator=generator)
            if all(_agrees(module, forward, (scale * x).to(device, dtype)) for scale in TRIED_SCALES):
                module.forward = forward
                replaced += 1
                break
    return replaced


def _candidates(module: Any) -> Iterator[tuple[int, _Forward]]:
    """The width of what `module` takes, and what may compute the same as its forward."""
    if len(inspect.signature(module.forward).parameters) != 1:
        return
    eps = next((getattr(module, name) for name in _EPS if hasattr(module, name)), None)
    weight = getattr(module, "weight", None)
    if type(module).__name__.endswith("RMSNorm") and eps is not None and weight is not None and weight.dim() == 1:
        for is_centered in (False, True):
            yield weight.shape[0], functools.partial(_norm, module, eps, is_centered)
    for first, forward in (("gate_proj", _gated), ("gate_up_proj", _gated_in_one)):
        width = getattr(getattr(module, first, None), "in_features", None)
        if width is not None:
            yield width, functools.partial(forward, module)


def _norm(module: Any, eps: float, is_centered: bool, x: Tensor) -> Tensor:
    return rms_norm(x, module.weight, eps, is_centered=is_centered)


def _gated(module: Any, x: Tensor) -> Tensor:
    result: Tensor = module.down_proj(swiglu(module.gate_proj(x), module.up_proj(x)))
    return result


def _gated_in_one(module: Any, x: Tensor) -> Tensor:
    result: Tensor = module.down_proj(swiglu(*module.gate_up_proj(x).chunk(2, dim=-1)))
    return result


@torch.no_grad()
def _agrees(module: nn.Module, forward: _Forward, x: Tensor) -> bool:
    try:
        wanted, got = module(x), forward(x)
    except Exception:  # noqa: BLE001  some architecture's own idea of such a module: it is left alone
        return False
    if wanted.dtype != got.dtype or wanted.shape != got.shape:
        return False
    return bool((got - wanted).norm() <= TOLERANCE[x.dtype] * wanted.norm())
