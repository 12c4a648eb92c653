"""Adapters on disk in PEFT's format: what we write peft loads, what peft writes we load, with the same logits.

A folder with `adapter_config.json` (`peft_settings`) and `adapter_model.safetensors` (`peft_tensors`). Where peft
passes over missing or surplus keys with a warning, `load_adapter` refuses: every key must fit (`peft_fit`) before
anything in the model is changed. Adapters are written by `peft_save`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from core.adapters.copies import TrainedCopy
from core.adapters.inject import lora_layers, wrap
from core.adapters.peft_fit import fit
from core.adapters.peft_save import save_adapter
from core.adapters.peft_settings import CONFIG_FILE, WEIGHTS_FILE, PeftSettings, read_settings
from core.adapters.peft_tensors import PREFIX, PeftTensors, read_tensors

__all__ = [
    "CONFIG_FILE",
    "PREFIX",
    "WEIGHTS_FILE",
    "AdapterFiles",
    "fingerprint",
    "load_adapter",
    "read_adapter",
    "save_adapter",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFiles:
    """An adapter as read: what its config says, its tensors, and the SHA-256 of its weight file."""

    settings: PeftSettings
    found: PeftTensors
    digest: str

    @property
    def rank(self) -> int:
        """r, where no pattern says otherwise."""
        return self.settings.rank

    @property
    def base_model(self) -> str:
        """What its base is called; may be empty."""
        return self.settings.base_model

    @property
    def tensors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """A `[r, in]` and B `[out, r]`, fp32, of each module that has a low-rank update."""
        return {module: (layer.a, layer.b) for module, layer in self.found.layers.items()}

    @property
    def vocabulary(self) -> int:
        """How many tokens the base must have room for: one more than the largest number of a trained token."""
        return 1 + max((number for ids in self.settings.tokens.values() for number in ids), default=-1)

    @property
    def key(self) -> str:
        """What the adapter is called inside a model: equal weights with another α are another adapter."""
        meaning = hashlib.sha256(f"{self.digest} {self.settings.meaning}".encode()).hexdigest()
        return f"{self.digest[:8]}_{meaning[:16]}"


def fingerprint(folder: Path) -> str:
    """The first 8 hexadecimal digits of the weight file's SHA-256: the name that a pane shows as proof."""
    return _digest(folder)[:8]


def read_adapter(folder: Path) -> AdapterFiles:
    """The adapter in `folder`, checked for all that can be checked without its base model.

    Raises:
        AdapterError: a file is missing or broken, a setting is one that we do not know or cannot follow, a tensor is
            unpaired, misshapen or not finite.
    """
    settings = read_settings(folder)
    return AdapterFiles(settings=settings, found=read_tensors(folder, settings), digest=_digest(folder))


def load_adapter(model: nn.Module, folder: Path) -> str:
    """Put the adapter in `folder` beside the layers of `model`; loading it again changes nothing.

    Returns:
        The adapter's key in `model`.

    Raises:
        AdapterError: it is broken, or does not fit this model; nothing was changed.
    """
    files = read_adapter(folder)
    if any(layer.has(files.key) for layer in lora_layers(model).values()):
        return files.key
    for module, placed in fit(files.settings, files.found, model).items():
        wrap(model, module, whole=isinstance(placed, TrainedCopy)).adapters[files.key] = placed
    return files.key


def _digest(folder: Path) -> str:
    with (folder / WEIGHTS_FILE).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
