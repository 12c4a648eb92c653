"""What the files of a model say of a run's memory is what the loaded model says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.config import parse
from jobs.sizes import Sized, sized


def sized_with(folder: Path, **parts: Any) -> Sized:
    config = parse({"name": "sizes", "data": {"dataset_id": "D"}, "base_model": str(folder), **parts})
    found = sized(config, folder.parent)
    assert found is not None
    return found


def test_the_numbers_are_the_loaded_models(tiny_folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    config, shape = model.config, sized_with(tiny_folder).shape
    block = model.model.layers[0]
    assert (shape.width, shape.inner, shape.heads) == (
        config.hidden_size, config.intermediate_size, config.num_attention_heads
    )  # fmt: skip
    assert (shape.query, shape.key) == (block.self_attn.q_proj.out_features, block.self_attn.k_proj.out_features)
    assert (shape.blocks, shape.vocabulary) == (len(model.model.layers), config.vocab_size)
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert abs(shape.stored_bytes - 4 * shape.parameters) < 20_000
    assert shape.is_lean and shape.is_packed


@pytest.mark.parametrize(
    ("parts", "is_plain"),
    [
        ({}, True),
        ({"lora": {"targets": ["q_proj", "lm_head"]}}, False),
        ({"lora": {"targets": ["q_proj", "embed_tokens"]}}, False),  # which is the head as well
        ({"lora": {"modules_to_save": ["embed_tokens"]}}, False),
        ({"lora": {"new_tokens": ["<a>"]}}, False),
        ({"method": "full"}, False),
    ],
)
def test_a_head_that_is_trained_in_any_way_forms_all_logits(
    tiny_folder: Path, parts: dict[str, Any], is_plain: bool
) -> None:
    from core.adapters.inject import inject
    from core.models.load import head_weight, load_model
    from core.models.vocabulary import add_tokens

    found = sized_with(tiny_folder, **parts)
    assert found.trained.is_head_plain == is_plain
    loaded = load_model(tiny_folder, dtype=None)
    if found.config.method == "lora":
        tokens = add_tokens(loaded, found.config.lora.new_tokens)
        inject(loaded.model, found.config.lora, key="a", seed=0, tokens=tokens)
    else:
        loaded.model.requires_grad_(True)
    assert (head_weight(loaded.model) is not None) == is_plain


def test_updates_are_counted_as_they_are_put_in(tiny_folder: Path) -> None:
    from core.adapters.inject import inject, lora_layers
    from core.models.load import load_model

    parts = {"lora": {"rank": 4, "rank_pattern": {"q_proj": 2}, "layers": [1], "targets": ["q_proj", "down_proj"]}}
    trained = sized_with(tiny_folder, **parts).trained
    loaded = load_model(tiny_folder, dtype=None)
    inject(loaded.model, sized_with(tiny_folder, **parts).config.lora, key="a", seed=0)
    layers = list(lora_layers(loaded.model).values())
    updates = [layer.update("a") for layer in layers]
    assert trained.thin == sum(update.rank for update in updates)
    assert trained.inside == sum(layer.in_features for layer in layers)
    assert trained.outside == sum(layer.out_features for layer in layers)
    assert trained.parameters == sum(p.numel() for p in loaded.model.parameters() if p.requires_grad)
    assert (trained.first_block, trained.idle) == (1, 0)


@pytest.mark.parametrize(("lora", "share"), [({"init": "olora"}, 1.0), ({"freeze_a": True}, None)])
def test_what_an_update_carries_along_unchanged_is_counted(
    tiny_folder: Path, lora: dict[str, Any], share: float | None
) -> None:
    plain, other = sized_with(tiny_folder).trained, sized_with(tiny_folder, lora=lora).trained
    assert other.parameters + other.idle == plain.parameters * (2 if share else 1)
