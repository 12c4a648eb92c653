"""Fold an adapter into the base: W = W₀ + s · B A, so that it costs nothing at inference (LoRA paper, section 4.1).

The sum is computed in fp32 and rounded once to the base's dtype. Adding and subtracting again would not give W₀ back
after rounding, so W₀ is kept and put back bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from core.adapters.inject import lora_layers
from core.adapters.peft_format import load_adapter
from core.errors import AdapterError
from core.models.load import load_model
from core.models.quantize import QuantizedLinear


@contextmanager
def merged(model: nn.Module, key: str) -> Iterator[None]:
    """Within the block the base weights carry the adapter `key` and no adapter is active.

    Raises:
        AdapterError: the base is quantized, where merging would round the adapter away.
    """
    originals: list[tuple[nn.Module, torch.Tensor]] = []
    actives: list[str | None] = []
    layers = list(lora_layers(model).values())
    if any(isinstance(layer.base, QuantizedLinear) for layer in layers):
        raise AdapterError("A quantized base cannot be merged into", hint="Load the base in 16 or 32 bits")
    try:
        for layer in layers:
            actives.append(layer.active)
            layer.active = None
            update = layer.update(key)
            if update is not None:
                weight: torch.Tensor = layer.base.weight  # type: ignore[assignment]
                originals.append((layer.base, weight.data))
                weight.data = (weight.data.float() + update.delta()).to(weight.dtype)
        yield
    finally:
        for base, original in originals:
            base.weight.data = original
        for layer, active in zip(layers, actives, strict=False):
            layer.active = active


def export_merged(adapter_folder: Path, model_folder: Path, output: Path) -> None:
    """Write base and adapter as one plain model in transformers' format (fp32 sum, stored in the base's dtype).

    Raises:
        AdapterError, ModelError: the adapter or the base cannot be read, or do not fit each other.
    """
    loaded = load_model(model_folder, dtype=None)
    key = load_adapter(loaded.model, adapter_folder)
    layers = lora_layers(loaded.model)
    with merged(loaded.model, key):
        for name, layer in layers.items():
            parent_name, _, child = name.rpartition(".")
            setattr(loaded.model.get_submodule(parent_name), child, layer.base)
        loaded.model.save_pretrained(output)
        loaded.tokenizer.save_pretrained(output)
