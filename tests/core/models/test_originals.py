"""What a layer was before it was quantized is what lies on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from core.models.linears import find_linears
from core.models.originals import OriginalWeights
from core.models.quantize import frozen_weight
from tests.core.tiny import tiny_llama


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=50, n_positions=16))


@pytest.mark.parametrize("build", [tiny_llama, gpt2])
def test_every_dense_layer_is_found_as_out_by_in(build: object, tmp_path: Path) -> None:
    model = build()  # type: ignore[operator]
    model.save_pretrained(tmp_path)
    weights = OriginalWeights(tmp_path)
    names = [shape.name for shape in find_linears(model)]
    assert set(names) <= set(weights)
    for name in names:
        assert torch.equal(weights[name], frozen_weight(model.get_submodule(name), torch.float32))


def test_a_model_saved_without_its_outermost_name_is_found_too(tmp_path: Path) -> None:
    model = gpt2()
    model.transformer.save_pretrained(tmp_path)
    name = "transformer.h.1.mlp.c_fc"
    assert torch.equal(OriginalWeights(tmp_path)[name], frozen_weight(model.get_submodule(name), torch.float32))


def test_a_layer_that_is_not_there_is_missing(tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path)
    weights = OriginalWeights(tmp_path)
    assert weights.get("model.layers.9.mlp.up_proj") is None
    assert len(list(weights)) == len(weights)
