"""The linear layers of a loaded model: what can be adapted or quantized."""

from __future__ import annotations

from typing import Any

from torch import nn

from core.adapters.linear import LoraLinear
from core.models.quantize import QuantizedLinear
from core.models.shapes import LinearShape


def find_linears(model: nn.Module) -> tuple[LinearShape, ...]:
    """Every linear layer but the output head (plain, quantized or adapted already), in model order."""
    get_head: Any = getattr(model, "get_output_embeddings", None)
    head = get_head() if get_head else None
    inside_adapted = {f"{name}.base" for name, module in model.named_modules() if isinstance(module, LoraLinear)}
    return tuple(
        LinearShape(name=name, in_features=module.in_features, out_features=module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | QuantizedLinear | LoraLinear)
        and module is not head
        and name not in inside_adapted
    )
