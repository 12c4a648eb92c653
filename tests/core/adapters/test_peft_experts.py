"""Experts in PEFT's format: what does not fit is refused before the model changes. That what fits says the same to peft
and to us, tests/core/parity shows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import MixtralConfig, MixtralForCausalLM

from core.adapters.inject import inject, lora_layers
from core.adapters.peft_format import CONFIG_FILE, WEIGHTS_FILE, load_adapter, save_adapter
from core.adapters.portable import export_portable
from core.config import LoraConfig
from core.errors import AdapterError

CONFIG = LoraConfig(rank=2, alpha=4, targets=("experts.gate_up_proj", "experts.down_proj", "q_proj"))


def mixtral(**changes: int) -> MixtralForCausalLM:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 1, "vocab_size": 40, "num_local_experts": 4}
    torch.manual_seed(0)
    return MixtralForCausalLM(MixtralConfig(**(sizes | changes))).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = mixtral()
    inject(model, CONFIG, key="a", seed=0)
    save_adapter(model, "a", tmp_path, CONFIG, "a mixtral")
    return tmp_path


def edit(folder: Path, change: Any) -> None:
    tensors: dict[str, Tensor] = load_file(folder / WEIGHTS_FILE)
    change(tensors)
    save_file(tensors, folder / WEIGHTS_FILE)


def experts_key(tensors: dict[str, Tensor], ending: str) -> str:
    return next(key for key in tensors if key.endswith(ending))


def test_what_was_saved_loads_with_the_same_bits(folder: Path) -> None:
    model = mixtral()
    key = load_adapter(model, folder)
    again = folder / "again"
    save_adapter(model, key, again, CONFIG, "a mixtral")
    ours, theirs = load_file(folder / WEIGHTS_FILE), load_file(again / WEIGHTS_FILE)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def drop(tensors: dict[str, Tensor]) -> None:
    for half in ("A", "B"):
        del tensors[experts_key(tensors, f"experts.base_layer.lora_{half}.weight")]


def cut(tensors: dict[str, Tensor]) -> None:
    key = experts_key(tensors, "experts.lora_A.weight")
    tensors[key] = tensors[key][:-2].clone()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [(drop, "no tensors for .*experts.gate_up_proj"), (cut, r"experts.down_proj is \[6, 24\]")],
)
def test_missing_and_misshapen_tensors_are_named(folder: Path, change: Any, complaint: str) -> None:
    edit(folder, change)
    model = mixtral()
    with pytest.raises(AdapterError, match=complaint):
        load_adapter(model, folder)
    assert not lora_layers(model)


def test_another_number_of_experts_is_another_base(folder: Path) -> None:
    model = mixtral(num_local_experts=8)
    with pytest.raises(AdapterError, match="for 8 experts"):
        load_adapter(model, folder)
    assert not lora_layers(model)


def test_tensors_that_no_target_names_are_refused(folder: Path) -> None:
    settings = json.loads((folder / CONFIG_FILE).read_text())
    settings["target_parameters"] = [name for name in settings["target_parameters"] if "down" in name]
    (folder / CONFIG_FILE).write_text(json.dumps(settings))
    with pytest.raises(AdapterError, match="no experts .*base_layer"):
        load_adapter(mixtral(), folder)


def test_experts_are_not_said_to_be_portable(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="updates of experts"):
        export_portable(folder, tmp_path / "out")
