"""Real adapters of the tiny model, made by plain peft, as folders and as zips."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from tests.core.adapters.peft_pairs import quiet


def peft_folder(folder: Path, model: Path, seed: int = 0, base: str | None = None, **settings: Any) -> Path:
    """An adapter that plain peft made and saved; its config calls the base `base`, or the folder of `model`."""
    values = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **settings}
    with quiet():
        wrapped = get_peft_model(AutoModelForCausalLM.from_pretrained(model), LoraConfig(**values))
        draw = torch.Generator().manual_seed(seed)
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.data.copy_(torch.randn(parameter.shape, generator=draw) * 0.1)
        if base is not None:
            wrapped.peft_config["default"].base_model_name_or_path = base
        wrapped.save_pretrained(str(folder))
    return folder


def zip_of(folder: Path, within: str = "") -> Path:
    """The folder's files as a zip beside it."""
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, f"{within}{file.name}")
    return path
