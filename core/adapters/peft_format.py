"""Adapters on disk in PEFT's format: what we write peft loads, what peft writes for plain LoRA we load.

A folder with `adapter_config.json` and `adapter_model.safetensors`. For a module at path P the tensors are
`base_model.model.P.lora_A.weight` [r, in] and `base_model.model.P.lora_B.weight` [out, r]. Where peft passes over
missing or surplus keys with a warning, `load_adapter` refuses: every key must fit before anything in the model is
changed. Only safetensors are read; a pickle is never opened.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from core.adapters.begin import device_of
from core.adapters.inject import lora_layers, require, wrap
from core.adapters.lowrank import LowRank
from core.config import LoraConfig
from core.errors import AdapterError
from core.models.linears import find_linears
from core.models.shapes import LinearShape

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."
# What may be set without changing what the tensors mean. A setting that is not among these has to be unset.
NEUTRAL = frozenset(
    {
        *(
            "peft_type",
            "peft_version",
            "task_type",
            "auto_mapping",
            "base_model_name_or_path",
            "revision",
            "inference_mode",
        ),
        *("r", "lora_alpha", "lora_dropout", "bias", "init_lora_weights", "eva_config", "loftq_config"),
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "ensure_weight_tying"),
        *("megatron_core", "qalora_group_size", "runtime_config"),
    }
)
# Starts that leave the base as it is. The others (PiSSA, OLoRA, …) train beside a base that they changed.
PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFiles:
    """An adapter as read: its settings and, for each module, A `[r, in]` and B `[out, r]` in fp32.

    `targets` are last parts or full names of the modules that it adapts; None where its config says that less plainly.
    """

    rank: int
    alpha: float
    base_model: str
    targets: tuple[str, ...] | None
    tensors: dict[str, tuple[Tensor, Tensor]]
    fingerprint: str

    @property
    def key(self) -> str:
        """What the adapter is called inside a model: equal weights with another α are another adapter."""
        return f"{self.fingerprint}_{self.alpha!r}".replace(".", "_")


def save_adapter(model: nn.Module, key: str, folder: Path, config: LoraConfig, base_model: str) -> None:
    """Write the adapter `key` of `model` into `folder`, which is made where it is missing.

    Raises:
        AdapterError: `key` names no adapter of `model`.
    """
    require(model, key)
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
        targets=_plain_targets(settings),
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
    except (ValueError, OSError):
        raise AdapterError(f"{CONFIG_FILE} is not JSON", str(folder), "Export the adapter again") from None
    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
        raise AdapterError("The adapter is not a LoRA adapter", str(path), "Choose one whose peft_type is LORA")
    for name in ("r", "lora_alpha"):
        value: Any = settings.get(name)
        if type(value) not in (int, float) or not 0 < value < math.inf or (name == "r" and value != int(value)):
            raise AdapterError(f"{name} is {value!r}", str(path), "It must be a number above 0")
    _refuse_variants(settings, path)
    return settings


def _refuse_variants(settings: dict[str, Any], path: Path) -> None:
    found = [name for name in settings if settings[name] and name not in NEUTRAL]
    if settings.get("bias") not in (None, "none"):
        found.append("bias")
    if settings.get("init_lora_weights") not in PLAIN_STARTS:
        found.append("init_lora_weights")
    if found:
        raise AdapterError(
            f"The adapter uses {found[0]} = {settings[found[0]]!r}, which is not supported yet",
            str(path),
            "Choose a plain LoRA adapter",
        )


def _plain_targets(settings: dict[str, Any]) -> tuple[str, ...] | None:
    targets = settings.get("target_modules")
    narrowed = any(
        settings.get(name) is not None for name in ("exclude_modules", "layers_to_transform", "layers_pattern")
    )
    if narrowed or not isinstance(targets, list):
        return None
    return tuple(str(target) for target in targets)


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS_FILE
    try:
        return load_file(path)
    except FileNotFoundError:
        raise AdapterError(f"{WEIGHTS_FILE} is missing", str(folder), "Export the adapter as safetensors") from None
    except (SafetensorError, OSError) as error:
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
        The adapter's key in `model`.

    Raises:
        AdapterError: it is broken, or does not fit this model; nothing was changed.
    """
    files = read_adapter(folder)
    _check_fit(files, {shape.name: shape for shape in find_linears(model)})
    for module, (a, b) in files.tensors.items():
        _place(wrap(model, module), files, a, b)
    return files.key


def _check_fit(files: AdapterFiles, shapes: dict[str, LinearShape]) -> None:
    made_for = f"made for {files.base_model or 'an unnamed model'}"
    other_base = "The adapter is for another base model"
    for module, (a, b) in files.tensors.items():
        shape = shapes.get(module)
        if shape is None:
            complaint = f"{other_base}: this one has no linear layer {module}"
            raise AdapterError(complaint, made_for, "Choose the base it was trained on")
        if (a.shape[1], b.shape[0]) != (shape.in_features, shape.out_features):
            sizes = f"{b.shape[0]}×{a.shape[1]} in it and {shape.out_features}×{shape.in_features} here"
            raise AdapterError(f"{other_base}: {module} is {sizes}", made_for, "Choose the base it was trained on")
    for target in files.targets or ():
        for name in shapes:
            if (name == target or name.endswith(f".{target}")) and name not in files.tensors:
                complaint = f"The adapter has no tensors for {name}, which its target {target} names"
                raise AdapterError(complaint, made_for, "Export it again, or choose the base it was trained on")


def _place(layer: Any, files: AdapterFiles, a: Tensor, b: Tensor) -> None:
    device = device_of(layer.base)
    update = LowRank(a.to(device, copy=True), b.to(device, copy=True), alpha=files.alpha).requires_grad_(False)
    layer.adapters[files.key] = update
