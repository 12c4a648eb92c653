from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from core.adapters.inject import activate, inject, lora_layers
from core.adapters.peft_format import load_adapter, save_adapter
from core.config import LoraConfig
from core.generate.packed import PackedLinear, pack_linears
from core.models.linears import find_linears
from tests.core.parity.architectures import batch, build
from tests.core.tiny import bits, tiny_llama


def layer(dtype: torch.dtype, bias: bool) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(40, 56, bias=bias).to(dtype).requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 4, 9, 130])
def test_a_packed_layer_gives_the_products_of_a_plain_one(dtype: torch.dtype, bias: bool, rows: int) -> None:
    plain = layer(dtype, bias)
    packed = PackedLinear(plain)
    x = torch.randn(2, rows, 40, generator=torch.Generator().manual_seed(rows)).to(dtype)
    found, expected = packed(x), plain(x)
    assert found.dtype == dtype and found.shape == expected.shape
    assert (found - expected).norm() <= (1e-6 if dtype == torch.float32 else 2**-8) * expected.norm()
    apart = torch.randn(2, rows, 80).to(dtype)[..., ::2]
    assert torch.allclose(packed(apart), packed(apart.contiguous()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_weight_can_be_had_back_bit_for_bit(dtype: torch.dtype) -> None:
    plain = layer(dtype, True)
    packed = PackedLinear(plain)
    assert torch.equal(packed.weight, plain.weight)
    copied = copy.deepcopy(packed)
    assert type(copied) is nn.Linear and torch.equal(copied.weight, plain.weight)
    assert copied.bias is not packed.bias and torch.equal(copied.bias, plain.bias)
    assert list(packed.parameters()) == [packed.bias]  # the plain weight is let go


def test_the_linear_layers_of_a_model_are_packed_but_its_head_and_it_answers_as_before() -> None:
    model = build("llama")
    tokens = batch("llama", 0)["input_ids"]
    names = [shape.name for shape in find_linears(model)]
    with torch.no_grad():
        expected = model(input_ids=tokens).logits
        assert pack_linears(model) == len(names) == 14
        found = model(input_ids=tokens).logits
    assert all(isinstance(model.get_submodule(name), PackedLinear) for name in names)
    assert type(model.get_output_embeddings()) is nn.Linear
    assert [shape.name for shape in find_linears(model)] == names
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


def test_a_weight_that_two_layers_share_is_not_packed_twice() -> None:
    model = build("llama")
    layers = model.model.layers
    layers[1].mlp.up_proj.weight = layers[0].mlp.up_proj.weight
    assert pack_linears(model) == 12
    assert layers[1].mlp.up_proj.weight is layers[0].mlp.up_proj.weight


def test_other_dtypes_are_left_alone() -> None:
    model = build("llama").double()
    before = bits(model)
    assert pack_linears(model) == 0
    assert bits(model).keys() == before.keys()


@torch.no_grad()
def test_the_head_is_given_rows_that_lie_together() -> None:
    model = build("llama")
    expected = model(input_ids=batch("llama", 0)["input_ids"]).logits[:, -1:]
    pack_linears(model)
    seen = []
    model.get_output_embeddings().register_forward_hook(lambda _, given, __: seen.append(given[0]))
    found = model(input_ids=batch("llama", 0)["input_ids"], logits_to_keep=1).logits
    assert seen[0].stride() == (seen[0].shape[-1], seen[0].shape[-1], 1)
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


ADAPTERS = {
    "plain": LoraConfig(rank=3),
    "dora": LoraConfig(rank=3, use_dora=True),
    "whole": LoraConfig(rank=3, targets=("q_proj",), modules_to_save=("up_proj",)),
}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_adapters_of_every_kind_stand_beside_packed_layers(kind: str, tmp_path: Path) -> None:
    source, config = tiny_llama(vocab_size=160), ADAPTERS[kind]
    inject(source, config, key="a", seed=1)
    generator = torch.Generator().manual_seed(0)
    for wrapped in lora_layers(source).values():
        for parameter in wrapped.adapters["a"].parameters():
            parameter.data.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    save_adapter(source, "a", tmp_path, config, "tiny")
    plain, packed = tiny_llama(vocab_size=160), tiny_llama(vocab_size=160)
    assert pack_linears(packed) == 14
    tokens = batch("llama", 0)["input_ids"]
    with torch.no_grad():
        for model in (plain, packed):
            activate(model, load_adapter(model, tmp_path))
        expected, found = plain(input_ids=tokens).logits, packed(input_ids=tokens).logits
        activate(plain, None)
        assert not torch.allclose(expected, plain(input_ids=tokens).logits, atol=1e-2)
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


def test_weights_that_lay_in_a_file_are_taken_out_of_it(tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    pack_linears(model)
    assert all(parameter.untyped_storage().resizable() for parameter in model.parameters())
