"""Adapters on disk in PEFT's format: what we write peft loads, what peft writes for plain LoRA we load.

A folder with `adapter_config.json` and `adapter_model.safetensors`. For a module at path P the tensors are
`base_model.model.P.lora_A.weight` [r, in] and `base_model.model.P.lora_B.weight` [out, r]. Where peft passes over
missing or surplus keys with a warning, `load_adapter` refuses: every key must fit before anything in the model is
changed. Only safetensors are read; a pickle is never opened.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from core.adapters.inject import device_of, lora_layers, wrap
from core.adapters.lowrank import LowRank
from core.config import LoraConfig
from core.errors import AdapterError
from core.models.linears import find_linears

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."
UNSUPPORTED = (
    "use_dora",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "fan_in_fan_out",
    "lora_bias",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFiles:
    """An adapter as read: its settings and, for each module, A `[r, in]` and B `[out, r]` in fp32."""

    rank: int
    alpha: float
    base_model: str
    tensors: dict[str, tuple[Tensor, Tensor]]
    fingerprint: str


def save_adapter(model: nn.Module, key: str, folder: Path, config: LoraConfig, base_model: str) -> None:
    """Write the adapter `key` of `model` into `folder`, which is made where it is missing."""
    tensors: dict[str, Tensor] = {}
    for name, layer in lora_layers(model).items():
        update = layer.update(key)
        if update is not None:
            tensors[f"{PREFIX}{name}.lora_A.weight"] = update.a.detach().cpu().contiguous()
            tensors[f"{PREFIX}{name}.lora_B.weight"] = update.b.detach().cpu().contiguous()
    adapted = [name for name, layer in lora_layers(model).items() if key in layer.adapters]
    settings = _peft_settings(config, base_model, _short_targets(adapted, [s.name for s in find_linears(model)]))
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / CONFIG_FILE).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _peft_settings(config: LoraConfig, base_model: str, targets: Sequence[str]) -> dict[str, Any]:
    alpha = int(config.alpha) if float(config.alpha).is_integer() else config.alpha
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "revision": None,
        "r": config.rank,
        "lora_alpha": alpha,
        "lora_dropout": config.dropout,
        "target_modules": list(targets),
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "rank_pattern": {},
        "alpha_pattern": {},
        "modules_to_save": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "inference_mode": True,
    }


def _short_targets(adapted: Sequence[str], every: Sequence[str]) -> list[str]:
    """Last parts of names (`q_proj`) where these name exactly the adapted modules, else full names."""
    last_parts = Counter(name.rpartition(".")[2] for name in every)
    adapted_parts = Counter(name.rpartition(".")[2] for name in adapted)
    short = all(last_parts[part] == count for part, count in adapted_parts.items())
    return sorted(adapted_parts) if short else list(adapted)


def fingerprint(folder: Path) -> str:
    """The first 8 hexadecimal digits of the weight file's SHA-256: the name that a pane shows as proof."""
    with (folder / WEIGHTS_FILE).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:8]


def read_adapter(folder: Path) -> AdapterFiles:
    """The adapter in `folder`, checked for all that can be checked without its base model.

    Raises:
        AdapterError: a file is missing or broken, a variant is asked for that we do not have, a tensor is unpaired,
            misshapen or not finite.
    """
    settings = _read_settings(folder)
    rank, alpha = int(settings["r"]), float(settings["lora_alpha"])
    return AdapterFiles(
        rank=rank,
        alpha=alpha,
        base_model=str(settings.get("base_model_name_or_path") or ""),
        tensors=_pair(_read_tensors(folder), rank, folder),
        fingerprint=fingerprint(folder),
    )


def _read_settings(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AdapterError(
            f"There is no adapter in {folder}", f"{CONFIG_FILE} is missing", "Choose an adapter's folder"
        ) from None
    except ValueError:
        raise AdapterError(f"{CONFIG_FILE} is not JSON", str(folder), "Export the adapter again") from None
    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
        raise AdapterError("The adapter is not a LoRA adapter", str(path), "Choose one whose peft_type is LORA")
    for name in ("r", "lora_alpha"):
        if not isinstance(settings.get(name), int | float) or settings[name] <= 0:
            raise AdapterError(f"{name} is {settings.get(name)!r}", str(path), "It must be a number above 0")
    for name in UNSUPPORTED:
        if settings.get(name):
            raise AdapterError(
                f"The adapter uses {name}, which is not supported yet", str(path), "Choose a plain LoRA adapter"
            )
    if settings.get("bias", "none") != "none":
        raise AdapterError(
            "The adapter trains biases, which is not supported yet", str(path), "Choose a plain LoRA adapter"
        )
    return settings


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS_FILE
    try:
        return load_file(path)
    except FileNotFoundError:
        raise AdapterError(f"{WEIGHTS_FILE} is missing", str(folder), "Export the adapter as safetensors") from None
    except SafetensorError as error:
        raise AdapterError(f"{WEIGHTS_FILE} is broken: {error}", str(folder), "Copy or export it again") from None


def _pair(tensors: dict[str, Tensor], rank: int, folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    halves: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        module, _, half = key.removesuffix(".weight").rpartition(".")
        if not key.startswith(PREFIX) or not key.endswith(".weight") or half not in ("lora_A", "lora_B"):
            raise AdapterError(f"The tensor {key} is not part of a plain LoRA adapter", str(folder), "Export it again")
        side = 0 if half == "lora_A" else 1
        if tensor.ndim != 2 or tensor.shape[side] != rank:
            raise AdapterError(
                f"{key} has the shape {list(tensor.shape)}, but r is {rank}", str(folder), "Export it again"
            )
        if not torch.isfinite(tensor).all():
            raise AdapterError(
                f"{key} holds values that are not finite", str(folder), "Train it again at a lower learning rate"
            )
        halves.setdefault(module.removeprefix(PREFIX), {})[half] = tensor.float()
    for module, pair in halves.items():
        if len(pair) == 1:
            raise AdapterError(f"{module} has {next(iter(pair))} only", str(folder), "Export the adapter again")
    if not halves:
        raise AdapterError("The adapter holds no tensors", str(folder), "Export it again")
    return {module: (pair["lora_A"], pair["lora_B"]) for module, pair in halves.items()}


def load_adapter(model: nn.Module, folder: Path) -> str:
    """Put the adapter in `folder` beside the layers of `model`; loading it again changes nothing.

    Returns:
        The adapter's key in `model`: its fingerprint.

    Raises:
        AdapterError: it is broken, or does not fit this model; nothing was changed.
    """
    files = read_adapter(folder)
    shapes = {shape.name: shape for shape in find_linears(model)}
    for module, (a, b) in files.tensors.items():
        if module not in shapes:
            raise AdapterError(
                f"The adapter is for another base model: this one has no linear layer {module}",
                f"made for {files.base_model or 'an unnamed model'}",
                "Choose the base it was trained on",
            )
        shape = shapes[module]
        if (a.shape[1], b.shape[0]) != (shape.in_features, shape.out_features):
            raise AdapterError(
                f"The adapter is for another base model: {module} is {b.shape[0]}×{a.shape[1]} in it "
                f"and {shape.out_features}×{shape.in_features} here",
                f"made for {files.base_model or 'an unnamed model'}",
                "Choose the base it was trained on",
            )
    for module, (a, b) in files.tensors.items():
        _place(wrap(model, module), files, a, b)
    return files.fingerprint


def _place(layer: Any, files: AdapterFiles, a: Tensor, b: Tensor) -> None:
    device = device_of(layer.base)
    update = LowRank(a.shape[1], b.shape[0], rank=files.rank, alpha=files.alpha, device=device)
    update.a.data.copy_(a)
    update.b.data.copy_(b)
    update.requires_grad_(False)
    layer.adapters[files.fingerprint] = update
