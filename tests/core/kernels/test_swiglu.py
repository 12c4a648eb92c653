from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

from core.kernels.swiglu import swiglu


def inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    gate, up = ((3 * torch.randn(4, 7, generator=generator)).to(dtype).requires_grad_() for _ in range(2))
    return gate, up


@pytest.mark.parametrize(("dtype", "off"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_product_and_gradients_are_those_of_plain_operations(dtype: torch.dtype, off: float) -> None:
    gate, up = inputs(dtype)
    ours, theirs = swiglu(gate, up), silu(gate) * up
    assert torch.equal(ours, theirs)
    direction = torch.randn_like(theirs)
    for got, wanted in zip(
        torch.autograd.grad(ours, (gate, up), direction),
        torch.autograd.grad(theirs, (gate, up), direction),
        strict=True,
    ):
        assert got.dtype == dtype and (got - wanted).norm() <= off * wanted.norm()


def test_gradients_are_those_of_finite_differences() -> None:
    assert torch.autograd.gradcheck(swiglu, inputs(torch.float64))


def test_both_halves_of_one_tensor_will_do() -> None:
    both = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: swiglu(*x.chunk(2, dim=-1)), (both,))
