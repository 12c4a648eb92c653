from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from core.kernels.cross_entropy import (
    CHUNK_ROWS,
    frozen_head_cross_entropy,
    frozen_head_score,
    plain_cross_entropy,
)


def problem(rows: int, dtype: torch.dtype, *, width: int = 24, vocabulary: int = 50) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    hidden = torch.randn(rows, width).to(dtype).requires_grad_()
    return hidden, torch.randn(vocabulary, width).to(dtype), torch.randint(vocabulary, (rows,))


def test_gradients_are_those_of_finite_differences() -> None:
    hidden, weight, labels = problem(5, torch.float64, width=4, vocabulary=7)
    assert torch.autograd.gradcheck(lambda hidden: frozen_head_cross_entropy(hidden, weight, labels) / 3, (hidden,))


@pytest.mark.parametrize("rows", [1, CHUNK_ROWS - 1, CHUNK_ROWS, CHUNK_ROWS + 1, 3 * CHUNK_ROWS + 5])
# bf16 rounds each logit (8 bits) before the softmax and the error after it; fp32 sums in another order only.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3 * 2**-8)])
def test_any_number_of_chunks_equals_all_logits_at_once(rows: int, dtype: torch.dtype, tolerance: float) -> None:
    hidden, weight, labels = problem(rows, dtype)
    ours = frozen_head_cross_entropy(hidden, weight, labels)
    (gradient,) = torch.autograd.grad(ours / rows, hidden)
    exact = hidden.detach().double().requires_grad_()
    theirs = cross_entropy(exact @ weight.double().t(), labels, reduction="sum")
    (wanted,) = torch.autograd.grad(theirs / rows, exact)
    assert ours.dtype == torch.float32 and gradient.dtype == dtype
    assert ours.item() == pytest.approx(theirs.item(), rel=tolerance)
    assert (gradient.double() - wanted).norm() <= tolerance * wanted.norm()


def test_the_plain_twin_agrees() -> None:
    hidden, weight, labels = problem(40, torch.bfloat16)
    with torch.no_grad():
        ours = frozen_head_cross_entropy(hidden, weight, labels)
        assert float(ours) == pytest.approx(float(plain_cross_entropy(hidden @ weight.t(), labels)), rel=1e-6)


def test_backward_may_run_again_and_scales_with_the_gradient_that_comes_in() -> None:
    hidden, weight, labels = problem(9, torch.float32)
    loss = frozen_head_cross_entropy(hidden, weight, labels)
    (once,) = torch.autograd.grad(loss, hidden, retain_graph=True)
    (thrice,) = torch.autograd.grad(loss * 3, hidden)
    assert torch.allclose(3 * once, thrice)


def test_a_mean_over_many_tokens_is_not_rounded_to_bf16_first() -> None:
    """1/777 has no short bf16 form: rounding the factor itself would tilt every gradient of the step the same way."""
    hidden, weight, labels = problem(64, torch.bfloat16)
    loss = frozen_head_cross_entropy(hidden, weight, labels)
    (whole,) = torch.autograd.grad(loss, hidden, retain_graph=True)
    (part,) = torch.autograd.grad(loss / 777, hidden)
    assert torch.equal(part, (whole.float() * torch.tensor(1 / 777)).bfloat16())


def test_logits_far_from_zero_neither_overflow_nor_lose_the_loss() -> None:
    hidden, weight, labels = problem(6, torch.float32)
    hidden.data.mul_(1e3)
    loss = frozen_head_cross_entropy(hidden, weight, labels)
    (gradient,) = torch.autograd.grad(loss, hidden)
    assert torch.isfinite(loss) and torch.isfinite(gradient).all()


def test_the_frozen_head_gets_no_gradient_and_nothing_is_kept_without_grad() -> None:
    hidden, weight, labels = problem(6, torch.float32)
    with torch.no_grad():
        assert not frozen_head_cross_entropy(hidden, weight, labels).requires_grad
    frozen_head_cross_entropy(hidden, weight, labels).backward()  # type: ignore[no-untyped-call]
    assert weight.grad is None and hidden.grad is not None


def test_no_rows_lose_nothing() -> None:
    hidden, weight, labels = problem(0, torch.float32)
    assert frozen_head_cross_entropy(hidden, weight, labels).item() == 0
    assert [figure.item() for figure in frozen_head_score(hidden, weight, labels)] == [0, 0]


@pytest.mark.parametrize("rows", [1, CHUNK_ROWS, 3 * CHUNK_ROWS + 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_score_is_the_same_loss_to_the_bit_and_counts_what_all_logits_at_once_would_choose(
    rows: int, dtype: torch.dtype
) -> None:
    hidden, weight, labels = problem(rows, dtype)
    likeliest = (hidden.detach() @ weight.t()).float().argmax(dim=1)
    labels[::3] = likeliest[::3]  # some are right
    loss, correct = frozen_head_score(hidden, weight, labels)
    assert torch.equal(loss, frozen_head_cross_entropy(hidden, weight, labels)) and not loss.requires_grad
    assert correct.item() == (likeliest == labels).sum().item() >= len(labels[::3])


def test_of_equal_logits_the_first_is_chosen_so_a_label_among_many_is_not_right_for_free() -> None:
    hidden, weight, labels = problem(40, torch.float32)
    _, correct = frozen_head_score(torch.zeros_like(hidden), weight, labels)
    assert correct.item() == (labels == 0).sum().item()
