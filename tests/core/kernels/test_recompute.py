from __future__ import annotations

import gc
import weakref

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from core.kernels.lora_linear import lora_linear
from core.kernels.recompute import keep, remember
from core.kernels.rms_norm import rms_norm
from core.kernels.swiglu import swiglu

WIDTH, RANK = 12, 3


def double(x: Tensor) -> Tensor:
    return 2 * x


def frozen_layer() -> nn.Linear:
    return nn.Linear(WIDTH, WIDTH, dtype=torch.float64).requires_grad_(False)


def factors(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((RANK, WIDTH), (WIDTH, RANK)))
    return a.requires_grad_(), b.requires_grad_()


def test_what_nobody_marked_is_saved_itself() -> None:
    x = torch.ones(3)
    kept, saved = keep(x)
    assert saved == (x,) and kept.get(saved) is x


def test_what_was_changed_in_place_after_it_was_marked_is_saved_itself() -> None:
    x = torch.ones(3)
    y = remember(double(x), double, x)
    y.mul_(5)
    kept, saved = keep(y)
    assert torch.equal(kept.get(saved), torch.full((3,), 10.0))


def test_what_is_marked_is_computed_once_for_all_who_read_it_and_then_dropped() -> None:
    x, calls = torch.ones(3), []

    def counted(source: Tensor) -> Tensor:
        calls.append(1)
        return double(source)

    y = remember(double(x), counted, x)
    readers = [keep(y) for _ in range(3)]
    values = [kept.get(saved) for kept, saved in readers]
    assert len(calls) == 1 and all(torch.equal(value, y) for value in values)
    gone = weakref.ref(values[0])
    del values
    gc.collect()
    assert gone() is None  # although the readers are still there
    assert torch.equal(readers[0][0].get(readers[0][1]), y) and len(calls) == 2  # a second backward pass


def test_a_view_of_a_marked_tensor_is_not_taken_for_it() -> None:
    x = torch.ones(3)
    y = remember(double(x), double, x)[:2]
    assert keep(y)[1] == (y,)


def block(x: Tensor, weight: Tensor, pairs: list[tuple[Tensor, Tensor]], layers: list[nn.Linear]) -> Tensor:
    """A norm that two layers read, a gated product of both, and a layer behind it."""
    normed = rms_norm(x, weight, 1e-5)
    gate, up = (lora_linear(normed, layers[i], *pairs[i], 0.5) for i in range(2))
    return lora_linear(swiglu(gate, up), layers[2], *pairs[2], 0.5)


def saved_bytes(x: Tensor, *others: object) -> int:
    seen: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        block(x, *others)  # type: ignore[arg-type]
    return sum(seen.values())


def test_a_block_keeps_neither_the_norms_output_nor_the_gated_product() -> None:
    tokens = 4096
    x = torch.randn(tokens, WIDTH, dtype=torch.float64, requires_grad=True)
    parts = torch.ones(WIDTH, dtype=torch.float64), [factors(i) for i in range(3)], [frozen_layer() for _ in range(3)]
    wide = tokens * WIDTH * 8
    thin = 3 * tokens * RANK * 8 + tokens * 8
    assert saved_bytes(x, *parts) <= 3 * wide + thin + 10_000  # its input, gate and up


def test_gradients_through_a_block_are_those_of_finite_differences_checkpointed_or_not() -> None:
    x = torch.randn(4, WIDTH, dtype=torch.float64, requires_grad=True)
    weight, layers = torch.ones(WIDTH, dtype=torch.float64), [frozen_layer() for _ in range(3)]
    pairs = [factors(i) for i in range(3)]
    flat = [tensor for pair in pairs for tensor in pair]

    def plainly(x: Tensor, *tensors: Tensor) -> Tensor:
        return block(x, weight, list(zip(tensors[::2], tensors[1::2], strict=True)), layers)

    def checkpointed(x: Tensor, *tensors: Tensor) -> Tensor:
        result: Tensor = checkpoint(plainly, x, *tensors, use_reentrant=False)
        return result

    assert torch.autograd.gradcheck(plainly, (x, *flat))
    direction = torch.randn(4, WIDTH, dtype=torch.float64)
    for got, wanted in zip(
        torch.autograd.grad(checkpointed(x, *flat), (x, *flat), direction),
        torch.autograd.grad(plainly(x, *flat), (x, *flat), direction),
        strict=True,
    ):
        assert torch.equal(got, wanted)
