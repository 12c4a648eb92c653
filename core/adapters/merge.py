"""Fold an adapter into the base: W = W₀ + ΔW, so that it costs nothing at inference (LoRA paper, section 4.1).

The sum is computed in fp32 and rounded once, to the base's dtype or the one asked for; how much that rounding moves the
largest weight is reported, since a small ΔW can drown in it. A quantized base is dequantized first: that is the model
that the adapter was trained beside. Adding and subtracting again would not give W₀ back after rounding, so W₀ is kept
and put back bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer

from core.adapters.copies import AdaptedWhole
from core.adapters.experts import LoraExperts, expert_matrices
from core.adapters.inject import lora_layers, require
from core.adapters.layer import Adapted, LoraLayer
from core.adapters.peft_format import load_adapter, read_adapter
from core.config import QuantConfig
from core.data.tokens.labeling import LABELS_FILE
from core.errors import AdapterError
from core.models.load import ClassHead, LoadedModel, load_model
from core.models.quantize import QuantizedLinear
from core.models.vocabulary import grow

Precision: TypeAlias = Literal["disk", 16, 32]
SHARD_SIZE = "5GB"


@dataclass(slots=True)
class MergeReport:
    """What rounding did: the largest |stored − exact| of all merged weights, and where.

    `largest_change` is the largest |ΔW|, to compare it with, and `stored` the dtype of a whole model that was written.
    """

    largest_error: float = 0.0
    module: str = ""
    largest_change: float = 0.0
    stored: str = ""

    def add(self, module: str, exact: Tensor, stored: Tensor, base: Tensor) -> None:
        """Take one weight into account: `exact` in fp32, as `stored`, and `base` before, of one shape."""
        error = float((stored - exact).abs().max())
        self.largest_change = max(self.largest_change, float((exact - base).abs().max()))
        if error > self.largest_error:
            self.largest_error, self.module = error, module


@contextmanager
def merged(model: nn.Module, key: str, dtype: torch.dtype | None = None) -> Iterator[MergeReport]:
    """Within the block the base weights carry the adapter `key` and no adapter is active; a second block inside it
    changes nothing. Quantized layers with an update are plain ones inside it, in the model's dtype.

    Args:
        dtype: what the weights that change are rounded to, in place of their own.

    Raises:
        AdapterError: no such adapter is loaded, or another one is merged already.
    """
    require(model, key)
    layers = lora_layers(model)
    present = next((layer.merged for layer in layers.values() if layer.merged is not None), None)
    if present not in (None, key):
        raise AdapterError(f"The adapter {present} is merged already", hint=f"Leave its block before merging {key}")
    report = MergeReport()
    with ExitStack() as undo:
        for name, layer in layers.items() if present is None else ():
            undo.callback(setattr, layer, "active", layer.active)
            layer.active = None
            if key in layer.adapters:
                _fold(name, layer, key, _Storing(dtype, _dtype_of(model)), report, undo)
        yield report


def _dtype_of(model: nn.Module) -> torch.dtype:
    return next(parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())


@dataclass(frozen=True, slots=True)
class _Storing:
    """The dtype that is wanted, if any, and the model's own, for what has none to keep."""

    wanted: torch.dtype | None
    model: torch.dtype

    def of(self, parameter: Tensor) -> torch.dtype:
        return self.wanted or parameter.dtype


def _fold(name: str, layer: Adapted, key: str, storing: _Storing, report: MergeReport, undo: ExitStack) -> None:
    """Put the adapter `key` into the base of `layer`; `undo` will put things back as they are now."""
    undo.callback(setattr, layer, "merged", None)
    layer.merged = key
    if isinstance(layer, AdaptedWhole):
        trained = layer.copy_of(key)
        assert trained is not None
        for path, master in trained.trained().items():
            parameter = layer.base.get_parameter(path)
            _swap(f"{name}.{path}", parameter, master.detach(), storing.of(parameter), report, undo)
    elif isinstance(layer, LoraExperts):
        for matrix in expert_matrices(layer.base):
            expert_update = layer.update(key, matrix)
            if expert_update is not None:
                weight = layer.base.get_parameter(matrix)
                exact = weight.detach().float() + layer.weight_change(expert_update)
                _swap(f"{name}.{matrix}", weight, exact, storing.of(weight), report, undo)
    elif isinstance(layer, LoraLayer):
        update = layer.update(key)
        assert update is not None
        change = layer.weight_change(update)
        is_quantized = isinstance(layer.base, QuantizedLinear)
        if isinstance(layer.base, QuantizedLinear):
            undo.callback(setattr, layer, "base", layer.base)
            layer.base = _dequantized(layer.base)
        weight = cast(nn.Parameter, layer.base.weight)
        wide = torch.promote_types(weight.dtype, torch.float32)
        stored_as = storing.wanted or (storing.model if is_quantized else weight.dtype)
        _swap(name, weight, weight.detach().to(wide) + change, stored_as, report, undo)
        if update.bias is not None:
            bias: Any = layer.base.bias
            _swap(f"{name}.bias", bias, update.bias.detach(), storing.of(bias), report, undo)


def _dequantized(layer: QuantizedLinear) -> nn.Linear:
    """A plain linear layer with the weights that the quantized one computes with, in fp32."""
    plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device=layer.packed.device)
    plain.weight = nn.Parameter(layer.dequantize(torch.float32), requires_grad=False)
    plain.register_parameter("bias", layer.bias)
    return plain


def _swap(
    name: str, parameter: nn.Parameter, exact: Tensor, dtype: torch.dtype, report: MergeReport, undo: ExitStack
) -> None:
    undo.callback(setattr, parameter, "data", parameter.data)
    stored = exact.to(dtype)
    report.add(name, exact, stored, parameter.detach())
    parameter.data = stored


def _head(adapter_folder: Path) -> ClassHead | None:
    """The head to load the base with where the adapter is a classifier's; whatever is drawn for it, the adapter has."""
    path = adapter_folder / LABELS_FILE
    if not path.is_file():
        return None
    try:
        labels = json.loads(path.read_text(encoding="utf-8"))
        return ClassHead(labels=tuple(map(str, labels)), seed=0)
    except (ValueError, TypeError):
        raise AdapterError(f"{LABELS_FILE} holds no names", str(adapter_folder), "Export the adapter again") from None


def load_adapted(
    adapter_folder: Path, model_folder: Path, *, dtype: torch.dtype | None, quant: QuantConfig | None = None
) -> tuple[LoadedModel, str]:
    """The base with the adapter beside it, not active yet, and the adapter's key; its tokenizer is the adapter's own
    where that brings one (new tokens, or a chat template of ours), and a classifier has its head.

    Raises:
        AdapterError, ModelError: the adapter or the base cannot be read, or do not fit each other.
    """
    loaded = load_model(model_folder, dtype=dtype, quant=quant, head=_head(adapter_folder))
    if (adapter_folder / "tokenizer.json").is_file():
        own = AutoTokenizer.from_pretrained(adapter_folder, local_files_only=True, trust_remote_code=False)
        loaded = replace(loaded, tokenizer=own)
    grow(loaded.model, read_adapter(adapter_folder).vocabulary)
    return loaded, load_adapter(loaded.model, adapter_folder)


@contextmanager
def merged_whole(loaded: LoadedModel, key: str, dtype: torch.dtype | None) -> Iterator[MergeReport]:
    """Within the block `loaded.model` is a plain model that carries the adapter, all of it in `dtype`, where that is
    given. Afterwards it is good for nothing.
    """
    layers = lora_layers(loaded.model)
    with merged(loaded.model, key, dtype) as report:
        for name, layer in layers.items():
            parent_name, _, child = name.rpartition(".")
            setattr(loaded.model.get_submodule(parent_name), child, layer.base)
        if dtype is not None:
            loaded.model.to(dtype)
        yield report


def export_merged(
    adapter_folder: Path,
    model_folder: Path,
    output: Path,
    *,
    precision: Precision = "disk",
    quant: QuantConfig | None = None,
    shard_size: str = SHARD_SIZE,
) -> MergeReport:
    """Write base and adapter as one plain model in transformers' format, with tokenizer, chat template and generation
    settings.

    Args:
        precision: of the weights written: `disk` as the base's are; 16, bf16 unless the base has other 16 bits; or 32.
        quant: how the base was quantized while the adapter was trained, where the result is to be that model; None
            merges into the base as it is on disk.
        shard_size: the most that a file of weights may take, as `5GB`.

    Raises:
        AdapterError, ModelError: the adapter or the base cannot be read, or do not fit each other.
    """
    in_memory = torch.float32 if precision == 32 else None
    loaded, key = load_adapted(adapter_folder, model_folder, dtype=in_memory, quant=quant)
    dtype = torch.bfloat16 if precision == 16 and loaded.dtype == torch.float32 else None
    with merged_whole(loaded, key, dtype) as report:
        loaded.model.save_pretrained(output, max_shard_size=shard_size)
        loaded.tokenizer.save_pretrained(output)
        report.stored = str(loaded.model.dtype).removeprefix("torch.")
    return report
