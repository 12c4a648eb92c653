from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft import get_peft_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from core.config import QuantConfig
from core.kernels.dora import dora_gain, dora_linear, dora_norm, squared_row_norms
from core.kernels.lora_linear import lora_linear
from core.models.quantize import QuantizedLinear, frozen_weight

SCALE = 1.7
RANK = 4


def frozen(in_features: int, out_features: int, dtype: torch.dtype, *, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(in_features, out_features, bias=bias).to(dtype).requires_grad_(False)


def matrices(in_features: int, out_features: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """A, B and a gain that is far from 1, below and above."""
    torch.manual_seed(1)
    a = torch.randn(RANK, in_features, dtype=dtype) / in_features**0.5
    b = torch.randn(out_features, RANK, dtype=dtype) / RANK**0.5
    gain = torch.linspace(-0.5, 2, out_features, dtype=dtype)
    return a.requires_grad_(), b.requires_grad_(), gain.requires_grad_()


def obvious(x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, gain: Tensor) -> Tensor:
    """The formula, left to autograd."""
    y = gain * (x @ (weight + SCALE * b @ a).t())
    return y if bias is None else y + bias


def slow_norm(weight: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The rows' lengths by way of the whole product, in fp64."""
    return (weight.double() + SCALE * b.double() @ a.double()).norm(dim=1)


def results(y: Tensor, *inputs: Tensor) -> list[Tensor]:
    """The output and the gradients of a fixed function of it."""
    direction = torch.linspace(-1, 1, y.numel()).view_as(y).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, inputs, direction)]


def kept_sizes(run: Any) -> list[tuple[int, ...]]:
    """The shapes of the tensors that autograd keeps while `run` runs."""
    kept: list[tuple[int, ...]] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(tuple(t.shape)) or t, lambda t: t):
        run()
    return kept


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("x_shape", [(5, 7), (2, 3, 7), (7,)])
def test_gradients_are_those_of_finite_differences(x_shape: tuple[int, ...], bias: bool) -> None:
    base = frozen(7, 6, torch.float64, bias=bias)
    a, b, gain = matrices(7, 6, torch.float64)
    assert (gain == 0).any()  # where Z could not be got back from Y
    x = torch.randn(x_shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, a, b, g: dora_linear(x, base, a, b, SCALE, g), (x, a, b, gain))


# bf16 keeps 8 bits of each rounded value; the two sides round in different places a few times: four roundings.
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 4 * 2**-8)])
def test_it_equals_the_formula_left_to_autograd(dtype: torch.dtype, tolerance: float, bias: bool) -> None:
    base = frozen(96, 80, dtype, bias=bias)
    inputs = [torch.randn(2, 33, 96).to(dtype).requires_grad_(), *matrices(96, 80)]
    ours = results(dora_linear(inputs[0], base, inputs[1], inputs[2], SCALE, inputs[3]), *inputs)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    b0 = base.bias.double() if bias else None
    theirs = results(obvious(exact[0], base.weight.double(), b0, *exact[1:]), *exact)
    for got, wanted in zip(ours, theirs, strict=True):
        assert (got.double() - wanted).norm() <= tolerance * wanted.norm()


def test_gradients_of_the_masters_are_fp32_and_that_of_the_input_has_its_dtype() -> None:
    base = frozen(16, 12, torch.bfloat16)
    a, b, gain = matrices(16, 12)
    x = torch.randn(5, 16, dtype=torch.bfloat16, requires_grad=True)
    found = results(dora_linear(x, base, a, b, SCALE, gain), x, a, b, gain)
    assert [tensor.dtype for tensor in found] == [torch.bfloat16] * 2 + [torch.float32] * 3
    assert not torch.equal(found[-1], found[-1].bfloat16().float())  # summed in fp32, not widened afterwards


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_a_gain_of_one_is_plain_lora_bit_for_bit(dtype: torch.dtype, bias: bool) -> None:
    base = frozen(48, 40, dtype, bias=bias)
    a, b, _ = matrices(48, 40)
    x = torch.randn(9, 48).to(dtype)
    assert torch.equal(dora_linear(x, base, a, b, SCALE, torch.ones(40)), lora_linear(x, base, a, b, SCALE))


def test_in_16_bits_a_gain_is_not_rounded_to_one_that_all_of_a_row_shares() -> None:
    base = frozen(64, 8, torch.bfloat16, bias=False)
    a, b, _ = matrices(64, 8)
    x = torch.randn(4096, 64).bfloat16()
    gain = torch.full((8,), 1.02)
    plain = lora_linear(x, base, a, b, SCALE).double()
    found = (dora_linear(x, base, a, b, SCALE, gain).double() * plain).sum(0) / plain.square().sum(0)
    rounded_by = (gain.bfloat16() - gain).abs()
    assert ((found - gain).abs() < rounded_by / 5).all()


def test_an_input_without_gradient_ends_the_backward_pass_there(monkeypatch: pytest.MonkeyPatch) -> None:
    base = QuantizedLinear(frozen(64, 12, torch.float32), QuantConfig(bits=4))
    a, b, gain = matrices(64, 12)
    x = torch.randn(5, 64)
    y = dora_linear(x, base, a, b, SCALE, gain)
    monkeypatch.setattr(QuantizedLinear, "dequantize", lambda *_: pytest.fail("the weight was asked for"))
    y.sum().backward()  # type: ignore[no-untyped-call]
    assert a.grad is not None and b.grad is not None and gain.grad is not None and x.grad is None


def test_a_gradient_that_is_not_contiguous_gives_the_same() -> None:
    base = frozen(16, 12, torch.float32)
    a, b, gain = matrices(16, 12)
    x = torch.randn(3, 5, 16, requires_grad=True)
    y = dora_linear(x, base, a, b, SCALE, gain)
    direction = torch.randn(5, 12, 3).permute(2, 0, 1)
    got = torch.autograd.grad(y, (x, a, b, gain), direction, retain_graph=True)
    wanted = torch.autograd.grad(y, (x, a, b, gain), direction.contiguous())
    assert all(torch.equal(*pair) for pair in zip(got, wanted, strict=True))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_over_a_quantized_base_it_is_the_same_over_its_dequantized_weight(bits: Any, dtype: torch.dtype) -> None:
    quantized = QuantizedLinear(frozen(128, 64, dtype), QuantConfig(bits=bits))
    plain = frozen(128, 64, dtype)
    plain.weight.data = quantized.dequantize(dtype)
    a, b, gain = matrices(128, 64)
    x = torch.randn(9, 128).to(dtype).requires_grad_()
    ours = results(dora_linear(x, quantized, a, b, SCALE, gain), x, a, b, gain)
    theirs = results(dora_linear(x, plain, a, b, SCALE, gain), x, a, b, gain)
    assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))


def test_what_is_kept_is_the_input_the_thin_product_and_the_product_that_the_gain_multiplies() -> None:
    layer = QuantizedLinear(frozen(128, 96, torch.float32), QuantConfig(bits=4))
    a, b, gain = matrices(128, 96)
    x = torch.randn(5, 128, requires_grad=True)
    kept = kept_sizes(lambda: dora_linear(x, layer, a, b, SCALE, gain))
    assert sorted(kept) == sorted([(5, 128), (5, RANK), (5, 96), a.shape, b.shape, gain.shape])


def test_what_no_gradient_needs_is_not_kept() -> None:
    base = frozen(128, 96, torch.float32)
    a, b, gain = matrices(128, 96)
    x = torch.randn(5, 128, requires_grad=True)
    without_a = kept_sizes(lambda: dora_linear(x, base, a.detach(), b, SCALE, gain))
    without_gain = kept_sizes(lambda: dora_linear(x, base, a, b, SCALE, gain.detach()))
    assert (5, 128) not in without_a and (5, 96) in without_a
    assert (5, 96) not in without_gain and (5, 128) in without_gain


@pytest.mark.parametrize("frozen_one", ["a", "b", "gain"])
def test_freezing_one_of_them_leaves_the_others_gradients_as_they_are(frozen_one: str) -> None:
    base = frozen(16, 12, torch.float32)
    named = dict(zip(("a", "b", "gain"), matrices(16, 12), strict=True))
    x = torch.randn(5, 16, requires_grad=True)

    def gradients(names: list[str]) -> list[Tensor]:
        given = {name: value if name in names else value.detach() for name, value in named.items()}
        y = dora_linear(x, base, given["a"], given["b"], SCALE, given["gain"])
        return results(y, x, *(named[name] for name in names))

    others = [name for name in named if name != frozen_one]
    every = dict(zip(("y", "x", *named), gradients(list(named)), strict=True))
    for name, got in zip(("y", "x", *others), gradients(others), strict=True):
        assert torch.equal(got, every[name])


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 1e-6)]
)
@pytest.mark.parametrize("out_features", [24, 2500])  # the second is several blocks of rows
def test_the_norm_is_that_of_the_whole_product(dtype: torch.dtype, tolerance: float, out_features: int) -> None:
    weight = frozen(32, out_features, dtype).weight
    wide = torch.promote_types(dtype, torch.float32)
    a, b, _ = matrices(32, out_features, wide)
    norm = dora_norm(weight, squared_row_norms(weight), a, b, SCALE)
    wanted = slow_norm(weight, a, b)
    assert norm.dtype == wide
    assert ((norm.double() - wanted).abs() <= tolerance * wanted).all()


def test_the_norm_of_a_conv1d_is_that_of_the_linear_layer_it_stands_for() -> None:
    base = Conv1D(24, 32).requires_grad_(False)
    weight = frozen_weight(base, torch.float32)
    a, b, _ = matrices(32, 24)
    norm = dora_norm(weight, squared_row_norms(weight), a, b, SCALE)
    assert torch.allclose(norm.double(), slow_norm(base.weight.t(), a, b), rtol=1e-6)


def test_the_norm_is_a_constant_to_the_gradient() -> None:
    weight = frozen(32, 24, torch.float32).weight
    a, b, _ = matrices(32, 24)
    magnitude = torch.ones(24, requires_grad=True)
    norm = dora_norm(weight, squared_row_norms(weight), a, b, SCALE)
    dora_gain(magnitude, norm).sum().backward()  # type: ignore[no-untyped-call]
    assert a.grad is None and b.grad is None
    assert torch.allclose(magnitude.grad.double(), 1 / slow_norm(weight, a, b), rtol=1e-6)  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_at_the_start_the_gain_is_exactly_one(dtype: torch.dtype) -> None:
    weight = frozen(32, 24, dtype).weight
    a, b, _ = matrices(32, 24)
    squared = squared_row_norms(weight)
    gain = dora_gain(squared.sqrt(), dora_norm(weight, squared, a, torch.zeros_like(b), SCALE))
    assert torch.equal(gain, torch.ones(24))


def test_an_update_that_takes_the_weight_away_leaves_a_norm_that_can_be_divided_by() -> None:
    a, b, _ = matrices(32, 2000)
    weight = (-SCALE * b @ a).detach()
    squared = squared_row_norms(weight)
    norm = dora_norm(weight, squared, a, b, SCALE)
    # in digits that fp32 does not have nothing is known of the norm: half of them are left
    assert (norm >= 2**-12 * squared.sqrt()).all() and (norm <= 2**-8 * squared.sqrt()).all()


def test_a_row_of_zeros_stays_one() -> None:
    base = frozen(32, 24, torch.float32, bias=False)
    base.weight.data[3] = 0
    a, b, _ = matrices(32, 24)
    b = torch.zeros_like(b).requires_grad_()
    squared = squared_row_norms(base.weight)
    magnitude = squared.sqrt().requires_grad_()
    gain = dora_gain(magnitude, dora_norm(base.weight, squared, a, b, SCALE))
    y, *gradients = results(dora_linear(torch.randn(5, 32), base, a, b, SCALE, gain), a, b, magnitude)
    assert (y[:, 3] == 0).all() and all(gradient.isfinite().all() for gradient in gradients)


class OneLayer(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x)
        return result


def layer_of(kind: str) -> nn.Module:
    torch.manual_seed(2)
    if kind == "conv1d":
        layer = Conv1D(24, 40)
        nn.init.normal_(layer.bias)
        return layer
    return nn.Linear(40, 24, bias=kind == "linear")


@pytest.mark.parametrize("kind", ["linear", "without bias", "conv1d"])
def test_output_and_gradients_are_pefts(kind: str) -> None:
    config = PeftConfig(
        target_modules=["layer"], r=RANK, lora_alpha=SCALE * RANK, use_dora=True, fan_in_fan_out=kind == "conv1d"
    )
    adapted = get_peft_model(OneLayer(layer_of(kind)), config).base_model.model.layer  # type: ignore[arg-type]
    a, b, _ = matrices(40, 24)
    magnitude = adapted.lora_magnitude_vector["default"].weight
    with torch.no_grad():
        adapted.lora_A["default"].weight.copy_(a)
        adapted.lora_B["default"].weight.copy_(b)
        magnitude.mul_(torch.linspace(0.8, 1.2, 24))
    x = torch.randn(3, 5, 40, requires_grad=True)
    theirs = results(adapted(x), x, adapted.lora_A["default"].weight, adapted.lora_B["default"].weight, magnitude)

    base = layer_of(kind).requires_grad_(False)
    weight = frozen_weight(base, torch.float32)
    m = magnitude.detach().clone().requires_grad_()
    gain = dora_gain(m, dora_norm(weight, squared_row_norms(weight), a, b, SCALE))
    ours = results(dora_linear(x, base, a, b, SCALE, gain), x, a, b, m)
    for got, wanted in zip(ours, theirs, strict=True):
        assert (got - wanted).norm() <= 1e-5 * wanted.norm()
