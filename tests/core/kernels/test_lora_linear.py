from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from core.config import QuantConfig
from core.kernels.lora_linear import lora_linear
from core.models.quantize import QuantizedLinear

SCALE = 1.7


def frozen(in_features: int, out_features: int, dtype: torch.dtype, *, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(in_features, out_features, bias=bias).to(dtype).requires_grad_(False)


def matrices(rank: int, base: nn.Linear | QuantizedLinear, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    a = torch.randn(rank, base.in_features, dtype=dtype) / base.in_features**0.5
    b = torch.randn(base.out_features, rank, dtype=dtype) / rank**0.5
    return a.requires_grad_(), b.requires_grad_()


def obvious(x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """The formula, left to autograd."""
    y = x @ weight.t() + SCALE * ((x @ a.to(x.dtype).t()) @ b.to(x.dtype).t())
    return y if bias is None else y + bias


def results(y: Tensor, *inputs: Tensor) -> list[Tensor]:
    """The output and the gradients of a fixed function of it."""
    direction = torch.linspace(-1, 1, y.numel()).view_as(y).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, inputs, direction)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("x_shape", [(5, 7), (2, 3, 7), (7,)])
def test_gradients_are_those_of_finite_differences(x_shape: tuple[int, ...], bias: bool) -> None:
    base = frozen(7, 6, torch.float64, bias=bias)
    a, b = matrices(3, base, torch.float64)
    x = torch.randn(x_shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, a, b: lora_linear(x, base, a, b, SCALE), (x, a, b))


# bf16 keeps 8 bits of each rounded value; the two sides round in different places a few times: four roundings.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 4 * 2**-8)])
def test_it_equals_the_formula_left_to_autograd(dtype: torch.dtype, tolerance: float) -> None:
    base = frozen(96, 80, dtype)
    a, b = matrices(8, base)
    x = torch.randn(2, 33, 96).to(dtype).requires_grad_()
    ours = results(lora_linear(x, base, a, b, SCALE), x, a, b)
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, a, b)]
    theirs = results(obvious(exact[0], base.weight.double(), base.bias.double(), *exact[1:]), *exact)
    for got, wanted in zip(ours, theirs, strict=True):
        assert (got.double() - wanted).norm() <= tolerance * wanted.norm()


def test_gradients_of_the_masters_are_fp32_and_that_of_the_input_has_its_dtype() -> None:
    base = frozen(16, 16, torch.bfloat16)
    a, b = matrices(4, base)
    x = torch.randn(5, 16, dtype=torch.bfloat16, requires_grad=True)
    y = lora_linear(x, base, a, b, SCALE)
    assert [tensor.dtype for tensor in results(y, x, a, b)] == [
        torch.bfloat16,
        torch.bfloat16,
        torch.float32,
        torch.float32,
    ]


def test_an_input_without_gradient_ends_the_backward_pass_there() -> None:
    base = frozen(16, 12, torch.float32)
    a, b = matrices(4, base)
    x = torch.randn(5, 16)
    y = lora_linear(x, base, a, b, SCALE)
    y.sum().backward()  # type: ignore[no-untyped-call]
    assert a.grad is not None and b.grad is not None and x.grad is None


def test_a_gradient_that_is_not_contiguous_gives_the_same() -> None:
    base = frozen(16, 12, torch.float32)
    a, b = matrices(4, base)
    x = torch.randn(3, 5, 16, requires_grad=True)
    y = lora_linear(x, base, a, b, SCALE)
    direction = torch.randn(5, 12, 3).permute(2, 0, 1)
    got = torch.autograd.grad(y, (x, a, b), direction, retain_graph=True)
    wanted = torch.autograd.grad(y, (x, a, b), direction.contiguous())
    assert all(torch.equal(*pair) for pair in zip(got, wanted, strict=True))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_over_a_quantized_base_it_is_the_same_over_its_dequantized_weight(bits: int, dtype: torch.dtype) -> None:
    quantized = QuantizedLinear(frozen(128, 64, dtype), QuantConfig(bits=bits))  # type: ignore[arg-type]
    plain = frozen(128, 64, dtype)
    plain.weight.data = quantized.dequantize(dtype)
    a, b = matrices(4, plain)
    x = torch.randn(9, 128).to(dtype).requires_grad_()
    ours = results(lora_linear(x, quantized, a, b, SCALE), x, a, b)
    theirs = results(lora_linear(x, plain, a, b, SCALE), x, a, b)
    assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("bits", [4, 8])
def test_no_dequantized_copy_is_kept_for_the_backward_pass(bits: int) -> None:
    layer = QuantizedLinear(frozen(128, 256, torch.float32), QuantConfig(bits=bits))  # type: ignore[arg-type]
    a, b = matrices(4, layer)
    x = torch.randn(3, 128, requires_grad=True)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.numel()) or tensor, lambda saved: saved
    ):
        y = lora_linear(layer(x)[:, :128], layer, a, b, SCALE)
    y.sum().backward()  # type: ignore[no-untyped-call]
    assert kept and max(kept) < 128 * 256
