from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import nn

from core.adapters.inject import lora_layers
from core.adapters.linear import LoraLinear
from core.adapters.lowrank import Transposed
from core.adapters.peft_format import read_adapter, save_adapter
from core.config import LoraConfig
from core.errors import AdapterError
from tests.core.adapters.peft_pairs import (
    classifier,
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
Q, QV, ENDS = {"targets": ("q_proj",)}, {"targets": ("q_proj", "v_proj")}, ("embed_tokens", "lm_head")
LINES, FUSED = {"targets": ("line", "sheet", "out")}, {"targets": ("c_attn", "c_proj", "c_fc")}
DORA, ROOTED = {"use_dora": True}, {"use_rslora": True}
UNEVEN = {
    "targets": ("q_proj", "v_proj", "up_proj"),
    "rank_pattern": {"v_proj": 2, "layers.1.mlp.up_proj": 7},
    "alpha_pattern": {"up_proj": 3.5, "layers.0.self_attn.q_proj": 40},
}
EVERYTHING = {
    **FUSED,
    **DORA,
    **ROOTED,
    "rank_pattern": {"h.1.mlp.c_fc": 3},
    "bias": "all",
    "modules_to_save": ("ln_f",),
}

# What we make: the model, the settings beside rank 4 and alpha 10, and the tokens whose rows are trained.
OURS: dict[str, tuple[Make, dict[str, Any], tuple[int, ...]]] = {
    "plain": (llama, QV, ()),
    "rsLoRA": (llama, QV | ROOTED, ()),
    "DoRA": (llama, QV | DORA, ()),
    "DoRA with rsLoRA": (llama, QV | DORA | ROOTED, ()),
    "ranks and alphas that differ": (llama, UNEVEN, ()),
    "ranks and alphas that differ, rsLoRA": (llama, UNEVEN | ROOTED, ()),
    "chosen layers": (llama, QV | {"layers": (1,)}, ()),
    "gaussian": (llama, QV | {"init": "gaussian"}, ()),
    "orthogonal": (llama, QV | {"init": "orthogonal"}, ()),
    "PiSSA": (llama, QV | {"init": "pissa"}, ()),
    "PiSSA with rsLoRA": (llama, QV | {"init": "pissa"} | ROOTED, ()),
    "PiSSA with DoRA": (llama, QV | {"init": "pissa"} | DORA, ()),
    "OLoRA": (llama, QV | {"init": "olora"}, ()),
    "OLoRA, ranks that differ": (llama, UNEVEN | {"init": "olora"}, ()),
    "Conv1D": (gpt2, FUSED, ()),
    "Conv1D, DoRA": (gpt2, FUSED | DORA, ()),
    "Conv1D, PiSSA": (gpt2, FUSED | {"init": "pissa"}, ()),
    "parts of a fused Conv1D": (gpt2, {"targets": ("c_attn:q", "c_attn:v")}, ()),
    "a part and a whole": (phi3, {"targets": ("qkv_proj:v", "qkv_proj:k", "o_proj")}, ()),
    "parts, rsLoRA": (phi3, {"targets": ("qkv_proj:v", "gate_up_proj:up", "o_proj")} | ROOTED, ()),
    "embedding": (llama, {"targets": ("embed_tokens", "q_proj")}, ()),
    "embedding and head": (llama, {"targets": ENDS}, ()),
    "embedding, DoRA": (llama, {"targets": ENDS} | DORA, ()),
    "embedding, tied": (tied_llama, {"targets": ("embed_tokens", "q_proj")}, ()),
    "head, tied": (tied_llama, {"targets": ("lm_head", "q_proj")} | ROOTED, ()),
    "embedding, tied, GPT-2": (gpt2, {"targets": ("wte", "c_attn"), "rank_pattern": {"wte": 2}}, ()),
    "a norm trained whole": (llama, Q | {"modules_to_save": ("post_attention_layernorm",)}, ()),
    "one of the norms trained whole": (llama, Q | {"modules_to_save": ("layers.1.input_layernorm",)}, ()),
    "head trained whole": (llama, Q | {"modules_to_save": ("lm_head",)}, ()),
    "head trained whole, tied": (tied_llama, Q | {"modules_to_save": ("lm_head",)}, ()),
    "embedding trained whole, tied, GPT-2": (gpt2, FUSED | {"modules_to_save": ("wte",)}, ()),
    "classifier": (classifier, Q | {"modules_to_save": ("score",)}, ()),
    "classifier with a frozen head": (classifier, Q, ()),
    "biases of adapted layers": (gpt2, {"targets": ("c_attn",), "bias": "lora_only"}, ()),
    "all biases": (gpt2, {"targets": ("c_attn",), "bias": "all"}, ()),
    "convolutions": (convolutions, LINES, ()),
    "convolutions, DoRA, biases": (convolutions, LINES | DORA | {"bias": "lora_only"}, ()),
    "convolutions, PiSSA": (convolutions, LINES | {"init": "pissa", "rank_pattern": {"sheet": 2}}, ()),
    "a batch norm trained whole": (convolutions, {"targets": ("out",), "modules_to_save": ("norm",)}, ()),
    "tokens": (llama, Q, (3, 59)),
    "tokens, tied": (tied_llama, Q, (59, 3, 20)),
    "tokens, tied, GPT-2": (gpt2, FUSED, (3,)),
    "tokens, head trained whole": (llama, Q | {"modules_to_save": ("lm_head",)}, (3,)),
    "everything at once": (gpt2, EVERYTHING, ()),
}

HALVES = {"target_modules": ["q_proj", "v_proj"]}
PATTERNS = {"rank_pattern": {"v_proj": 2, r"^model\.layers\.1\..*q_proj": 7}, "alpha_pattern": {r".*0.*\.q_proj": 3}}
CONV = {"target_modules": ["line", "sheet"]}
GPT = {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}
# What peft makes: the model, and peft's settings beside r 5 and lora_alpha 11.
THEIRS: dict[str, tuple[Make, dict[str, Any]]] = {
    "rsLoRA": (llama, HALVES | {"use_rslora": True}),
    "DoRA": (llama, HALVES | {"use_dora": True}),
    "patterns": (llama, HALVES | PATTERNS),
    "patterns, rsLoRA": (llama, HALVES | PATTERNS | {"use_rslora": True}),
    "gaussian": (llama, HALVES | {"init_lora_weights": "gaussian"}),
    "orthogonal": (llama, HALVES | {"init_lora_weights": "orthogonal", "r": 4}),
    "MiCA": (llama, HALVES | {"init_lora_weights": "mica"}),
    "PiSSA": (llama, HALVES | {"init_lora_weights": "pissa"}),
    "PiSSA, patterns, embedding": (
        llama, {"target_modules": ["q_proj", "v_proj", "embed_tokens"], "init_lora_weights": "pissa"} | PATTERNS,
    ),
    "PiSSA, rsLoRA, DoRA": (llama, HALVES | {"init_lora_weights": "pissa", "use_rslora": True, "use_dora": True}),
    "PiSSA on Conv1D": (gpt2, GPT | {"init_lora_weights": "pissa"}),
    "OLoRA": (llama, HALVES | {"init_lora_weights": "olora"}),
    "OLoRA on Conv1D": (
        gpt2, {"target_modules": ["attn.c_proj"], "fan_in_fan_out": True, "init_lora_weights": "OLoRA"},
    ),
    "Conv1D": (gpt2, GPT),
    "Conv1D, DoRA": (gpt2, GPT | {"use_dora": True}),
    "embedding, with copies of the base": (llama, {"target_modules": ["embed_tokens", "lm_head"]}),
    "embedding, DoRA": (llama, {"target_modules": ["embed_tokens"], "use_dora": True}),
    "embedding, tied to a head that stays": (tied_llama, {"target_modules": ["embed_tokens", "q_proj"]}),
    "embedding, tied to a head that stays, DoRA": (tied_llama, {"target_modules": ["embed_tokens"], "use_dora": True}),
    "embedding and tied head apart": (tied_llama, {"target_modules": ["embed_tokens", "lm_head"]}),
    "embedding and tied head together": (
        tied_llama, {"target_modules": ["embed_tokens", "q_proj"], "ensure_weight_tying": True},
    ),
    "tied head alone": (tied_llama, {"target_modules": ["lm_head", "q_proj"]}),
    "whole": (llama, HALVES | {"modules_to_save": ["norm", "layers.1.input_layernorm"]}),
    "whole head": (llama, HALVES | {"modules_to_save": ["lm_head"]}),
    "whole head, tied to an embedding that stays": (tied_llama, HALVES | {"modules_to_save": ["lm_head"]}),
    "whole tied ends": (tied_llama, HALVES | {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}),
    "classifier": (classifier, HALVES | {"task_type": "SEQ_CLS"}),
    "biases of adapted layers": (gpt2, GPT | {"bias": "lora_only"}),
    "all biases": (gpt2, GPT | {"bias": "all"}),
    "all biases beside a whole module": (gpt2, GPT | {"bias": "all", "modules_to_save": ["ln_f"]}),
    "convolutions": (convolutions, CONV),
    "convolutions, DoRA": (convolutions, CONV | {"use_dora": True, "bias": "lora_only"}),
    "a batch norm trained whole": (convolutions, {"target_modules": ["out"], "modules_to_save": ["norm"]}),
    "tokens": (llama, HALVES | {"trainable_token_indices": [3, 59]}),
    "tokens at both ends": (llama, HALVES | {"trainable_token_indices": {"embed_tokens": [3, 59], "lm_head": [3]}}),
    "tokens, tied": (tied_llama, HALVES | {"trainable_token_indices": {"embed_tokens": [20, 3]}}),
    "tokens at both tied ends": (
        tied_llama, HALVES | {"trainable_token_indices": {"embed_tokens": [20, 3], "lm_head": [20, 3]}},
    ),
    "a regular expression": (llama, {"target_modules": r".*layers\.[01]\.(self_attn|mlp)\.(q|up)_proj"}),
    "one block": (llama, HALVES | {"layers_to_transform": 1}),
    "one block of a list by name": (llama, HALVES | {"layers_to_transform": [0], "layers_pattern": "layers"}),
    "all but one": (llama, HALVES | {"exclude_modules": r".*\.0\.self_attn\.q_proj"}),
    "all linear": (gpt2, {"target_modules": "all-linear", "fan_in_fan_out": True}),
}  # fmt: skip


@pytest.mark.parametrize("case", OURS)
def test_what_we_save_says_the_same_in_peft_and_back_with_us(case: str, tmp_path: Path) -> None:
    make, settings, tokens = OURS[case]
    base = make()
    model = copy.deepcopy(base)
    config = ours(model, {"rank": 4, "alpha": 10.0} | settings, tokens=tokens)
    expected = says(model)
    folder = saved_by_us(model, config, tmp_path / "ours")
    assert not is_close(says(base), expected, 0.05)
    assert is_close(says(loaded_by_them(base, folder)), expected)
    again = loaded_by_us(base, folder)
    assert is_close(says(again), expected)
    key = next(layer.active for layer in lora_layers(again).values())
    assert key is not None
    save_adapter(again, key, tmp_path / "again", config, "some/base")
    assert is_close(says(loaded_by_us(base, tmp_path / "again")), expected)


@pytest.mark.parametrize("case", THEIRS)
def test_what_peft_saves_says_the_same_with_us_and_back_in_peft(case: str, tmp_path: Path) -> None:
    make, settings = THEIRS[case]
    base = make()
    model = theirs(base, settings)
    expected = says(model)
    folder = saved_by_them(model, tmp_path / "theirs")
    assert not is_close(says(base), expected, 0.01)
    mine = loaded_by_us(base, folder)
    assert is_close(says(mine), expected)
    key = next(layer.active for layer in lora_layers(mine).values())
    assert key is not None
    save_adapter(mine, key, tmp_path / "ours", LoraConfig(), "some/base")
    assert is_close(says(loaded_by_them(base, tmp_path / "ours")), expected)


def test_ends_that_were_tied_stay_tied_in_peft_and_back_with_us(tmp_path: Path) -> None:
    base = tied_llama()
    model = copy.deepcopy(base)
    config = ours(model, {"rank": 4, "targets": ("embed_tokens", "q_proj")})
    folder = saved_by_us(model, config, tmp_path / "ours")
    assert settings_in(folder)["ensure_weight_tying"] is True
    inner = loaded_by_them(base, folder).base_model.model
    embedding, head = inner.model.embed_tokens.lora_embedding_B.default, inner.lm_head.lora_A.default.weight
    assert embedding.data_ptr() == head.data_ptr()
    back = lora_layers(loaded_by_us(base, folder))["lm_head"]
    assert len(back.adapters) == 0 and isinstance(back, LoraLinear)
    assert isinstance(back.update(str(back.active)), Transposed)


def test_ends_that_are_apart_are_not_said_to_be_tied(tmp_path: Path) -> None:
    model = llama()
    folder = saved_by_us(model, ours(model, {"rank": 4, "targets": ("embed_tokens", "lm_head")}), tmp_path / "ours")
    assert "ensure_weight_tying" not in settings_in(folder)


def test_tied_ends_that_are_trained_whole_share_one_weight_again(tmp_path: Path) -> None:
    base = tied_llama()
    model = copy.deepcopy(base)
    config = ours(model, {"rank": 4, "targets": ("q_proj",), "modules_to_save": ("lm_head",)})
    layers = lora_layers(loaded_by_us(base, saved_by_us(model, config, tmp_path / "ours")))
    ends = [layers[name] for name in ("model.embed_tokens", "lm_head")]
    weights = [end.adapters[str(end.active)].module.weight for end in ends]  # type: ignore[union-attr]
    assert weights[0] is weights[1]


def test_of_a_conv1d_peft_is_told_that_it_lies_turned(tmp_path: Path) -> None:
    base = gpt2()
    model = copy.deepcopy(base)
    folder = saved_by_us(model, ours(model, {"rank": 4, "targets": ("c_attn",)}), tmp_path / "ours")
    assert settings_in(folder)["fan_in_fan_out"] is True
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        peft.PeftModel.from_pretrained(copy.deepcopy(base), str(folder))  # type: ignore[arg-type]
    assert not [warning for warning in caught if "fan_in_fan_out" in str(warning.message)]


def grown(seed: int) -> Any:
    """The untied model with room for two more tokens, whose rows are drawn from `seed`."""
    model: Any = llama()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.resize_token_embeddings(62, mean_resizing=False)
        model.lm_head.weight.data[60:] = torch.randn(2, 32)
    return model.eval()


def test_what_a_head_gives_for_new_tokens_goes_with_the_adapter(tmp_path: Path) -> None:
    model, other = grown(seed=1), grown(seed=2)
    config = ours(model, {"rank": 4, "targets": ("q_proj",)}, tokens=(60, 61))
    folder = saved_by_us(model, config, tmp_path / "ours")
    assert read_adapter(folder).vocabulary == 62
    assert is_close(says(loaded_by_us(other, folder)), says(model))
    assert is_close(says(loaded_by_them(other, folder)), says(model))


def test_new_tokens_beside_an_update_of_the_head_cannot_be_saved(tmp_path: Path) -> None:
    model = grown(seed=1)
    config = ours(model, {"rank": 4, "targets": ("lm_head",)}, tokens=(60, 61))
    with pytest.raises(AdapterError, match="New tokens cannot be saved beside an update of the output head"):
        save_adapter(model, "a", tmp_path / "ours", config, "some/base")
    assert not (tmp_path / "ours").exists()
