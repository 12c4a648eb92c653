from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.adapters.inject import activate
from core.config import QuantConfig
from core.data.batching import pack
from core.models.linears import find_linears
from core.models.load import LoadedModel
from core.models.quantize import QuantizedLinear, frozen_weight, quantize_linears
from core.train.objective import summed_loss
from tests.core.tiny import adapt, packed_logits, random_rows

CPU = torch.device("cpu")
# The 16 values of NF4 (QLoRA, appendix E).
NF4 = torch.tensor([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
])  # fmt: skip


def linear(dtype: torch.dtype = torch.float32, *, bias: bool = True, shape: tuple[int, int] = (512, 1024)) -> nn.Linear:
    torch.manual_seed(0)
    layer = nn.Linear(shape[1], shape[0], bias=bias).requires_grad_(False)
    layer.weight.data.normal_(std=0.02)
    return layer.to(dtype)


def quantized(bits: int, base: nn.Linear, **settings: Any) -> QuantizedLinear:
    return QuantizedLinear(base, QuantConfig(bits=bits, **settings))  # type: ignore[arg-type]


def state_tensors(layer: QuantizedLinear) -> list[Tensor]:
    """Everything that bitsandbytes keeps beside the packed weight."""
    inner = [layer.state.state2] if layer.state.nested else []
    tensors = [getattr(part, name, None) for part in (layer.state, *inner) for name in ("absmax", "offset", "code")]
    return [tensor for tensor in tensors if tensor is not None]


def nearest(values: Tensor, grid: Tensor) -> Tensor:
    return grid[(values[..., None] - grid).abs().argmin(dim=-1)]


@pytest.mark.parametrize(
    ("double_quant", "bits_a_weight"), [(True, 4 + 8 / 64 + 32 / (64 * 256)), (False, 4 + 32 / 64)]
)
def test_nf4_takes_the_bits_that_it_should(double_quant: bool, bits_a_weight: float) -> None:
    layer = quantized(4, linear(), double_quant=double_quant)
    scales = [layer.state.absmax, layer.state.state2.absmax] if double_quant else [layer.state.absmax]
    tables = sum(tensor.nbytes for tensor in state_tensors(layer)) - sum(tensor.nbytes for tensor in scales)
    assert 8 * (layer.packed.nbytes + sum(tensor.nbytes for tensor in scales)) == bits_a_weight * 512 * 1024
    assert tables < 2048  # the 16 values of NF4 and the 256 of the scales', however large the layer


def test_8_bits_take_one_byte_a_weight_and_one_scale_a_row() -> None:
    layer = quantized(8, linear())
    assert layer.packed.nbytes + layer.scale.nbytes == 512 * 1024 + 4 * 512


def test_nothing_of_the_weight_but_the_packed_one_is_kept() -> None:
    for bits in (4, 8):
        layer = quantized(bits, linear())
        assert [name for name, _ in layer.named_parameters()] == ["bias"]
        assert max(buffer.nbytes for buffer in layer.buffers()) <= 512 * 1024


@pytest.mark.parametrize("block_size", [64, 128, 256])
def test_nf4_is_the_nearest_of_16_values_in_each_block(block_size: int) -> None:
    base = linear()
    layer = quantized(4, base, double_quant=False, block_size=block_size)
    blocks = base.weight.view(-1, block_size)
    scale = blocks.abs().amax(dim=1, keepdim=True)
    found = layer.dequantize(torch.float32).view(-1, block_size)
    least_error = (nearest(blocks / scale, NF4) * scale - blocks).abs()
    assert torch.allclose(nearest(found / scale, NF4), found / scale, atol=1e-6)
    assert ((found - blocks).abs() <= least_error + 1e-6 * scale).all()  # between two values either will do


def test_double_quantization_costs_less_than_the_first_one() -> None:
    base = linear()
    once, twice = (quantized(4, base, double_quant=double) for double in (False, True))

    def error(layer: QuantizedLinear) -> float:
        return ((layer.dequantize(torch.float32) - base.weight).norm() / base.weight.norm()).item()

    assert error(once) < 0.11  # of normally distributed weights; uniform 4-bit rounding would leave more
    assert error(twice) < 1.05 * error(once)


def test_8_bits_are_off_by_half_a_step_at_most() -> None:
    base = linear()
    layer = quantized(8, base)
    step = base.weight.abs().amax(dim=1, keepdim=True) / 127
    assert ((layer.dequantize(torch.float32) - base.weight).abs() <= step * 0.5001).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_a_row_of_zeros_stays_zero(bits: int) -> None:
    base = linear()
    base.weight.data[3] = 0
    assert torch.equal(quantized(bits, base).dequantize(torch.float32)[3], torch.zeros(1024))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [True, False])
def test_it_computes_with_its_dequantized_weight_forward_and_backward(
    bits: int, dtype: torch.dtype, bias: bool
) -> None:
    base = linear(dtype, bias=bias, shape=(128, 192))
    layer = quantized(bits, base)
    weight = layer.dequantize(dtype)
    assert weight.dtype == dtype and weight.shape == (128, 192) and torch.equal(frozen_weight(layer, dtype), weight)
    x = torch.randn(2, 5, 192).to(dtype).requires_grad_()
    ours, theirs = layer(x), nn.functional.linear(x, weight, base.bias)
    direction = torch.randn(2, 5, 128).to(dtype)
    assert torch.equal(ours, theirs)
    assert torch.equal(*(torch.autograd.grad(y, x, direction)[0] for y in (ours, theirs)))


@pytest.mark.parametrize("bits", [4, 8])
def test_the_layer_that_it_was_made_of_is_unchanged(bits: int) -> None:
    base = linear()
    before = base.weight.clone()
    quantized(bits, base)(torch.randn(3, 1024))
    assert torch.equal(base.weight, before)


@pytest.mark.parametrize("double_quant", [True, False])
def test_moving_it_takes_all_of_it_along(double_quant: bool) -> None:
    """To the `meta` device here, since a machine without a GPU has no other."""
    layer = nn.Sequential(quantized(4, linear(), double_quant=double_quant)).to("meta")[0]
    assert isinstance(layer, QuantizedLinear)
    tensors = [layer.packed, layer.bias, *state_tensors(layer)]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


@pytest.mark.parametrize("bits", [4, 8])
def test_it_can_be_trained_through_before_and_after_an_evaluation(tiny: LoadedModel, bits: int) -> None:
    """bitsandbytes' own 4-bit layer repacks itself when first evaluated on a CPU, and gives no gradient after that."""
    names = [shape.name for shape in find_linears(tiny.model)]
    quantize_linears(tiny.model, names, QuantConfig(bits=bits))  # type: ignore[arg-type]
    adapt(tiny.model, targets=("q_proj", "down_proj"))
    activate(tiny.model, "a")
    batch, tokens = pack(random_rows([20, 7]), CPU), random_rows([9])[0].tokens

    def gradients() -> list[Tensor]:
        tiny.model.zero_grad()
        tiny.model.train()
        summed_loss(tiny.model, batch).backward()  # type: ignore[no-untyped-call]
        return [p.grad.clone() for p in tiny.model.parameters() if p.grad is not None]

    before = gradients()
    tiny.model.eval()
    logits = packed_logits(tiny.model, tokens)
    after = gradients()
    tiny.model.eval()
    assert len(before) == len(after) == 8 and all(gradient.abs().sum() > 0 for gradient in before)
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    assert torch.equal(packed_logits(tiny.model, tokens), logits)


@pytest.mark.parametrize("bits", [4, 8])
def test_every_linear_layer_is_quantized_but_the_head(tiny: LoadedModel, bits: int) -> None:
    shapes = find_linears(tiny.model)
    quantize_linears(tiny.model, [shape.name for shape in shapes], QuantConfig(bits=bits))  # type: ignore[arg-type]
    assert find_linears(tiny.model) == shapes
    assert all(isinstance(tiny.model.get_submodule(shape.name), QuantizedLinear) for shape in shapes)
    assert type(tiny.model.lm_head) is nn.Linear and tiny.model.lm_head.weight is tiny.model.model.embed_tokens.weight
