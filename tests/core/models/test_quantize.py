from __future__ import annotations

import copy
from typing import Any, cast

import bitsandbytes as bnb
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from core.models.quantize import QuantizedLinear, frozen_weight
from tests.core.models.quantized import GRIDS, buffers, conv1d, linear, nearest, quantized, rounded_in_blocks

BLOCK_SIZES = (64, 128, 256, 512)
FORMATS: list[dict[str, Any]] = [
    {"bits": 8},
    *({"bits": 4, "quant_type": kind, "double_quant": double} for kind in GRIDS for double in (True, False)),
]
every_storage = pytest.mark.parametrize("storage", FORMATS, ids=lambda values: "-".join(map(str, values.values())))
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])


@pytest.mark.parametrize("quant_type", GRIDS)
@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_4_bits_are_the_nearest_of_16_values_in_each_block(quant_type: str, block_size: int) -> None:
    base, grid = linear(), GRIDS[quant_type]
    layer = quantized(4, base, double_quant=False, block_size=block_size, quant_type=quant_type)
    blocks = base.weight.view(-1, block_size)
    scale = blocks.abs().amax(dim=1, keepdim=True)
    found = layer.dequantize(torch.float32).view(-1, block_size)
    least_error = (nearest(blocks / scale, grid) * scale - blocks).abs()
    assert torch.allclose(nearest(found / scale, grid), found / scale, atol=1e-6)
    assert ((found - blocks).abs() <= least_error + 1e-6 * scale).all()  # between two values either will do


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 700), st.sampled_from(BLOCK_SIZES), st.sampled_from(sorted(GRIDS)), st.integers()
)
def test_a_matrix_of_any_shape_comes_back_as_its_blocks_say(
    out_features: int, in_features: int, block_size: int, quant_type: str, seed: int
) -> None:
    """Rows that begin inside a block, odd sizes and a last block that is not full, where bitsandbytes' kernel errs."""
    base = nn.Linear(in_features, out_features, bias=False).requires_grad_(False)
    base.weight.normal_(std=0.02, generator=torch.Generator().manual_seed(seed % 2**31))
    layer = quantized(4, base, double_quant=False, block_size=block_size, quant_type=quant_type)
    twin = rounded_in_blocks(base.weight, block_size, GRIDS[quant_type])
    found = layer.dequantize(torch.float32)
    assert found.shape == (out_features, in_features)
    # where a weight lies exactly between two values, either will do
    assert ((found - base.weight).abs() <= (twin - base.weight).abs() + 1e-6 * base.weight.abs().max()).all()


@pytest.mark.parametrize("quant_type", GRIDS)
@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_double_quantization_costs_less_than_the_first_one(quant_type: str, block_size: int) -> None:
    base = linear(shape=(576, 576))
    once, twice = (
        quantized(4, base, double_quant=double, block_size=block_size, quant_type=quant_type)
        for double in (False, True)
    )

    def error(layer: QuantizedLinear) -> float:
        return ((layer.dequantize(torch.float32) - base.weight).norm() / base.weight.norm()).item()

    assert error(twice) < 1.05 * error(once)


def test_nf4_suits_normally_distributed_weights_better_than_fp4_does() -> None:
    base = linear()
    errors = [
        (quantized(4, base, quant_type=kind).dequantize(torch.float32) - base.weight).norm() for kind in ("nf4", "fp4")
    ]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("shape", [(64, 100), (1100, 1000), (2, 1_100_000)], ids=str)
def test_8_bits_are_each_rows_nearest_of_255_steps(shape: tuple[int, int]) -> None:
    """However many pieces the matrix is worked on in."""
    base = linear(shape=shape, bias=False)
    found = quantized(8, base).dequantize(torch.float64)
    step = base.weight.double().abs().amax(dim=1, keepdim=True) / 127
    steps = found / step
    assert torch.allclose(steps, steps.round(), rtol=0, atol=1e-4) and steps.abs().max() < 127.001
    assert ((found - base.weight).abs() <= 0.5001 * step).all()


@every_storage
def test_a_row_of_zeros_stays_zero(storage: dict[str, Any]) -> None:
    base = linear()
    base.weight.data[3] = 0
    assert torch.equal(quantized(base=base, **storage).dequantize(torch.float32)[3], torch.zeros(1024))


def test_no_row_is_divided_by_zero() -> None:
    base = linear(shape=(2, 8))
    base.weight.data[0], base.weight.data[1] = 0, 1e-44
    assert (quantized(8, base).scale > 0).all()


@every_storage
def test_weights_too_small_for_a_scale_become_zero_and_not_nan(storage: dict[str, Any]) -> None:
    base = linear()
    base.weight.data.fill_(1e-44)
    assert quantized(base=base, **storage).dequantize(torch.float32).abs().max() <= 1e-38


@every_storage
@every_dtype
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_the_weight_is_rounded_once_to_the_dtype_asked_for(
    storage: dict[str, Any], dtype: torch.dtype, stored: torch.dtype
) -> None:
    """Not first to the dtype that the layer had before it was quantized."""
    layer = quantized(base=linear(stored, shape=(64, 576)), **storage)
    exact = layer.dequantize(torch.float64)
    assert torch.equal(layer.dequantize(dtype), exact.float().to(dtype))
    assert not torch.equal(exact, exact.to(torch.bfloat16).double())


@every_storage
@every_dtype
@pytest.mark.parametrize("bias", [True, False])
def test_it_computes_with_its_dequantized_weight_forward_and_backward(
    storage: dict[str, Any], dtype: torch.dtype, bias: bool
) -> None:
    base = linear(dtype, bias=bias, shape=(128, 192))
    layer = quantized(base=base, **storage)
    weight = layer.dequantize(dtype)
    assert weight.dtype == dtype and weight.shape == (128, 192) and torch.equal(frozen_weight(layer, dtype), weight)
    x = torch.randn(2, 5, 192).to(dtype).requires_grad_()
    ours, theirs = layer(x), nn.functional.linear(x, weight, base.bias)
    direction = torch.randn(2, 5, 128).to(dtype)
    assert ours.dtype == dtype and torch.equal(ours, theirs)
    assert torch.equal(*(torch.autograd.grad(y, x, direction)[0] for y in (ours, theirs)))


@every_storage
def test_its_gradients_are_right_in_float64(storage: dict[str, Any]) -> None:
    layer = quantized(base=linear(shape=(6, 10)).double(), **storage)
    layer.bias.requires_grad_()  # type: ignore[union-attr]
    x = torch.randn(2, 3, 10, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, bias: layer(x), (x, layer.bias))


def test_a_bias_that_is_trained_gets_its_gradient_even_where_the_input_needs_none() -> None:
    base = linear(torch.float32, shape=(8, 16))
    layer = quantized(4, base)
    assert layer.bias is base.bias
    layer.bias.requires_grad_()
    layer(torch.randn(5, 16)).sum().backward()
    assert layer.bias.grad is not None and torch.equal(layer.bias.grad, torch.full((8,), 5.0))


def test_an_input_of_another_dtype_than_the_bias_is_answered_in_its_own() -> None:
    layer = quantized(4, linear(torch.bfloat16, shape=(8, 16)))
    x = torch.randn(3, 16)
    expected = nn.functional.linear(x, layer.dequantize(torch.float32), layer.bias.float())  # type: ignore[union-attr]
    assert layer(x).dtype == torch.float32 and torch.equal(layer(x), expected)


@pytest.mark.parametrize("quant_type", GRIDS)
@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize("block_size", BLOCK_SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_bitsandbytes_own_layer_in_outputs_and_gradients(
    quant_type: str, double_quant: bool, block_size: int, dtype: torch.dtype
) -> None:
    """`in` is a multiple of every block size: else bitsandbytes' own layer errs on some CPUs."""
    base = linear(dtype, shape=(96, 1024))
    theirs = bnb.nn.Linear4bit(
        1024, 96, compute_dtype=dtype, quant_type=quant_type, compress_statistics=double_quant
    ).requires_grad_(False)
    packed, state = bnb.functional.quantize_4bit(
        base.weight, blocksize=block_size, compress_statistics=double_quant, quant_type=quant_type
    )
    theirs.weight = bnb.nn.Params4bit(packed, requires_grad=False, quant_state=state, bnb_quantized=True, module=theirs)
    theirs.bias.data = base.bias.data.clone()
    ours = quantized(4, base, quant_type=quant_type, double_quant=double_quant, block_size=block_size)
    x, direction = torch.randn(7, 1024).to(dtype).requires_grad_(), torch.randn(7, 96).to(dtype)
    outputs = [ours(x), theirs(x)]
    gradients = [torch.autograd.grad(y, x, direction)[0] for y in outputs]
    assert torch.equal(*outputs) and torch.equal(*gradients)


@pytest.mark.parametrize("quant_type", GRIDS)
@pytest.mark.parametrize("shape", [(1100, 1024), (1031, 1033)], ids=str)
def test_a_large_matrix_has_bitsandbytes_codes_and_scales_though_it_is_quantized_in_pieces(
    quant_type: str, shape: tuple[int, int]
) -> None:
    base = linear(torch.bfloat16, shape=shape)
    found = buffers(quantized(4, base, quant_type=quant_type))
    packed, state = bnb.functional.quantize_4bit(
        base.weight, blocksize=64, compress_statistics=True, quant_type=quant_type
    )
    assert torch.equal(found["packed"].flatten()[: packed.numel() - 1], packed.flatten()[:-1])
    assert torch.equal(found["scale"], state.absmax) and torch.equal(found["group_scale"], state.state2.absmax)
    assert torch.equal(found["mean_scale"], state.offset)


@every_storage
@every_dtype
def test_a_conv1d_is_quantized_as_the_linear_layer_that_it_is(storage: dict[str, Any], dtype: torch.dtype) -> None:
    """GPT-2 keeps weights as [in, out]; blocks and rows are those of [out, in] all the same."""
    base = linear(dtype, shape=(48, 100))
    twin = conv1d(base)
    layers = [quantized(base=layer, **storage) for layer in (base, twin)]
    x = torch.randn(2, 3, 100).to(dtype)
    assert (layers[1].in_features, layers[1].out_features) == (100, 48)
    assert all(torch.equal(*pair) for pair in zip(layers[0].buffers(), layers[1].buffers(), strict=True))
    assert torch.equal(layers[0](x), layers[1](x))


@every_dtype
def test_the_weight_of_a_plain_layer_is_a_view_unless_another_dtype_is_asked_for(dtype: torch.dtype) -> None:
    base = linear(dtype, shape=(48, 100))
    for layer in (base, conv1d(base)):
        weight = frozen_weight(layer, dtype)
        assert weight.untyped_storage().data_ptr() == layer.weight.untyped_storage().data_ptr()
        assert torch.equal(weight, base.weight) and not weight.requires_grad
        assert torch.equal(frozen_weight(layer, torch.float64), base.weight.double())


@every_storage
def test_the_layer_that_it_was_made_of_is_unchanged(storage: dict[str, Any]) -> None:
    base = linear()
    before = base.weight.clone()
    quantized(base=base, **storage)(torch.randn(3, 1024))
    assert torch.equal(base.weight, before)


@every_storage
def test_nothing_of_the_weight_but_the_packed_one_is_kept(storage: dict[str, Any]) -> None:
    layer = quantized(base=linear(), **storage)
    assert [name for name, _ in layer.named_parameters()] == ["bias"]
    assert list(layer.state_dict()) == ["bias"]
    assert sum(buffer.nbytes for buffer in layer.buffers()) < 1.01 * 512 * 1024


@every_storage
def test_moving_it_takes_all_of_it_along(storage: dict[str, Any]) -> None:
    """To the `meta` device here, since a machine without a GPU has no other."""
    layer = cast(QuantizedLinear, nn.Sequential(quantized(base=linear(), **storage)).to("meta")[0])
    assert {tensor.device.type for tensor in [layer.bias, *layer.buffers()]} == {"meta"}  # type: ignore[union-attr]


@every_storage
def test_another_dtype_is_for_its_bias_alone(storage: dict[str, Any]) -> None:
    layer = quantized(base=linear(), **storage)
    before = {name: buffer.clone() for name, buffer in buffers(layer).items()}
    layer.to(torch.bfloat16)
    assert layer.bias is not None and layer.bias.dtype == torch.bfloat16
    assert list(buffers(layer)) == list(before)
    assert all(
        after.dtype == before[name].dtype and torch.equal(after, before[name]) for name, after in buffers(layer).items()
    )


@every_storage
def test_a_copy_answers_as_the_original_and_shares_nothing_with_it(storage: dict[str, Any]) -> None:
    layer = quantized(base=linear(shape=(8, 64)), **storage)
    x = torch.randn(3, 64)
    expected: Tensor = layer(x)
    other = copy.deepcopy(layer)
    for buffer in layer.buffers():
        buffer.zero_()
    assert torch.equal(other(x), expected)
