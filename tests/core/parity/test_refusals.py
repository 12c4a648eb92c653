"""What is refused leaves the model as it was; what one adapter does to a module, another cannot undo."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from torch import nn

from core.adapters.inject import inject, lora_layers, remove
from core.config import LoraConfig
from core.errors import UserError
from core.models.linears import find_layers
from tests.core.parity.architectures import build
from tests.core.parity.cases import LINEARS

HEAD_IN_PART = LoraConfig(rank=2, targets=("lm_head",))
HEAD_WHOLE = LoraConfig(rank=2, targets=("q_proj",), modules_to_save=("lm_head",))


def refused(model: nn.Module, config: LoraConfig, **more: Any) -> str:
    """The title of the error that injecting raises; asserts that nothing has changed."""
    model.requires_grad_(True)
    before = list(model.modules())
    with pytest.raises(UserError) as caught:
        inject(model, config, key="new", seed=0, **more)
    assert list(model.modules()) == before
    assert all(parameter.requires_grad for parameter in model.parameters())
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"init": "orthogonal", "rank_pattern": {"down_proj": 3}}, "odd"),  # the last layer of each block
        ({"init": "eva"}, "eva"),
        ({"init": "loftq"}, "not quantized"),
    ],
)
def test_a_start_that_cannot_be_had_on_one_layer_changes_none(changes: Mapping[str, Any], words: str) -> None:
    assert words in refused(build("llama"), LoraConfig(rank=2, targets=LINEARS["llama"], **changes))


def test_a_module_is_adapted_in_part_or_whole_and_not_in_both_ways() -> None:
    model = build("llama")
    inject(model, HEAD_IN_PART, key="old", seed=0)
    assert "lm_head cannot be trained whole" in refused(model, HEAD_WHOLE)
    model = build("llama")
    inject(model, HEAD_WHOLE, key="old", seed=0)
    assert "lm_head" in refused(model, HEAD_IN_PART)


@pytest.mark.parametrize(
    "config", [LoraConfig(rank=2, targets=("embed_tokens",)), LoraConfig(modules_to_save=("embed_tokens",))]
)
def test_an_embedding_is_not_adapted_and_given_new_tokens_at_once(config: LoraConfig) -> None:
    assert "embedding" in refused(build("llama"), config, tokens=(5, 6))


def test_biases_beside_another_adapters_biases_are_the_base_models_own() -> None:
    model = build("gpt2")
    config = LoraConfig(rank=2, targets=LINEARS["gpt2"], bias="all")
    first = inject(model, config, key="a", seed=0)
    second = inject(model, config, key="b", seed=1)
    assert first == second == tuple(lora_layers(model))
    remove(model, "a")
    remove(model, "b")
    assert [type(module) for module in model.modules()] == [type(module) for module in build("gpt2").modules()]


def test_a_bias_can_be_trained_where_another_adapter_trains_the_whole_module() -> None:
    model = build("bert")
    inject(model, LoraConfig(rank=2, targets=("query",), modules_to_save=("classifier",)), key="a", seed=0)
    names = inject(model, LoraConfig(), key="b", seed=0, bias_only=True)
    assert "classifier" in names
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(name.endswith("bias") for name in trained)


def test_an_embedding_that_takes_more_than_token_ids_is_no_target() -> None:
    assert not any(shape.name.endswith("embed_positions") for shape in find_layers(build("opt")))
    names = {shape.name.rpartition(".")[2] for shape in find_layers(build("bert")) if shape.kind == "embedding"}
    assert names == {"word_embeddings", "position_embeddings", "token_type_embeddings"}


def test_an_embedding_whose_a_is_frozen_is_refused_for_it_could_learn_nothing() -> None:
    """A begins at zero there, and B's gradient is a product with it."""
    assert "learn nothing" in refused(build("llama"), LoraConfig(rank=2, targets=("embed_tokens",), freeze_a=True))
