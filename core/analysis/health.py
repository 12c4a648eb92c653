"""What training did to each module: how large its change is beside the weight that it changes.

    ‖ΔW‖ / ‖W₀‖        Frobenius norms, ΔW = s · B A

B A is as large as the weight and is not formed: with the r × r Gram matrices of the factors, in fp64,

    ‖B A‖² = tr(Aᵀ Bᵀ B A) = tr((Bᵀ B)(A Aᵀ)) = Σᵢⱼ (Bᵀ B)ᵢⱼ (A Aᵀ)ᵢⱼ

Where a start is taken out again (PiSSA's and its like: ΔW = s (B A − B₀ A₀)), the sum cancels; in fp64 what is left is
off by 1e-8 of ‖B A‖ at most. DoRA rescales W₀ + ΔW row by row, so its change is formed, one module at a time.

Faults, and why there:

    not finite   a NaN or an infinity among the trained numbers; nothing that the adapter says means anything
    unmoved      ‖ΔW‖ < 1e-7 ‖W₀‖: about the last of the 24 bits of an fp32 weight, so that none would change. A and B
                 of a fresh adapter give exactly 0; of one that was stored with its start (PiSSA) about 1e-8
    exploding    ‖ΔW‖ > ‖W₀‖: less is left of what the base knew than was put there; or ten times what is usual in this
                 adapter (its modules' median) and at least a fifth of the weight, below which no harm was seen

Embeddings of single tokens are set beside those tokens' rows, biases beside the base's bias, whole copies beside the
base's weights. Experts are measured together, as one module each, and those that never moved (no token came to them)
are counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from core.adapters.copies import AdaptedWhole, TrainedCopy
from core.adapters.embedding import LoraEmbedding
from core.adapters.experts import LoraExperts
from core.adapters.inject import lora_layers
from core.adapters.layer import Adapted, LoraLayer
from core.adapters.lowrank import BiasOnly, LowRank, TokenRows
from core.analysis.appraisal import Fault, Module

UNMOVED = 1e-7
LARGER = 1.0
FAR_ABOVE, AT_LEAST = 10.0, 0.2


@torch.no_grad()
def modules_of(model: nn.Module, key: str) -> tuple[Module, ...]:
    """Every module that the adapter `key` trains, in model order, with its fault if it has one."""
    measured = [module for name, layer in lora_layers(model).items() for module in _measure(name, layer, key)]
    usual = median([share for module in measured if (share := module.share)] or [0.0])
    return tuple(replace(module, fault=module.fault or _fault(module, usual)) for module in measured)


def _fault(module: Module, usual: float) -> Fault:
    if module.unmeasured:
        return ""
    if module.change == 0 or (module.share is not None and module.share < UNMOVED):
        return "unmoved"
    if module.share is not None and (module.share > LARGER or module.share > max(FAR_ABOVE * usual, AT_LEAST)):
        return "exploding"
    return ""


def _measure(name: str, layer: Adapted, key: str) -> Iterator[Module]:
    if key not in layer.adapters:  # a tied head, which only follows its embedding
        return
    if isinstance(layer, LoraExperts):
        updates: Any = layer.adapters[key]
        for matrix, update in updates.items():
            yield _experts(f"{name}.{matrix}", getattr(layer.base, matrix), update)
    elif isinstance(layer, AdaptedWhole):
        found = layer.copy_of(key)
        assert found is not None
        yield _copy(name, layer.base, found)
    elif isinstance(layer, LoraLayer):
        update = layer.adapters[key]
        assert isinstance(update, LowRank)
        yield _low_rank(name, layer, update)
    else:
        yield Module(name=name, unmeasured=f"a {type(layer).__name__} is a kind that is not measured")


def _low_rank(name: str, layer: LoraLayer, update: LowRank) -> Module:
    if isinstance(update, BiasOnly):
        assert update.bias is not None
        bias: Any = layer.base.bias
        return _module(name, norm(update.bias - bias), norm(bias))
    if isinstance(update, TokenRows):
        assert isinstance(layer, LoraEmbedding)
        rows: Any = layer.base.weight
        return _module(name, norm(update.b), norm(rows[update.tokens]))
    matrix = layer.matrix()
    if update.magnitude is not None:
        change = norm(layer.matrix_change(update))
    else:
        change = update.scale * float(product_norms(*update.factors()))
    return _module(name, change, norm(matrix), a=norm(update.a), b=norm(update.b))


def _experts(name: str, weight: Tensor, update: LowRank) -> Module:
    changes = update.scale * product_norms(*update.factors())  # [experts]
    weights = torch.linalg.vector_norm(weight.flatten(1), dim=1, dtype=torch.float32).double()
    unmoved = int((changes < UNMOVED * weights).sum())
    parts = {"parts": len(changes), "unmoved_parts": unmoved}
    return _module(name, norm(changes), norm(weights), a=norm(update.a), b=norm(update.b), **parts)


def _copy(name: str, base: nn.Module, found: TrainedCopy) -> Module:
    start: Mapping[str, Tensor] = dict(base.named_parameters())
    changes = [norm(parameter - start[part].float()) for part, parameter in found.trained().items()]
    weights = [norm(start[part]) for part in found.trained()]
    return _module(name, math.hypot(*changes), math.hypot(*weights))


def _module(name: str, change: float, weight: float, **more: Any) -> Module:
    """With what is not finite left out, since no file of ours holds that."""
    is_finite = all(math.isfinite(value) for value in (change, weight, *more.values()))
    values = {"change": change, "weight": weight, **more}
    kept = {name: value if math.isfinite(value) else None for name, value in values.items()}
    return Module(name=name, fault="" if is_finite else "not finite", **kept)  # type: ignore[arg-type]


def norm(tensor: Tensor) -> float:
    """The Frobenius norm, summed in fp32 or better."""
    return float(torch.linalg.vector_norm(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32)))


def product_norms(a: Tensor, b: Tensor) -> Tensor:
    """‖B A‖ of A `[…, R, in]` and B `[…, out, R]`, `[…]` fp64, without forming B A."""
    a, b = a.double(), b.double()
    squares = ((b.mT @ b) * (a @ a.mT)).sum(dim=(-2, -1))
    return squares.clamp(min=0).sqrt()
