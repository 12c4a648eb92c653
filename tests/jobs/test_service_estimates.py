"""What the page says a run would train is what the engine then trains, for every kind of model and of setting."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from core.adapters.inject import inject
from core.adapters.peft_format import save_adapter
from core.config import RunConfig, parse
from core.errors import ConfigError
from core.models.fused import fused_parts
from core.models.linears import find_layers
from jobs.blueprint import read_blueprint
from jobs.estimates import estimate

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 80}
GROUPED = {**SMALL, "num_key_value_heads": 2}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 80, "n_positions": 64}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {**GROUPED, "tie_word_embeddings": True},
    "qwen2": {**GROUPED, "tie_word_embeddings": False},
    "gpt2": GPT2,
    "phi3": {**GROUPED, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1},
    "gpt_neox": SMALL,
    "falcon": {**SMALL, "new_decoder_architecture": True, "num_kv_heads": 2, "bias": True},
    "opt": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64, "vocab_size": 80,
            "word_embed_proj_dim": 32, "max_position_embeddings": 64},
    "mixtral": {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {**GROUPED, **EXPERTS, "num_experts": 4, "head_dim": 8},
    "bert": SMALL,
    "roberta": {**SMALL, "max_position_embeddings": 64},
}  # fmt: skip
CLASSIFIERS = ("bert", "roberta")


@dataclass(frozen=True)
class Saved:
    """A tiny random model on disk and in memory."""

    folder: Path
    model: Any

    def config(self, **values: Any) -> RunConfig:
        task = "classification" if self.folder.name in CLASSIFIERS else "chat"
        return parse({"name": "x", "base_model": str(self.folder), "task": task, "data": {"dataset_id": "d"}, **values})


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A maker of `Saved` models, each made once and loaded afresh each time."""
    root = tmp_path_factory.mktemp("models")

    def make(kind: str) -> Saved:
        folder, auto = root / kind, AutoModelForCausalLM
        if kind in CLASSIFIERS:
            auto = AutoModelForSequenceClassification
        if not folder.exists():
            auto.from_config(AutoConfig.for_model(kind, **MODELS[kind])).save_pretrained(folder)
        return Saved(folder, auto.from_pretrained(folder))

    return make


def trained_by_the_engine(model: Any, config: RunConfig) -> int:
    """What of `model`, its classification head aside, gets gradients."""
    tokens = range(len(config.lora.new_tokens))
    heads = ("classifier",) if config.task == "classification" else ()
    lora = replace(config.lora, modules_to_save=(*config.lora.modules_to_save, *heads))
    inject(model, lora, key="a", seed=0, bias_only=config.method == "bitfit", tokens=tokens)
    return sum(p.numel() for name, p in model.named_parameters() if p.requires_grad and "classifier" not in name)


LORA: dict[str, dict[str, Any]] = {
    "plain": {},
    "alpha and rank of some": {"rank_pattern": {"PROJECTION": 2}, "alpha_pattern": {"PROJECTION": 3}},
    "one layer": {"layers": [1]},
    "rsLoRA and DoRA": {"use_dora": True, "use_rslora": True},
    "A frozen": {"freeze_a": True},
    "all linear layers": {"targets": ["all-linear"]},
    "a token": {"new_tokens": ["<a>", "<b>"]},
    "a singular start": {"init": "pissa"},
}
PROJECTIONS = {"gpt2": "c_proj", "phi3": "o_proj", "gpt_neox": "dense", "falcon": "dense", "opt": "out_proj",
               "bert": "query", "roberta": "query"}  # fmt: skip


@pytest.mark.parametrize("settings", LORA)
@pytest.mark.parametrize("kind", MODELS)
def test_the_page_counts_what_the_engine_trains(saved: Any, tmp_path: Path, kind: str, settings: str) -> None:
    found = saved(kind)
    name = PROJECTIONS.get(kind, "q_proj")
    lora = {key: _named(value, name) for key, value in LORA[settings].items()}
    config = found.config(lora={"rank": 4, **lora})
    told = estimate(config, tmp_path)
    assert told is not None
    assert told.trainable_parameters == trained_by_the_engine(found.model, config)


def _named(value: Any, name: str) -> Any:
    return {name if key == "PROJECTION" else key: item for key, item in value.items()} if type(value) is dict else value


OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("phi3", {"targets": ["qkv_proj:v", "gate_up_proj:gate"]}),
    ("phi3", {"targets": ["qkv_proj:q", "qkv_proj:k"], "use_dora": True}),
    ("gpt2", {"targets": ["c_attn:v"]}),
    ("gpt_neox", {"targets": ["query_key_value:q"]}),
    ("falcon", {"targets": ["query_key_value:k", "query_key_value:q"]}),
    ("llama", {"targets": ["embed_tokens", "q_proj"]}),
    ("llama", {"targets": ["lm_head"]}),
    ("qwen2", {"targets": ["embed_tokens", "lm_head"]}),
    ("qwen2", {"bias": "lora_only"}),
    ("qwen2", {"bias": "all", "targets": ["o_proj"]}),
    ("opt", {"bias": "all", "targets": ["q_proj"], "modules_to_save": ["fc1", "final_layer_norm"]}),
    ("opt", {"modules_to_save": ["layers.1"]}),
    ("llama", {"modules_to_save": ["lm_head"]}),
    ("llama", {"modules_to_save": ["embed_tokens", "norm"]}),
    ("mixtral", {"targets": ["gate_up_proj", "down_proj", "q_proj"]}),
    ("qwen3_moe", {"targets": ["mlp.experts.down_proj"], "layers": [0]}),
    ("bert", {"targets": ["word_embeddings", "query"]}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "lora"), OTHERS, ids=lambda value: str(value)[:70])
def test_the_page_counts_other_kinds_of_layers_and_modules(
    saved: Any, tmp_path: Path, kind: str, lora: dict[str, Any]
) -> None:
    found = saved(kind)
    config = found.config(lora={"rank": 4, **lora})
    told = estimate(config, tmp_path)
    assert told is not None
    assert told.trainable_parameters == trained_by_the_engine(found.model, config)


WRITTEN: list[tuple[str, dict[str, Any]]] = [
    *(("llama", LORA[name]) for name in ("plain", "one layer", "rsLoRA and DoRA", "A frozen", "a singular start")),
    ("llama", {"rank_pattern": {"q_proj": 2}, "init": "olora"}),
    ("qwen2", {"bias": "lora_only"}),
    ("phi3", {"targets": ["qkv_proj:v", "gate_up_proj:gate"]}),
    ("phi3", {"targets": ["qkv_proj:q", "qkv_proj:k"]}),
    ("opt", {"modules_to_save": ["fc1"], "targets": ["q_proj"]}),
    ("llama", {"targets": ["embed_tokens"]}),
    ("llama", {"modules_to_save": ["lm_head"]}),
    ("qwen2", {"targets": ["embed_tokens", "lm_head"]}),
    ("qwen2", {"modules_to_save": ["lm_head"]}),
    ("llama", LORA["a token"]),
    ("qwen2", LORA["a token"]),
]


@pytest.mark.parametrize(("kind", "lora"), WRITTEN, ids=lambda value: str(value)[:70])
def test_the_page_knows_the_size_on_disk(saved: Any, tmp_path: Path, kind: str, lora: dict[str, Any]) -> None:
    found = saved(kind)
    config = found.config(lora={"rank": 4, **lora})
    told = estimate(config, tmp_path)
    assert told is not None
    trained_by_the_engine(found.model, config)
    save_adapter(found.model, "a", tmp_path / "adapter", config.lora, "x")
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert told.adapter_bytes == sum(tensor.nbytes for tensor in tensors.values())


@pytest.mark.parametrize("kind", MODELS)
def test_the_page_knows_every_layer_that_the_engine_finds(saved: Any, kind: str) -> None:
    found = saved(kind)
    told = read_blueprint(found.folder).layers(has_head=kind not in CLASSIFIERS)
    theirs = {
        (shape.name, shape.kind, shape.in_features, shape.out_features, shape.experts)
        for shape in find_layers(found.model)
        if "classifier" not in shape.name
    }
    assert {(s.name, s.kind, s.in_features, s.out_features, s.experts) for s in told} - theirs == set()
    assert {name for name, *_ in theirs} == {shape.name for shape in told}


@pytest.mark.parametrize("kind", ["phi3", "gpt2", "gpt_neox", "falcon"])
def test_the_parts_of_a_fused_layer_are_as_large_as_the_engine_has_them(saved: Any, kind: str) -> None:
    found = saved(kind)
    blueprint = read_blueprint(found.folder)
    fused = 0
    for shape in blueprint.linears:
        theirs = fused_parts(found.model.config, shape.name, shape.out_features)
        assert blueprint.part_rows(shape) == {part: len(rows) for part, rows in theirs.items()}
        fused += bool(theirs)
    assert fused


@pytest.mark.parametrize("kind", MODELS)
def test_full_fine_tuning_trains_every_parameter(saved: Any, tmp_path: Path, kind: str) -> None:
    found = saved(kind)
    told = estimate(found.config(method="full"), tmp_path)
    every = {name: p for name, p in found.model.named_parameters() if p.requires_grad and "classifier" not in name}
    inside = sum(p.numel() for p in every.values())
    head = sum(p.numel() for name, p in found.model.named_parameters() if "classifier" in name)
    assert told is not None
    assert told.trainable_parameters == told.base_parameters == inside + head  # the file has this model's head
    assert told.adapter_bytes == 4 * told.trainable_parameters


@pytest.mark.parametrize("kind", ["gpt2", "opt", "gpt_neox", "falcon"])
def test_bitfit_trains_every_bias(saved: Any, tmp_path: Path, kind: str) -> None:
    found = saved(kind)
    config = found.config(method="bitfit")
    biases = sum(p.numel() for name, p in found.model.named_parameters() if name.endswith(".bias"))
    told = estimate(config, tmp_path)
    assert told is not None
    assert told.trainable_parameters == biases == trained_by_the_engine(found.model, config)


def test_bitfit_needs_a_model_with_biases(saved: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        estimate(saved("llama").config(method="bitfit"), tmp_path)
    assert caught.value.field == "method" and "no biases" in caught.value.title


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"lora": {"rank_pattern": {"q_prj": 4}}}, "lora.rank_pattern"),
    ("llama", {"lora": {"alpha_pattern": {"layers.9.q_proj": 4}}}, "lora.alpha_pattern"),
    ("llama", {"lora": {"rank": 4, "rank_pattern": {"q_proj": 400}}}, "lora.rank"),
    ("llama", {"lora": {"layers": [2]}}, "lora.layers"),
    ("llama", {"lora": {"modules_to_save": ["classifier"]}}, "lora.modules_to_save"),
    ("llama", {"lora": {"targets": ["q_proj:v"]}}, "lora.targets"),
    ("phi3", {"lora": {"targets": ["qkv_proj:x"]}}, "lora.targets"),
    ("llama", {"lora": {"bias": "all"}}, "lora.bias"),
    ("llama", {"lora": {"targets": ["lm_head"], "use_dora": True}}, "lora.use_dora"),
    ("llama", {"lora": {"targets": ["embed_tokens"], "freeze_a": True}}, "lora.freeze_a"),
    ("llama", {"lora": {"targets": ["embed_tokens"], "new_tokens": ["<a>"]}}, "lora.new_tokens"),
    ("mixtral", {"lora": {"targets": ["down_proj"], "use_dora": True}}, "lora.use_dora"),
    ("llama", {"quant": {"bits": 4, "skip": ["lm_hed"]}}, "quant.skip"),
    ("llama", {"quant": {"bits": 4, "skip": [f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")]}},
     "quant.skip"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "values", "field"), WRONG, ids=lambda value: str(value)[:60])
def test_what_the_engine_would_refuse_is_refused_before(
    saved: Any, tmp_path: Path, kind: str, values: dict[str, Any], field: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        estimate(saved(kind).config(**values), tmp_path)
    assert caught.value.field == field and caught.value.title


def test_a_head_that_is_new_may_be_named(saved: Any, tmp_path: Path) -> None:
    assert estimate(saved("bert").config(lora={"modules_to_save": ["classifier"]}), tmp_path)


def test_buffers_of_old_files_are_no_parameters(tmp_path: Path) -> None:
    tensors = {
        "h.0.attn.bias": torch.ones(1, 1, 8, 8), "h.0.attn.masked_bias": torch.ones(()),
        "h.0.attn.c_attn.weight": torch.ones(4, 12), "h.0.attn.c_attn.bias": torch.ones(12),
        "rotary_emb.inv_freq": torch.ones(3), "wte.weight": torch.ones(5, 4),
    }  # fmt: skip
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    blueprint = read_blueprint(tmp_path)
    assert blueprint.parameters == 48 + 12 + 20
    assert blueprint.biases() == {"h.0.attn.c_attn": 12}
