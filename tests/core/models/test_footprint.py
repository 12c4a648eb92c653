from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from core.config import QuantConfig
from core.models.footprint import bits_a_weight, footprint, matrix_bytes
from core.models.linears import find_linears
from core.models.load import LoadedModel, load_model
from core.models.quantize import QuantizedLinear, quantize_linears
from tests.core.models.quantized import config, linear, quantized

quantizations = st.builds(
    QuantConfig,
    bits=st.sampled_from([4, 8]),
    quant_type=st.sampled_from(["nf4", "fp4"]),
    double_quant=st.booleans(),
    block_size=st.sampled_from([64, 128, 256, 512]),
)


def stored_bytes(module: nn.Module) -> int:
    """What the buffers of `module` really occupy."""
    return sum(buffer.untyped_storage().nbytes() for buffer in module.buffers())


def live_bytes() -> int:
    """What all tensors of this process occupy, whoever holds them."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if type(thing) in (Tensor, nn.Parameter)]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


@settings(max_examples=60, deadline=None)
@given(quantizations, st.integers(1, 90), st.integers(1, 700))
def test_a_quantized_matrix_takes_the_bytes_that_are_counted_for_it(
    quantization: QuantConfig, out_features: int, in_features: int
) -> None:
    layer = QuantizedLinear(linear(shape=(out_features, in_features), bias=False), quantization)
    assert stored_bytes(layer) == matrix_bytes(quantization, out_features, in_features)


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_tables_of_values_exist_once_and_not_once_a_matrix(quant_type: str) -> None:
    base = linear(shape=(32, 64))
    quantized(4, base, quant_type=quant_type)(torch.ones(1, 64))
    before = live_bytes()
    layers = [quantized(4, base, quant_type=quant_type) for _ in range(3)]
    outputs = [layer(torch.ones(1, 64)) for layer in layers]
    after = live_bytes() - sum(output.nbytes for output in outputs)
    assert after - before == 3 * matrix_bytes(config(4), 32, 64)


@settings(max_examples=200, deadline=None)
@given(quantizations, st.integers(1, 20_000), st.integers(1, 20_000))
def test_the_bytes_are_the_formula_and_at_most_the_ends_of_a_matrix(
    quantization: QuantConfig, out_features: int, in_features: int
) -> None:
    weights = out_features * in_features
    formula = weights * bits_a_weight(quantization, in_features) / 8
    a_block, a_group, the_mean = quantization.block_size / 2 + 4, 4, 4
    found = matrix_bytes(quantization, out_features, in_features)
    assert formula - 1e-6 <= found <= formula + a_block + a_group + the_mean


@pytest.mark.parametrize(
    ("block_size", "double_quant", "bits"),
    [(64, True, 4.127), (64, False, 4.5), (128, True, 4.0635), (256, True, 4.0317), (512, False, 4.0625)],
)
def test_a_large_matrix_takes_the_bits_a_weight_that_papers_state(
    block_size: int, double_quant: bool, bits: float
) -> None:
    """QLoRA, section 3: double quantization saves 0.373 bits a weight at block size 64."""
    quantization = config(4, block_size=block_size, double_quant=double_quant)
    assert abs(bits_a_weight(quantization, 4096) - bits) < 1e-3
    assert abs(8 * matrix_bytes(quantization, 4096, 4096) / 4096**2 - bits) < 1e-3


@pytest.mark.parametrize("bits", [16, 32])
def test_a_matrix_that_is_not_quantized_takes_its_bits(bits: int) -> None:
    assert matrix_bytes(config(bits), 3, 5) == 15 * bits // 8 and bits_a_weight(config(bits), 5) == bits


@pytest.mark.parametrize("storage", [{"bits": 8}, {"bits": 4}, {"bits": 4, "double_quant": False}], ids=str)
def test_a_models_footprint_is_that_of_its_tensors(tiny: LoadedModel, storage: dict[str, Any]) -> None:
    shapes = find_linears(tiny.model)
    before = footprint(tiny.model)
    quantize_linears(tiny.model, [shape.name for shape in shapes], config(**storage))
    after = footprint(tiny.model)
    weights = sum(shape.in_features * shape.out_features for shape in shapes)
    assert before.quantized_weights == before.quantized_bytes == before.bits_a_weight == 0
    assert after.quantized_weights == weights and before.other_bytes - after.other_bytes == 4 * weights
    assert after.quantized_bytes == sum(
        matrix_bytes(config(**storage), shape.out_features, shape.in_features) for shape in shapes
    )
    assert after.bits_a_weight == 8 * after.quantized_bytes / weights


def test_a_tied_head_is_counted_once(tiny: LoadedModel) -> None:
    parameters = sum(parameter.nbytes for parameter in tiny.model.parameters())  # the tied weight is one of them
    buffers = {id(buffer): buffer.nbytes for buffer in tiny.model.buffers()}
    assert footprint(tiny.model).other_bytes == parameters + sum(buffers.values())


def test_tensors_that_share_their_memory_are_counted_once() -> None:
    model = nn.Linear(4, 4)
    model.register_buffer("view", model.weight.detach()[1:])
    assert footprint(model).other_bytes == 4 * (16 + 4)


def test_what_takes_more_than_16_bits_is_named(tiny: LoadedModel) -> None:
    model = tiny.model.to(torch.bfloat16)
    model.model.layers[1].input_layernorm.float()
    quantize_linears(model, ["model.layers.0.mlp.up_proj"], config(4))
    wide = {tensor.name: (tensor.dtype, tensor.nbytes) for tensor in footprint(model).wide}
    assert wide["model.layers.1.input_layernorm.weight"] == ("float32", 4 * 64)
    assert not any("proj" in name or "embed_tokens" in name for name in wide)


def test_the_starters_matrices_take_4_bits_and_nothing_else_of_it_more_than_16(starter_folder: Path) -> None:
    """Rotary frequencies aside: a table of 32 numbers, which are no weights."""
    quantization = config(4)
    model = load_model(starter_folder, dtype=torch.bfloat16, quant=quantization).model
    found = footprint(model)
    assert found.quantized_weights > 100_000_000
    assert found.quantized_bytes <= 0.27 * 2 * found.quantized_weights
    assert abs(found.bits_a_weight - bits_a_weight(quantization, 576)) < 0.01
    assert all("rotary" in tensor.name and tensor.nbytes <= 128 for tensor in found.wide)
