"""What training did to each module: norms against norms of what is formed plainly, and faults by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from core.adapters.copies import AdaptedWhole
from core.adapters.experts import LoraExperts
from core.adapters.inject import inject, lora_layers
from core.adapters.layer import LoraLayer
from core.adapters.lowrank import TokenRows
from core.analysis.appraisal import Module
from core.analysis.health import modules_of, product_norms
from core.config import LoraConfig
from tests.core.adapters.peft_pairs import Convolutions, gpt2, phi3, tied_llama
from tests.core.adapters.test_peft_experts import mixtral

SETTINGS: dict[str, tuple[Callable[[], nn.Module], LoraConfig]] = {
    "linear": (tied_llama, LoraConfig(rank=3, alpha=5, targets=("q_proj", "up_proj"))),
    "rslora": (tied_llama, LoraConfig(rank=3, alpha=5, targets=("q_proj",), use_rslora=True)),
    "dora": (tied_llama, LoraConfig(rank=3, targets=("q_proj", "down_proj"), use_dora=True)),
    "embedding": (tied_llama, LoraConfig(rank=3, targets=("embed_tokens", "v_proj"))),
    "conv1d": (gpt2, LoraConfig(rank=3, targets=("c_attn", "c_proj"))),
    "part of a fused matrix": (phi3, LoraConfig(rank=3, targets=("qkv_proj:v", "gate_up_proj:up"))),
    "convolution": (Convolutions, LoraConfig(rank=2, targets=("line", "sheet", "out"))),
    "pissa": (tied_llama, LoraConfig(rank=3, targets=("q_proj",), init="pissa")),
}


def moved(model: nn.Module, config: LoraConfig) -> dict[str, Module]:
    """The modules of an adapter whose every trained number was pushed about."""
    inject(model, config, key="a", seed=0)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.01 * torch.randn(parameter.shape, generator=generator)
    return {module.name: module for module in modules_of(model, "a")}


@pytest.mark.parametrize("kind", SETTINGS)
def test_the_change_is_the_norm_of_the_change_formed_plainly(kind: str) -> None:
    make, config = SETTINGS[kind]
    model = make()
    found = moved(model, config)
    layers = {name: layer for name, layer in lora_layers(model).items() if "a" in layer.adapters}
    assert found.keys() == layers.keys() and found
    for name, layer in layers.items():
        assert isinstance(layer, LoraLayer)
        update = layer.update("a")
        assert update is not None
        change = layer.matrix_change(update).double()
        assert found[name].change == pytest.approx(float(change.norm()), rel=1e-5)
        assert found[name].weight == pytest.approx(float(layer.matrix().double().norm()), rel=1e-5)
        assert not found[name].fault and not found[name].unmeasured


def test_factors_of_any_shape_have_the_norm_of_their_product() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((4, 20, 9), (1, 3, 50), (30, 8, 8)):
        rank, rows, columns = shape
        a = torch.randn(5, rank, columns, generator=generator)
        b = torch.randn(5, rows, rank, generator=generator)
        assert product_norms(a, b) == pytest.approx((b.double() @ a.double()).flatten(1).norm(dim=1).tolist())


@pytest.mark.parametrize("init", ["kaiming", "gaussian", "orthogonal", "pissa", "olora"])
def test_a_fresh_adapter_has_not_moved_however_it_starts(init: str) -> None:
    model = tied_llama()
    inject(model, LoraConfig(rank=4, targets=("q_proj", "up_proj"), init=init), key="a", seed=0)  # type: ignore[arg-type]
    found = modules_of(model, "a")
    assert len(found) == 4 and {module.fault for module in found} == {"unmoved"}


def test_a_zeroed_b_is_told_by_name_and_no_other() -> None:
    model = tied_llama()
    moved(model, LoraConfig(rank=4, targets=("q_proj", "up_proj")))
    name = "model.layers.1.mlp.up_proj"
    lora_layers(model)[name].update("a").b.data.zero_()
    assert [module.name for module in modules_of(model, "a") if module.fault == "unmoved"] == [name]


@pytest.mark.parametrize("factor", [100.0, float("inf"), float("nan")])
def test_an_exploded_b_is_told_by_name_and_no_other(factor: float) -> None:
    model = tied_llama()
    moved(model, LoraConfig(rank=4, targets=("q_proj", "up_proj")))
    name = "model.layers.0.self_attn.q_proj"
    lora_layers(model)[name].update("a").b.data *= factor
    faults = {module.name: module.fault for module in modules_of(model, "a") if module.fault}
    assert faults == {name: "exploding" if factor == 100 else "not finite"}


def test_one_module_that_went_ten_times_as_far_as_the_others_is_told() -> None:
    model = tied_llama()
    inject(model, LoraConfig(rank=4, targets=("q_proj", "up_proj", "down_proj")), key="a", seed=0)
    for name, layer in lora_layers(model).items():
        update, change = layer.update("a"), 0.02
        update.b.data.normal_()
        wanted = change * float(layer.matrix().norm()) * (20 if name.endswith("0.mlp.up_proj") else 1)
        update.b.data *= wanted / float(update.delta().norm())
    faults = {module.name: module.fault for module in modules_of(model, "a") if module.fault}
    assert faults == {"model.layers.0.mlp.up_proj": "exploding"}


def test_a_tied_head_is_not_counted_beside_its_embedding() -> None:
    model = tied_llama()
    assert set(moved(model, LoraConfig(rank=2, targets=("embed_tokens",)))) == {"model.embed_tokens"}


def test_experts_are_one_module_and_those_that_never_moved_are_counted() -> None:
    model = mixtral()
    name = "model.layers.0.mlp.experts"
    matrix = f"{name}.gate_up_proj"
    moved(model, LoraConfig(rank=2, targets=("experts.gate_up_proj", "experts.down_proj")))
    layer = model.get_submodule(name)
    assert isinstance(layer, LoraExperts)
    update = layer.update("a", "gate_up_proj")
    assert update is not None
    update.b.data[1].zero_()
    found = {module.name: module for module in modules_of(model, "a")}
    assert (found[matrix].parts, found[matrix].unmoved_parts, found[matrix].fault) == (4, 1, "")
    assert found[matrix].change == pytest.approx(float(update.delta().norm()), rel=1e-5)


def test_whole_copies_tokens_and_biases_are_set_beside_what_they_replace() -> None:
    model = tied_llama()
    inject(model, LoraConfig(rank=2, targets=("q_proj",), modules_to_save=("norm",)), key="a", seed=0, tokens=[3, 7])
    copy = model.get_submodule("model.norm")
    assert isinstance(copy, AdaptedWhole)
    trained = copy.copy_of("a")
    assert trained is not None
    trained.module.weight.data += 0.5  # type: ignore[operator]
    rows = model.get_submodule("model.embed_tokens").adapters["a"]  # type: ignore[index]
    assert isinstance(rows, TokenRows)
    rows.b.data.fill_(0.1)
    found = {module.name: module for module in modules_of(model, "a")}
    width = len(copy.base.weight)  # type: ignore[arg-type]
    assert found["model.norm"].change == pytest.approx(0.5 * width**0.5)
    assert found["model.norm"].weight == pytest.approx(float(copy.base.weight.norm()))  # type: ignore[operator]
    embedding = model.get_submodule("model.embed_tokens.base").weight
    assert found["model.embed_tokens"].change == pytest.approx(0.1 * (2 * width) ** 0.5)
    assert found["model.embed_tokens"].weight == pytest.approx(float(embedding[[3, 7]].norm()))  # type: ignore[index,operator]


def test_biases_alone_are_set_beside_the_bases() -> None:
    model = gpt2()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_(generator=torch.Generator().manual_seed(0))
    inject(model, LoraConfig(), key="a", seed=0, bias_only=True)
    found = {module.name: module for module in modules_of(model, "a")}
    assert found and {module.fault for module in found.values()} == {"unmoved"}
    layer = model.get_submodule("transformer.h.0.attn.c_attn")
    layer.adapters["a"].bias.data += 1.0  # type: ignore[index,union-attr,operator]
    again = {module.name: module for module in modules_of(model, "a")}["transformer.h.0.attn.c_attn"]
    assert again.change == pytest.approx(len(layer.base.bias) ** 0.5) and not again.unmeasured  # type: ignore[arg-type,union-attr]
