from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from core.adapters.inject import activate, lora_layers
from core.adapters.peft_format import load_adapter, read_adapter
from core.config import QuantConfig
from core.models.linears import find_linears
from core.models.quantize import quantize_linears
from tests.core.adapters.peft_pairs import (
    PREFIX,
    B,
    Edit,
    edit_settings,
    edit_tensors,
    gpt2,
    llama,
    ours,
    refused,
    saved_by_them,
    saved_by_us,
    says,
    theirs,
    tied_llama,
)


@pytest.mark.parametrize(
    "method", [{"target_modules": ["q_proj"], "init_lora_weights": start} for start in ("pissa", "olora")]
)
def test_a_start_that_took_from_the_base_cannot_be_redone_on_a_quantized_one(
    base: nn.Module, tmp_path: Path, method: dict[str, Any]
) -> None:
    folder = saved_by_them(theirs(base, method), tmp_path / "theirs")
    quantize_linears(base, [shape.name for shape in find_linears(base)], QuantConfig(bits=8))
    refused(base, folder, "took out of .* cannot be computed again")


def test_what_trains_whole_modules_needs_them_in_full_precision(base: nn.Module, tmp_path: Path) -> None:
    model = copy.deepcopy(base)
    config = ours(model, {"rank": 4, "targets": ("q_proj",), "modules_to_save": ("o_proj",)})
    folder = saved_by_us(model, config, tmp_path / "ours")
    quantize_linears(base, [shape.name for shape in find_linears(base)], QuantConfig(bits=8))
    refused(base, folder, "o_proj is trained whole, and here it is stored in 4 or 8 bits")


TOKEN_FAULTS: dict[str, tuple[Edit, str]] = {
    "more tokens than rows": (edit_settings(trainable_token_indices=[3, 7, 9]), "2 rows for the 3 tokens"),
    "a token that is not there": (edit_settings(trainable_token_indices=[3, 60]), "up to number 60, and the base has"),
    "tokens of another embedding": (edit_settings(trainable_token_indices={"wte": [3, 7]}), "whose tokens its config"),
    "rows of another width": (
        edit_tensors(lambda t: t.update({k: torch.ones(2, 31) for k in t if "trainable_tokens" in k})), "rows of 31",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", TOKEN_FAULTS)
def test_rows_of_tokens_must_fit_their_embedding(tmp_path: Path, fault: str) -> None:
    base = tied_llama()
    settings = {"target_modules": ["q_proj"], "trainable_token_indices": [3, 7]}
    folder = saved_by_them(theirs(base, settings), tmp_path / "theirs")
    break_it, message = TOKEN_FAULTS[fault]
    break_it(folder)
    refused(base, folder, message)


def test_a_faulty_adapter_leaves_one_that_is_loaded_alone(base: nn.Module, saved: Path) -> None:
    activate(base, load_adapter(base, saved))
    expected = says(base)
    edit_tensors(lambda t: t.pop(B))(saved)
    refused(base, saved, "lora_A only")
    assert torch.equal(says(base), expected)


def test_an_adapter_that_could_not_stand_beside_another_is_refused_before_anything_changes(
    base: nn.Module, saved: Path, tmp_path: Path
) -> None:
    model = copy.deepcopy(base)
    config = ours(model, {"rank": 4, "targets": ("v_proj",), "modules_to_save": ("q_proj",)})
    whole = saved_by_us(model, config, tmp_path / "whole")
    load_adapter(base, saved)
    refused(base, whole, "cannot stand beside another one that trains .*q_proj")
    outer = copy.deepcopy(model)
    for layer in lora_layers(outer).values():
        layer.active = None
    refused(outer, saved, "cannot stand beside another one that trains .*q_proj")


def test_a_tied_embedding_cannot_be_adapted_while_its_head_is_trained_whole(tmp_path: Path) -> None:
    base = tied_llama()
    whole = saved_by_them(
        theirs(base, {"target_modules": ["v_proj"], "modules_to_save": ["lm_head"]}), tmp_path / "whole"
    )
    thin = saved_by_them(theirs(base, {"target_modules": ["embed_tokens"]}), tmp_path / "thin")
    load_adapter(base, whole)
    refused(base, thin, "cannot stand beside another one that trains lm_head")


@pytest.mark.parametrize("changes", [{"hidden_size": 64}, {"num_hidden_layers": 1}, {"intermediate_size": 96}])
def test_an_adapter_of_another_base_is_refused_with_the_names_of_both(saved: Path, changes: dict[str, int]) -> None:
    other = llama(**changes)
    other.config._name_or_path = "other/base"  # type: ignore[union-attr]
    error = refused(other, saved, "another base model")
    assert "made for some/base" in error.detail and "this is other/base" in error.detail


def test_a_base_with_more_layers_than_the_adapter_has_is_another_base(saved: Path) -> None:
    error = refused(llama(num_hidden_layers=3), saved, r"no tensors for model\.layers\.2")
    assert "some/base" in error.detail


def test_copies_of_the_base_are_compared_at_the_coarser_precision(tmp_path: Path) -> None:
    base = llama()
    for parameter in base.parameters():
        parameter.data = parameter.data.bfloat16().float()
    folder = saved_by_them(theirs(base, {"target_modules": ["embed_tokens"]}), tmp_path / "theirs")
    load_adapter(copy.deepcopy(base).bfloat16(), folder)
    edit_tensors(lambda t: t.update({k: v.bfloat16() for k, v in t.items() if "base_layer" in k}))(folder)
    load_adapter(copy.deepcopy(base), folder)
    base.model.embed_tokens.weight.data[3, 4] += 0.1  # type: ignore[union-attr, index, operator]
    refused(base, folder, "its copy of model.embed_tokens.weight has other values")


def test_a_bias_that_peft_wrote_twice_must_be_the_same_both_times(tmp_path: Path) -> None:
    base = gpt2()
    settings = {"target_modules": ["c_attn"], "fan_in_fan_out": True, "bias": "all", "modules_to_save": ["ln_f"]}
    folder = saved_by_them(theirs(base, settings), tmp_path / "theirs")
    edit_tensors(lambda t: t[f"{PREFIX}transformer.ln_f.modules_to_save.bias"].add_(1))(folder)
    refused(base, folder, "ln_f.* is there twice, with other values")


def test_biases_alone_are_refused_by_a_base_that_has_none(tmp_path: Path) -> None:
    model = gpt2()
    folder = saved_by_us(model, ours(model, {}, bias_only=True), tmp_path / "ours")
    assert read_adapter(folder).tensors == {}
    refused(llama(), folder, "has no bias of")
