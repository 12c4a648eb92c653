"""A merged model in one GGUF file, as transformers and the gguf package read it. llama.cpp itself reads it in
`benchmarks/llama_cpp.py`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

from core.errors import AdapterError, ModelError, UserError
from core.export.gguf_model import Storage, export_gguf_base, export_gguf_model
from core.export.gguf_words import way_of_cutting
from core.export.reference import Reference, ask
from core.models.load import load_model
from tests.core.export.conftest import Make, read_back, write_adapter

LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}  # fmt: skip
UNTIED, BIASES, WIDE = {"tie_word_embeddings": False}, {"attention_bias": True}, {"head_dim": 32}
BASES: dict[str, tuple[str, dict[str, Any]]] = {
    "untied, with biases and wide heads": ("llama", UNTIED | BIASES | WIDE),
    "untied": ("llama", UNTIED),
    "biases": ("llama", BIASES),
    "wide heads": ("llama", WIDE),
    "Llama 3's rotary embedding": ("llama", {"rope_parameters": LLAMA3}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
}
STORED: dict[Storage, str] = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "q8_0": "q8_0"}
# What others hold as well, sooner: the base with all three changes, and f32 in each case of `BASES`.
HELD = {"untied", "biases", "wide heads", "f32"}


def with_held_ones_slow(cases: Iterable[str]) -> list[Any]:
    """Those that others hold run in `make test-all`."""
    return [pytest.param(case, marks=[pytest.mark.slow] if case in HELD else []) for case in cases]


@pytest.mark.parametrize("storage", with_held_ones_slow(STORED))
def test_every_storage_is_within_its_bound(
    storage: Storage, base: Path, plain: Path, said: Reference, tmp_path: Path
) -> None:
    export_gguf_model(plain, base, tmp_path / "m.gguf", storage=storage, name="Captain")
    verdict = read_back(tmp_path / "m.gguf", "gguf-model", base, said, STORED[storage])
    assert verdict.is_good and verdict.agreed >= 0.9 * verdict.tokens
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]


@pytest.mark.parametrize("case", with_held_ones_slow(BASES))
def test_other_bases_are_read_as_they_are(case: str, make_base: Make, tmp_path: Path) -> None:
    kind, changes = BASES[case]
    base = make_base(kind, **changes)
    folder = write_adapter(base, tmp_path / "adapter")
    export_gguf_model(folder, base, tmp_path / "m.gguf", storage="f32")
    verdict = read_back(tmp_path / "m.gguf", "gguf-model", base, ask(folder, base))
    assert verdict.is_good and verdict.agreed == verdict.tokens


def test_a_turned_head_is_found(base: Path, plain: Path, said: Reference, tmp_path: Path) -> None:
    export_gguf_model(plain, base, tmp_path / "m.gguf", storage="f32")
    reader = gguf.GGUFReader(tmp_path / "m.gguf", "r+")
    tensor = next(tensor for tensor in reader.tensors if tensor.name == "blk.1.attn_k.weight")
    tensor.data[:] = -tensor.data
    del reader, tensor
    with pytest.raises(AdapterError, match="more than the bound"):
        read_back(tmp_path / "m.gguf", "gguf-model", base, said)


def test_a_word_that_is_spelled_otherwise_is_found(base: Path, plain: Path, said: Reference, tmp_path: Path) -> None:
    export_gguf_model(plain, base, tmp_path / "m.gguf", storage="f16")
    content = (tmp_path / "m.gguf").read_bytes()
    assert content.count(b"<|im_start|>") >= 1
    (tmp_path / "m.gguf").write_bytes(content.replace(b"<|im_start|>", b"<|im_stark|>", 1))
    with pytest.raises(AdapterError, match="not the tokenizer's"):
        read_back(tmp_path / "m.gguf", "gguf-model", base, said, "float16")


def test_the_file_says_what_llama_cpp_asks_for(base: Path, tmp_path: Path) -> None:
    export_gguf_base(base, tmp_path / "b.gguf", storage="q8_0", name="Base")
    reader = gguf.GGUFReader(tmp_path / "b.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    tokenizer = AutoTokenizer.from_pretrained(base)
    assert fields["general.architecture"] == "llama" and fields["general.name"] == "Base"
    assert fields["llama.attention.head_count_kv"] == 2 and fields["llama.rope.dimension_count"] == 16
    assert fields["tokenizer.ggml.pre"] == "gpt-2" and fields["tokenizer.ggml.model"] == "gpt2"
    assert fields["tokenizer.ggml.eos_token_id"] == tokenizer.eos_token_id
    assert fields["tokenizer.ggml.add_bos_token"] is False
    assert fields["tokenizer.chat_template"] == tokenizer.chat_template
    types = fields["tokenizer.ggml.token_type"]
    assert types[tokenizer.eos_token_id] == gguf.TokenType.CONTROL and types[500] == gguf.TokenType.NORMAL
    kinds = {tensor.name: tensor.tensor_type for tensor in reader.tensors}
    assert kinds["blk.0.attn_q.weight"] == gguf.GGMLQuantizationType.Q8_0
    assert kinds["output_norm.weight"] == gguf.GGMLQuantizationType.F32 and "output.weight" not in kinds


@pytest.mark.parametrize(
    ("kind", "changes", "says"),
    [
        ("gpt_neox", {}, "kind gpt_neox"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}}, "yarn"),
    ],
)
def test_what_has_no_name_here_is_refused_in_a_sentence(
    kind: str, changes: dict[str, Any], says: str, make_base: Make, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=says):
        export_gguf_base(make_base(kind, **changes), tmp_path / "b.gguf")
    assert list(tmp_path.iterdir()) == []


def test_a_value_that_f16_cannot_hold_is_refused(make_base: Make, tmp_path: Path) -> None:
    folder = make_base()
    loaded = load_model(folder, dtype=torch.float32)
    loaded.model.model.layers[0].mlp.up_proj.weight.data[0, 0] = 1e6
    loaded.model.save_pretrained(folder)
    with pytest.raises(AdapterError, match=r"ffn_up.weight has values that f16 cannot hold"):
        export_gguf_base(folder, tmp_path / "b.gguf", storage="f16")
    assert list(tmp_path.iterdir()) == []
    export_gguf_base(folder, tmp_path / "b.gguf", storage="bf16")


QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def spelled(cutting: Any, **model: Any) -> dict[str, Any]:
    tokenizer = Tokenizer(models.BPE(**({"vocab": {"a": 0}, "merges": []} | model)))
    tokenizer.pre_tokenizer = cutting
    found: dict[str, Any] = json.loads(tokenizer.to_str())
    return found


def test_the_way_of_cutting_is_told_by_its_rules() -> None:
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False)
    mapped = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)

    def split(pattern: str) -> Any:
        return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), mapped])

    digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), bytewise])
    assert way_of_cutting(spelled(bytewise)) == "gpt-2"
    assert way_of_cutting(spelled(digits)) == "smollm"
    assert way_of_cutting(spelled(split(QWEN))) == "qwen2"
    assert way_of_cutting(spelled(split(QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)), ignore_merges=True)) == "llama-bpe"
    for other in (
        spelled(split(QWEN + "|x")), spelled(bytewise, byte_fallback=True), spelled(bytewise, ignore_merges=True),
        spelled(pre_tokenizers.Whitespace()), spelled(pre_tokenizers.ByteLevel(add_prefix_space=True)),
        spelled(mapped),
    ):  # fmt: skip
        with pytest.raises(ModelError, match="no name for the way"):
            way_of_cutting(other)
