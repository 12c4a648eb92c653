from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from core.adapters.inject import lora_layers
from core.adapters.layer import LoraLayer
from core.adapters.peft_format import WEIGHTS_FILE
from core.adapters.portable import RANKS, export_portable, save_portable
from core.errors import AdapterError
from tests.core.adapters.peft_pairs import (
    convolutions,
    gpt2,
    is_close,
    llama,
    loaded_by_them,
    loaded_by_us,
    ours,
    phi3,
    saved_by_them,
    saved_by_us,
    says,
    settings_in,
    theirs,
    tied_llama,
)

Make = Callable[[], nn.Module]
UNEVEN = {"targets": ("q_proj", "v_proj", "up_proj"), "rank_pattern": {"v_proj": 2, "layers.1.mlp.up_proj": 7}}
CASES: dict[str, tuple[Make, dict[str, Any]]] = {
    "plain": (llama, {"targets": ("q_proj", "v_proj")}),
    "some layers": (llama, {"targets": ("q_proj",), "layers": (1,)}),
    "rsLoRA, ranks and alphas that differ": (llama, UNEVEN | {"use_rslora": True, "alpha_pattern": {"up_proj": 3.5}}),
    "PiSSA": (llama, {"targets": ("q_proj", "v_proj"), "init": "pissa"}),
    "the output head": (llama, {"targets": ("q_proj", "lm_head")}),
    "Conv1D": (gpt2, {"targets": ("c_attn", "c_proj")}),
    "parts of a fused matrix": (phi3, {"targets": ("qkv_proj:v", "qkv_proj:k", "o_proj"), "use_rslora": True}),
}


def made(case: str, folder: Path) -> tuple[nn.Module, nn.Module, Path]:
    """The base, the base with the adapter, and the adapter in PEFT's format."""
    make, settings = CASES[case]
    base = make()
    model = copy.deepcopy(base)
    return base, model, saved_by_us(model, ours(model, {"rank": 4, "alpha": 10.0} | settings), folder / "ours")


def read_plainly(folder: Path) -> dict[str, Tensor]:
    """ΔW by module, as a program computes it that knows one scale and A and B: α over r, or over the rows of A."""
    settings, tensors, deltas = settings_in(folder), load_file(folder / WEIGHTS_FILE), {}
    for key in [key for key in tensors if key.endswith(".lora_A.weight")]:
        a, b = tensors.pop(key), tensors.pop(key.replace("lora_A", "lora_B"))
        assert a.shape[0] == b.shape[1] == settings["r"]
        module = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        deltas[module] = settings["lora_alpha"] / a.shape[0] * (b @ a)
    assert not tensors
    return deltas


@pytest.mark.parametrize("case", CASES)
def test_a_portable_adapter_says_the_same_in_peft_and_with_us(case: str, tmp_path: Path) -> None:
    base, model, folder = made(case, tmp_path)
    export_portable(folder, tmp_path / "portable")
    expected = says(model)
    assert not is_close(says(base), expected, 0.05)
    assert is_close(says(loaded_by_them(base, tmp_path / "portable")), expected)
    assert is_close(says(loaded_by_us(base, tmp_path / "portable")), expected)


@pytest.mark.parametrize("case", CASES)
def test_a_program_that_knows_one_scale_only_gets_every_matrix_right(case: str, tmp_path: Path) -> None:
    _, model, folder = made(case, tmp_path)
    export_portable(folder, tmp_path / "portable")
    deltas = read_plainly(tmp_path / "portable")
    layers = {name: layer for name, layer in lora_layers(model).items() if isinstance(layer, LoraLayer)}
    assert deltas.keys() == layers.keys()
    for name, layer in layers.items():
        update = layer.update("a")
        assert update is not None and is_close(deltas[name], update.delta(), 1e-6)


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_said_that_a_program_could_pass_over(case: str, tmp_path: Path) -> None:
    _, _, folder = made(case, tmp_path)
    export_portable(folder, tmp_path / "portable")
    settings = settings_in(tmp_path / "portable")
    assert settings["r"] == settings["lora_alpha"] and settings["r"] in RANKS
    assert not any(settings[name] for name in ("rank_pattern", "alpha_pattern", "use_rslora", "use_dora"))
    assert not any(settings[name] for name in ("modules_to_save", "layers_to_transform", "layers_pattern"))
    assert settings["bias"] == "none" and all(isinstance(name, str) for name in settings["target_modules"])


@pytest.mark.parametrize("case", CASES)
def test_from_memory_and_from_disk_come_the_same_tensors(case: str, tmp_path: Path) -> None:
    _, model, folder = made(case, tmp_path)
    export_portable(folder, tmp_path / "disk")
    save_portable(model, "a", tmp_path / "memory", "some/base")
    disk, memory = load_file(tmp_path / "disk" / WEIGHTS_FILE), load_file(tmp_path / "memory" / WEIGHTS_FILE)
    assert disk.keys() == memory.keys() and all(torch.allclose(disk[name], memory[name]) for name in disk)
    assert is_close(says(loaded_by_them(CASES[case][0](), tmp_path / "memory")), says(model))


@pytest.mark.parametrize(("rank", "padded"), [(8, 8), (9, 16), (17, 32)])
def test_the_rank_is_padded_to_the_next_that_vllm_has_room_for(tmp_path: Path, rank: int, padded: int) -> None:
    model = llama()
    folder = saved_by_us(model, ours(model, {"rank": rank, "targets": ("q_proj",)}), tmp_path / "ours")
    export_portable(folder, tmp_path / "portable")
    assert settings_in(tmp_path / "portable")["r"] == padded


REFUSED: dict[str, tuple[Make, dict[str, Any], str]] = {
    "DoRA": (llama, {"targets": ("q_proj",), "use_dora": True}, "DoRA's magnitudes"),
    "a whole module": (llama, {"targets": ("q_proj",), "modules_to_save": ("norm",)}, "norm, trained whole"),
    "biases": (gpt2, {"targets": ("c_attn",), "bias": "all"}, "biases|trained whole"),
    "an embedding": (llama, {"targets": ("embed_tokens",)}, "embed_tokens, an embedding"),
    "a tied embedding": (tied_llama, {"targets": ("embed_tokens",)}, "embed_tokens, an embedding"),
    "a convolution": (convolutions, {"targets": ("line", "out")}, "line, a convolution"),
    "trained tokens": (llama, {"targets": ("q_proj",), "tokens": (3,)}, "rows of an embedding"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_more_than_low_rank_is_refused_with_what_to_do(case: str, tmp_path: Path) -> None:
    make, settings, what = REFUSED[case]
    model = make()
    tokens = settings.get("tokens", ())
    kept = {name: value for name, value in settings.items() if name != "tokens"}
    folder = saved_by_us(model, ours(model, {"rank": 2} | kept, tokens=tokens), tmp_path / "ours")
    for write in (
        lambda: export_portable(folder, tmp_path / "portable"),
        lambda: save_portable(model, "a", tmp_path / "portable", "some/base"),
    ):
        with pytest.raises(AdapterError, match=what) as caught:
            write()
        assert "Merge it into its base" in caught.value.hint
    assert not (tmp_path / "portable").exists()


def test_a_base_that_peft_changed_is_needed_for_what_it_left(tmp_path: Path) -> None:
    folder = saved_by_them(
        theirs(llama(), {"target_modules": ["q_proj"], "init_lora_weights": "pissa"}), tmp_path / "theirs"
    )
    with pytest.raises(AdapterError, match="began with pissa") as caught:
        export_portable(folder, tmp_path / "portable")
    assert "path_initial_model_for_weight_conversion" in caught.value.hint


def test_a_rank_that_vllm_has_no_room_for_is_refused(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(600, 600))
    folder = saved_by_us(model, ours(model, {"rank": 513, "targets": ("0",)}), tmp_path / "ours")
    with pytest.raises(AdapterError, match="rank 513, and vLLM takes 512 at most"):
        export_portable(folder, tmp_path / "portable")


def test_scales_of_all_sizes_are_folded_to_the_last_digits(tmp_path: Path) -> None:
    model = llama()
    config = ours(model, {"rank": 3, "alpha": 1000.0, "targets": ("q_proj",), "use_rslora": True})
    folder = saved_by_us(model, config, tmp_path / "ours")
    export_portable(folder, tmp_path / "portable")
    before, after = load_file(folder / WEIGHTS_FILE), load_file(tmp_path / "portable" / WEIGHTS_FILE)
    for name in before:
        folded = before[name].double() * (1000 / math.sqrt(3) if "lora_B" in name else 1)
        kept = after[name][:, :3] if "lora_B" in name else after[name][:3]
        assert torch.allclose(kept.double(), folded, rtol=1e-6) and after[name].count_nonzero() == kept.count_nonzero()
