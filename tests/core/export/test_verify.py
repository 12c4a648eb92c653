"""What is written says what the adapter says, read by programs that do not know us; what does not is refused."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.adapters.gguf import export_gguf
from core.adapters.inject import inject
from core.adapters.merge import export_merged
from core.adapters.peft_format import save_adapter
from core.adapters.portable import export_portable
from core.config import LoraConfig
from core.errors import AdapterError
from core.export import stranger, verify
from core.export.reference import ANSWER_TOKENS, QUESTIONS, Reference, ask
from core.export.verdict import Verdict
from core.models.load import ClassHead, load_model
from tests.core.adapters.peft_pairs import stir
from tests.core.export.conftest import Make, read_back, write_adapter

ALL = len(QUESTIONS) * ANSWER_TOKENS
VARIANTS: dict[str, dict[str, Any]] = {
    "rsLoRA with patterns": {"use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"up_proj": 3.0}},
    "DoRA": {"use_dora": True},
    "whole modules and biases": {"modules_to_save": ("model.norm",), "targets": ("q_proj",)},
    "new tokens": {"new_tokens": ("<ship>",), "targets": ("q_proj", "v_proj")},
}


def near(verdict: Verdict, share: float = 1.0) -> bool:
    """Whether all tokens agree, and the difference is there and within a share of its bound."""
    return verdict.is_good and verdict.agreed == verdict.tokens == ALL and verdict.difference <= share * verdict.bound


def test_an_adapter_is_read_by_peft_and_by_plain_torch_alike(base: Path, plain: Path, said: Reference) -> None:
    theirs = read_back(plain, "peft", base, said)
    ours = read_back(plain, "peft", base, said, may_use_peft=False)
    assert theirs.reader.startswith("peft 0.") and ours.reader.startswith("plain torch on transformers")
    assert near(theirs) and near(ours)
    assert theirs.bound < 1e-3


@pytest.mark.parametrize("variant", VARIANTS)
def test_plain_torch_reads_what_peft_reads(variant: str, base: Path, tmp_path: Path) -> None:
    folder = write_adapter(base, tmp_path / "adapter", **VARIANTS[variant])
    said = ask(folder, base)
    assert near(read_back(folder, "peft", base, said))
    assert near(read_back(folder, "peft", base, said, may_use_peft=False))


def test_what_only_peft_reads_is_said_where_peft_is_missing(base: Path, tmp_path: Path) -> None:
    folder = write_adapter(base, tmp_path / "adapter", targets=("embed_tokens", "q_proj"))
    verdict = read_back(folder, "peft", base, ask(folder, base), may_use_peft=False)
    assert verdict.is_good and verdict.tokens == 0
    assert verdict.sentence.startswith("Not read back: it has an adapted embedding, which only peft reads")


def test_a_portable_adapter_says_the_same(base: Path, plain: Path, said: Reference, tmp_path: Path) -> None:
    export_portable(plain, tmp_path / "portable")
    assert near(read_back(tmp_path / "portable", "peft", base, said))


def test_a_gguf_adapter_says_the_same(base: Path, plain: Path, said: Reference, tmp_path: Path) -> None:
    export_gguf(plain, base, tmp_path / "a.gguf")
    assert near(read_back(tmp_path / "a.gguf", "gguf-adapter", base, said))


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
        ("falcon", {"multi_query": True}),
        ("gpt_neox", {}),
        ("gpt2", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512}),
    ],
    ids=str,
)
def test_a_gguf_adapter_of_fused_or_turned_matrices_is_put_back(
    kind: str, changes: dict[str, Any], make_base: Make, tmp_path: Path
) -> None:
    base = make_base(kind, **changes)
    folder = write_adapter(base, tmp_path / "adapter", targets=("all-linear",))
    export_gguf(folder, base, tmp_path / "a.gguf")
    assert near(read_back(tmp_path / "a.gguf", "gguf-adapter", base, ask(folder, base)))


def test_a_merged_model_in_16_bits_is_off_by_its_rounding_and_no_more(
    base: Path, plain: Path, said: Reference, tmp_path: Path
) -> None:
    export_merged(plain, base, tmp_path / "exact", precision=32)
    export_merged(plain, base, tmp_path / "half", precision=16)
    exact = read_back(tmp_path / "exact", "transformers", base, said)
    half = read_back(tmp_path / "half", "transformers", base, said, "bfloat16")
    assert near(exact) and half.is_good
    assert half.difference > 100 * exact.difference and half.difference < half.bound
    assert half.agreed >= 0.9 * ALL
    stored = load_file(tmp_path / "half" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}


def test_a_merged_model_in_shards_is_whole(base: Path, plain: Path, said: Reference, tmp_path: Path) -> None:
    export_merged(plain, base, tmp_path / "shards", precision=32, shard_size="100KB")
    names = {path.name for path in (tmp_path / "shards").iterdir()}
    assert {"config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"} <= names
    index = json.loads((tmp_path / "shards" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 3
    assert near(read_back(tmp_path / "shards", "transformers", base, said))


def test_a_classifier_is_asked_for_its_classes(base: Path, tmp_path: Path) -> None:
    labels = ("calm", "storm", "fog")
    loaded = load_model(base, dtype=torch.float32, head=ClassHead(labels=labels, seed=0))
    config = LoraConfig(rank=4, alpha=8.0, modules_to_save=("score",))
    inject(loaded.model, config, key="a", seed=1)
    stir(loaded.model)
    save_adapter(loaded.model, "a", tmp_path / "adapter", config, str(base))
    (tmp_path / "adapter" / "labels.json").write_text(json.dumps(labels))
    said = ask(tmp_path / "adapter", base)
    assert said.labels == 3
    export_merged(tmp_path / "adapter", base, tmp_path / "merged", precision=32)
    for verdict in (
        read_back(tmp_path / "adapter", "peft", base, said),
        read_back(tmp_path / "adapter", "peft", base, said, may_use_peft=False),
        read_back(tmp_path / "merged", "transformers", base, said),
    ):
        assert verdict.is_good and verdict.agreed == verdict.tokens == len(QUESTIONS)


def flip(name: str, tensor: Tensor) -> Tensor:
    return (
        -tensor if name.endswith(("layers.1.self_attn.q_proj.weight", "1.self_attn.q_proj.lora_B.weight")) else tensor
    )


@pytest.mark.parametrize("form", ["portable", "merged"])
def test_one_tensor_with_its_sign_turned_is_found(
    form: str, base: Path, plain: Path, said: Reference, tmp_path: Path
) -> None:
    folder = tmp_path / form
    if form == "portable":
        export_portable(plain, folder)
    else:
        export_merged(plain, base, folder, precision=16)
    weights = folder / ("adapter_model.safetensors" if form == "portable" else "model.safetensors")
    tensors = load_file(weights)
    changed = {name: flip(name, tensor) for name, tensor in tensors.items()}
    assert any(not torch.equal(changed[name], tensors[name]) for name in tensors)
    save_file(changed, weights, metadata={"format": "pt"})
    stored, reader = ("float32", "peft") if form == "portable" else ("bfloat16", "transformers")
    with pytest.raises(
        AdapterError, match=r"not kept: logits differ by [\d.e+-]+ of their spread, more than the bound"
    ):
        read_back(folder, reader, base, said, stored)


def test_another_chat_template_is_found(base: Path, plain: Path, said: Reference, tmp_path: Path) -> None:
    export_merged(plain, base, tmp_path / "merged", precision=16)
    template = tmp_path / "merged" / "chat_template.jinja"
    template.write_text(template.read_text().replace("assistant", "pirate"))
    with pytest.raises(AdapterError, match="chat template make other tokens"):
        read_back(tmp_path / "merged", "transformers", base, said, "bfloat16")


def test_files_that_cannot_be_read_are_refused_in_a_sentence(
    base: Path, plain: Path, said: Reference, tmp_path: Path
) -> None:
    shutil.copytree(plain, tmp_path / "cut")
    weights = tmp_path / "cut" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(AdapterError, match="could not be read back") as caught:
        read_back(tmp_path / "cut", "peft", base, said)
    assert "Traceback" not in str(caught.value) and "\n" not in str(caught.value)


def test_the_stranger_knows_nothing_of_ours() -> None:
    imported = set()
    for node in ast.walk(ast.parse(Path(stranger.__file__).read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).split(".")[0])
    assert not imported & {"core", "jobs", "ui", "app"}
    assert Path(stranger.__file__) == verify._STRANGER
