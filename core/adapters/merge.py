"""Fold an adapter into the base: W = W₀ + s · B A, so that it costs nothing at inference (LoRA paper, section 4.1).

The sum is computed in fp32 and rounded once to the base's dtype. Adding and subtracting again would not give W₀ back
after rounding, so W₀ is kept and put back bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from torch import nn

from core.adapters.inject import lora_layers, require
from core.adapters.linear import LoraLinear
from core.adapters.peft_format import load_adapter
from core.errors import AdapterError
from core.models.load import load_model
from core.models.quantize import QuantizedLinear


@contextmanager
def merged(model: nn.Module, key: str) -> Iterator[None]:
    """Within the block the base weights carry the adapter `key` and no adapter is active; a second block inside it
    changes nothing.

    Raises:
        AdapterError: no such adapter is loaded, another one is merged already, or the base is quantized, where merging
            would round the adapter away.
    """
    require(model, key)
    layers = list(lora_layers(model).values())
    present = next((layer.merged for layer in layers if layer.merged is not None), None)
    if present not in (None, key):
        raise AdapterError(f"The adapter {present} is merged already", hint=f"Leave its block before merging {key}")
    if any(isinstance(layer.base, QuantizedLinear) for layer in layers):
        raise AdapterError("A quantized base cannot be merged into", hint="Load the base in 16 or 32 bits")
    with ExitStack() as undo:
        for layer in layers if present is None else ():
            _fold(layer, key, undo)
        yield


def _fold(layer: LoraLinear, key: str, undo: ExitStack) -> None:
    """Add the update `key` to the base's weight; `undo` will put things back as they are now."""
    undo.callback(setattr, layer, "active", layer.active)
    layer.active = None
    update = layer.update(key)
    if update is None:
        return
    weight: nn.Parameter = layer.base.weight  # type: ignore[assignment]
    undo.callback(setattr, weight, "data", weight.data)
    undo.callback(setattr, layer, "merged", None)
    weight.data = (weight.data.float() + update.delta()).to(weight.dtype)
    layer.merged = key


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
