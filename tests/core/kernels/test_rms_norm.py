from __future__ import annotations

import pytest
import torch
from torch import Tensor

from core.kernels.rms_norm import rms_norm

EPS = 1e-5


def slowly(x: Tensor, weight: Tensor, is_centered: bool) -> Tensor:
    """As transformers writes it for Llama and, centered, for Gemma."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    n = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPS)
    return (n * (1 + weight.to(n.dtype))).to(x.dtype) if is_centered else weight * n.to(x.dtype)


def inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 16, generator=generator).to(dtype) * 3
    return x.requires_grad_(), torch.randn(16, generator=generator).to(dtype).requires_grad_()


@pytest.mark.parametrize("is_centered", [False, True])
@pytest.mark.parametrize(("dtype", "off"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_output_and_gradients_are_those_of_plain_operations(dtype: torch.dtype, off: float, is_centered: bool) -> None:
    x, weight = inputs(dtype)
    ours, theirs = rms_norm(x, weight, EPS, is_centered=is_centered), slowly(x, weight, is_centered)
    assert ours.dtype == theirs.dtype and (ours - theirs).norm() <= off * theirs.norm()
    direction = torch.randn_like(theirs)
    for got, wanted in zip(
        torch.autograd.grad(ours, (x, weight), direction),
        torch.autograd.grad(theirs, (x, weight), direction),
        strict=True,
    ):
        assert got.dtype == dtype and (got - wanted).norm() <= off * wanted.norm()


@pytest.mark.parametrize("is_centered", [False, True])
def test_gradients_are_those_of_finite_differences(is_centered: bool) -> None:
    assert torch.autograd.gradcheck(
        lambda x, weight: rms_norm(x, weight, EPS, is_centered=is_centered), inputs(torch.float64)
    )


def test_a_frozen_weight_gets_no_gradient_and_a_fixed_input_none() -> None:
    x, weight = inputs(torch.float32)
    rms_norm(x, weight.detach(), EPS).sum().backward()
    assert x.grad is not None and weight.grad is None
    x.grad = None
    rms_norm(x.detach(), weight, EPS).sum().backward()
    assert x.grad is None and weight.grad is not None


def test_rows_of_zeros_stay_zero() -> None:
    x = torch.zeros(3, 8, requires_grad=True)
    y = rms_norm(x, torch.ones(8), EPS)
    y.sum().backward()
    assert not y.any() and x.grad is not None and torch.isfinite(x.grad).all()
