"""Settings that exclude each other are refused without a model, and those that do not are let through."""

from __future__ import annotations

from typing import Any

import pytest

from core.checks import check, check_layers
from core.config import LoraConfig, parse
from core.errors import ConfigError
from core.models.shapes import Kind, LinearShape


def run(**values: Any) -> Any:
    return parse({"name": "x", "data": {"dataset_id": "d"}, **values})


def layer(kind: Kind, name: str = "model.embed_tokens") -> LinearShape:
    return LinearShape(name=name, in_features=32, out_features=16, kind=kind)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"method": "full", "quant": {"bits": 4}}, "quant.bits"),
        ({"method": "full", "quant": {"bits": 8}}, "quant.bits"),
        ({"method": "full", "optim": {"lora_plus_ratio": 2}}, "optim.lora_plus_ratio"),
        ({"method": "bitfit", "optim": {"lora_plus_ratio": 2}}, "optim.lora_plus_ratio"),
        ({"method": "bitfit", "lora": {"new_tokens": ["<a>"]}}, "lora.new_tokens"),
        ({"method": "bitfit", "lora": {"modules_to_save": ["norm"]}}, "lora.modules_to_save"),
        ({"lora": {"freeze_a": True}, "optim": {"lora_plus_ratio": 16}}, "optim.lora_plus_ratio"),
        ({"lora": {"layers": []}}, "lora.layers"),
        ({"lora": {"new_tokens": ["<a>", "<a>"]}}, "lora.new_tokens"),
        ({"lora": {"new_tokens": [" "]}}, "lora.new_tokens"),
        ({"lora": {"init": "orthogonal", "rank": 5}}, "lora.init"),
        ({"lora": {"init": "orthogonal", "rank_pattern": {"q_proj": 3}}}, "lora.init"),
        ({"lora": {"init": "loftq"}}, "lora.init"),
        ({"lora": {"init": "loftq"}, "quant": {"bits": 32}}, "lora.init"),
        *(({"lora": {"init": start, "targets": ["qkv_proj:v"]}}, "lora.init") for start in ("pissa", "olora", "eva")),
    ],
    ids=str,
)  # fmt: skip
def test_a_contradiction_is_refused_on_the_setting_to_change(values: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(run(**values))
    assert caught.value.field == field and caught.value.hint


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"method": "full", "quant": {"bits": 32}},
        {"method": "full", "lora": {"rank": 7, "init": "orthogonal", "modules_to_save": ["norm"]}},
        {"method": "bitfit", "quant": {"bits": 4}},
        {"lora": {"init": "orthogonal", "rank": 6}},
        {"lora": {"init": "orthogonal", "targets": ["qkv_proj:v"]}},
        {"lora": {"init": "loftq"}, "quant": {"bits": 4}},
        {"lora": {"freeze_a": True, "init": "pissa"}},
        {"optim": {"lora_plus_ratio": 16}},
    ],
    ids=str,
)
def test_what_goes_together_is_let_through(values: dict[str, Any]) -> None:
    check(run(**values))


@pytest.mark.parametrize(
    ("lora", "kind", "is_tied", "field"),
    [
        ({"use_dora": True}, "embedding", True, "lora.use_dora"),
        ({"use_dora": True}, "head", True, "lora.use_dora"),
        ({"use_dora": True}, "head", False, ""),
        ({"use_dora": True}, "linear", True, ""),
        ({"use_dora": True}, "experts", False, "lora.use_dora"),
        ({"dropout": 0.1}, "experts", False, "lora.dropout"),
        ({"init": "olora"}, "experts", False, "lora.init"),
        ({"init": "gaussian"}, "experts", False, ""),
        ({"freeze_a": True}, "embedding", False, "lora.freeze_a"),
        ({"freeze_a": True}, "head", False, ""),
        ({"new_tokens": ("<a>",)}, "embedding", False, "lora.new_tokens"),
        ({"new_tokens": ("<a>",)}, "linear", False, ""),
    ],
)
def test_layers_carry_what_they_can(lora: dict[str, Any], kind: Kind, is_tied: bool, field: str) -> None:
    def ask() -> None:
        check_layers(LoraConfig(**lora), [layer(kind)], is_tied=is_tied, input_embedding="model.embed_tokens")

    if not field:
        ask()
        return
    with pytest.raises(ConfigError) as caught:
        ask()
    assert caught.value.field == field


def test_new_tokens_may_stand_beside_an_embedding_of_places() -> None:
    places = layer("embedding", "transformer.wpe")
    check_layers(LoraConfig(new_tokens=("<a>",)), [places], is_tied=False, input_embedding="transformer.wte")
