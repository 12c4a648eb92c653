"""What llama.cpp would add to a base that its converter made, against what we add to ours.

The converter's ways of laying weights are written here a second time, on whole weights where ours are on A and B. The
files were also tried by hand in llama.cpp itself (as in llama-cpp-python 0.3.36), on tiny bases of all kinds below but
the last: its logits are ours to 4e-6 of the largest, and to 1e-3 where the base has a GELU, which ggml looks up in a
table of 16 bits; without an adapter, such bases differ by up to 6e-4.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from core.adapters.gguf import Precision, export_gguf, save_gguf
from core.adapters.inject import lora_layers
from core.adapters.layer import LoraLayer
from core.errors import AdapterError, ModelError
from tests.core.adapters.peft_pairs import is_close, ours, saved_by_us

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 60}
OLD = {"n_layer": 2, "n_head": 4, "vocab_size": 60}
GROUPED = SHAPE | {"num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": False, "pad_token_id": 0}
MODERN = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip
BLOOM = {
    "self_attention.query_key_value": "attn_qkv", "self_attention.dense": "attn_output",
    "mlp.dense_h_to_4h": "ffn_up", "mlp.dense_4h_to_h": "ffn_down",
}  # fmt: skip
GPT2 = {"attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
PHI3 = {
    "self_attn.qkv_proj": "attn_qkv", "self_attn.o_proj": "attn_output", "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip
MPT = {"attn.Wqkv": "attn_qkv", "attn.out_proj": "attn_output", "ffn.up_proj": "ffn_up", "ffn.down_proj": "ffn_down"}
NEOX = {key.replace("self_attention", "attention"): name for key, name in BLOOM.items()}

# transformers' kind, changes to its config, llama.cpp's architecture, its names by ours, what comes before a block
CASES: dict[str, tuple[str, dict[str, Any], str, dict[str, str], str]] = {
    "llama": ("llama", GROUPED, "llama", MODERN, "model.layers"),
    "mistral": ("mistral", GROUPED, "llama", MODERN, "model.layers"),
    "smollm3": ("smollm3", GROUPED, "smollm3", MODERN, "model.layers"),
    "qwen2": ("qwen2", GROUPED, "qwen2", MODERN, "model.layers"),
    "qwen3": ("qwen3", GROUPED, "qwen3", MODERN, "model.layers"),
    "gemma": ("gemma", GROUPED, "gemma", MODERN, "model.layers"),
    "gemma2": ("gemma2", GROUPED, "gemma2", MODERN, "model.layers"),
    "gemma3": ("gemma3_text", GROUPED, "gemma3", MODERN, "model.layers"),
    "phi3": ("phi3", GROUPED, "phi3", PHI3, "model.layers"),
    "gpt2": ("gpt2", OLD | {"n_embd": 32, "n_positions": 32}, "gpt2", GPT2, "transformer.h"),
    "mpt": ("mpt", {"d_model": 32, "n_layers": 2, "n_heads": 4, "vocab_size": 60}, "mpt", MPT, "transformer.blocks"),
    "gpt_neox": ("gpt_neox", SHAPE, "gptneox", NEOX, "gpt_neox.layers"),
    "bloom": ("bloom", OLD | {"hidden_size": 32}, "bloom", BLOOM, "transformer.h"),
    "falcon, one k and v": ("falcon", SHAPE | {"multi_query": True}, "falcon", BLOOM, "transformer.h"),
    "falcon, grouped": (
        "falcon", SHAPE | {"new_decoder_architecture": True, "num_kv_heads": 2}, "falcon", BLOOM, "transformer.h",
    ),
    "falcon, each its own": (
        "falcon", SHAPE | {"multi_query": False, "num_kv_heads": 4}, "falcon", BLOOM, "transformer.h",
    ),
}  # fmt: skip
SETTINGS: dict[str, Any] = {"rank": 4, "alpha": 10.0, "targets": ("all-linear",)}


def causal(kind: str, **changes: Any) -> Any:
    config = CONFIG_MAPPING[kind](**({"bos_token_id": 1, "eos_token_id": 2} | changes))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).float().eval()


def base_of(case: str) -> Any:
    kind, changes, *_ = CASES[case]
    return causal(kind, **changes)


def as_converted(weight: Tensor, module: str, case: str) -> Tensor:
    """A weight `[out, in]` in the order that llama.cpp's converter gives its rows."""
    leaf, width = module.rpartition(".")[2], weight.shape[1]
    heads = {"q_proj": 4, "k_proj": 2}.get(leaf)
    if case in ("llama", "mistral", "smollm3") and heads is not None:
        return weight.reshape(heads, 2, -1, width).swapaxes(1, 2).reshape(weight.shape)
    if leaf != "query_key_value":
        return weight
    groups = {"falcon, one k and v": 1, "falcon, grouped": 2}.get(case, 4)
    split = weight.reshape(groups, -1, 8, width)  # [groups, q … q k v, head, in]
    return torch.cat(
        [split[:, :-2].reshape(-1, width), split[:, -2].reshape(-1, width), split[:, -1].reshape(-1, width)]
    )


def contents(file: Path) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    """A file's metadata and tensors, as any reader of GGUF gets them."""
    reader = gguf.GGUFReader(file)
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    return fields, {tensor.name: np.array(tensor.data) for tensor in reader.tensors}


def added(file: Path, name: str) -> Tensor:
    """What llama.cpp adds to its tensor `name`: α / r · B A, with r the rows of that A."""
    fields, tensors = contents(file)
    a, b = (torch.from_numpy(tensors[f"{name}.lora_{half}"]).float() for half in "ab")
    alpha: float = fields["adapter.lora.alpha"]
    return alpha / a.shape[0] * (b @ a)


def deltas(model: nn.Module) -> dict[str, Tensor]:
    """Our own ΔW `[out, in]` by module."""
    found = {}
    for name, layer in lora_layers(model).items():
        update = layer.update("a") if isinstance(layer, LoraLayer) else None
        assert update is not None
        found[name] = update.delta()
    return found


@pytest.mark.parametrize("case", CASES)
def test_what_the_file_adds_to_a_converted_base_is_what_we_add_to_ours(case: str, tmp_path: Path) -> None:
    model, names, blocks = base_of(case), CASES[case][3], CASES[case][4]
    ours(model, SETTINGS | {"rank_pattern": {next(iter(names)): 3}, "use_rslora": True})
    save_gguf(model, "a", tmp_path / "a.gguf", "some/base")
    expected = deltas(model)
    assert expected.keys() == {f"{blocks}.{block}.{part}" for block in (0, 1) for part in names}
    for module, delta in expected.items():
        block, _, part = module.removeprefix(f"{blocks}.").partition(".")
        found = added(tmp_path / "a.gguf", f"blk.{block}.{names[part]}.weight")
        assert is_close(found, as_converted(delta, module, case), 1e-5)


@pytest.mark.parametrize("case", CASES)
def test_the_file_says_what_it_is_and_for_which_architecture(case: str, tmp_path: Path) -> None:
    model = base_of(case)
    ours(model, SETTINGS)
    save_gguf(model, "a", tmp_path / "a.gguf", "some/base")
    fields, tensors = contents(tmp_path / "a.gguf")
    said = {name: fields[name] for name in ("general.type", "adapter.type", "general.architecture")}
    assert said == {"general.type": "adapter", "adapter.type": "lora", "general.architecture": CASES[case][2]}
    assert fields["adapter.lora.alpha"] == 10
    assert len(tensors) == 2 * len(lora_layers(model)) and {array.dtype.name for array in tensors.values()} == {
        "float32"
    }


def test_embedding_and_head_go_where_llama_cpp_looks_them_up(tmp_path: Path) -> None:
    model = base_of("llama")
    ours(model, {"rank": 3, "targets": ("embed_tokens", "lm_head"), "alpha": 6.0})
    save_gguf(model, "a", tmp_path / "a.gguf", "some/base")
    _, tensors = contents(tmp_path / "a.gguf")
    assert tensors["token_embd.weight.lora_a"].shape == (60, 3)  # a row for each token, turned unlike all others
    embedding = 2 * tensors["token_embd.weight.lora_b"] @ tensors["token_embd.weight.lora_a"].T
    expected = deltas(model)
    assert is_close(torch.from_numpy(embedding), expected["model.embed_tokens"])
    assert is_close(added(tmp_path / "a.gguf", "output.weight"), expected["lm_head"])


def test_an_adapter_on_disk_gives_the_same_file_as_in_memory(tmp_path: Path) -> None:
    model = base_of("llama")
    model.save_pretrained(tmp_path / "base")
    config = ours(model, SETTINGS | {"rank_pattern": {"v_proj": 2}})
    folder = saved_by_us(model, config, tmp_path / "ours")
    export_gguf(folder, tmp_path / "base", tmp_path / "disk.gguf")
    save_gguf(model, "a", tmp_path / "memory.gguf", "some/base")
    assert (tmp_path / "disk.gguf").read_bytes() == (tmp_path / "memory.gguf").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"base", "ours", "disk.gguf", "memory.gguf"}


def test_an_anchored_start_is_written_with_its_anchor(tmp_path: Path) -> None:
    model = base_of("qwen3")
    ours(model, SETTINGS | {"init": "pissa", "targets": ("q_proj",)})
    save_gguf(model, "a", tmp_path / "a.gguf", "some/base")
    assert is_close(added(tmp_path / "a.gguf", "blk.1.attn_q.weight"), deltas(model)["model.layers.1.self_attn.q_proj"])


def test_sixteen_bits_round_and_refuse_what_they_cannot_hold(tmp_path: Path) -> None:
    model = base_of("llama")
    ours(model, SETTINGS | {"targets": ("v_proj",)})
    precisions: tuple[Precision, ...] = ("f32", "f16")
    for precision in precisions:
        save_gguf(model, "a", tmp_path / f"{precision}.gguf", "some/base", precision)
    (_, wide), (_, half) = contents(tmp_path / "f32.gguf"), contents(tmp_path / "f16.gguf")
    assert all(
        array.dtype == np.float16 and np.array_equal(array, wide[name].astype(np.float16))
        for name, array in half.items()
    )
    update = lora_layers(model)["model.layers.0.self_attn.v_proj"].update("a")
    update.b.data[0, 0] = 1e5
    with pytest.raises(AdapterError, match=r"layers\.0\.self_attn\.v_proj has values that 16 bits cannot hold"):
        save_gguf(model, "a", tmp_path / "large.gguf", "some/base", "f16")
    assert not (tmp_path / "large.gguf").exists()


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        (
            {"tie_word_embeddings": True},
            {"targets": ("embed_tokens",)},
            "cannot adapt .*, which embedding and output head",
        ),
        ({"tie_word_embeddings": True}, {"targets": ("lm_head",)}, "cannot adapt .*, which embedding and output head"),
        ({}, {"targets": ("q_proj",), "use_dora": True}, "DoRA's magnitudes"),
        ({}, {"targets": ("q_proj",), "modules_to_save": ("norm",)}, "norm, trained whole"),
    ],
)
def test_what_llama_cpp_cannot_add_is_refused(
    tmp_path: Path, changes: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    model = causal("llama", **(GROUPED | changes))
    ours(model, {"rank": 2} | settings)
    with pytest.raises(AdapterError, match=message) as caught:
        save_gguf(model, "a", tmp_path / "a.gguf", "some/base")
    assert "Merge" in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_an_architecture_that_llama_cpp_does_not_have_is_refused(tmp_path: Path) -> None:
    model = causal("opt", **SHAPE, ffn_dim=48, word_embed_proj_dim=32, max_position_embeddings=32)
    ours(model, {"rank": 2, "targets": ("q_proj",)})
    with pytest.raises(AdapterError, match="of the kind opt are not supported") as caught:
        save_gguf(model, "a", tmp_path / "a.gguf", "some/base")
    assert "llama" in caught.value.hint


def test_a_folder_that_is_no_model_or_another_one_is_refused(tmp_path: Path) -> None:
    model = base_of("llama")
    folder = saved_by_us(model, ours(model, SETTINGS), tmp_path / "ours")
    with pytest.raises(ModelError, match="cannot be read"):
        export_gguf(folder, tmp_path, tmp_path / "a.gguf")
    causal("llama", **(GROUPED | {"intermediate_size": 64})).save_pretrained(tmp_path / "other")
    with pytest.raises(AdapterError, match="another base model: here .*mlp.* does not go from") as caught:
        export_gguf(folder, tmp_path / "other", tmp_path / "a.gguf")
    assert "some/base" in caught.value.detail
    assert not (tmp_path / "a.gguf").exists()
