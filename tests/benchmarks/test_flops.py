"""The formula for a step's operations, against PyTorch's own counter; and products noted as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.instruments.flops import Sizes, step_flops
from benchmarks.instruments.products import Product, Products, attention_seconds, best_seconds

SMALL = LlamaConfig(
    hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2,
    vocab_size=70, tie_word_embeddings=True,
)  # fmt: skip


@pytest.fixture
def sizes(tmp_path: Path) -> Sizes:
    (tmp_path / "config.json").write_text(json.dumps(SMALL.to_dict()))
    return Sizes.read(tmp_path)


def test_sizes_count_the_weights_that_the_model_has(sizes: Sizes) -> None:
    model = LlamaForCausalLM(SMALL)
    linears = [module for module in model.model.layers.modules() if isinstance(module, torch.nn.Linear)]
    assert sizes.block_weights == sum(linear.weight.numel() for linear in linears)
    assert sizes.rank_one == sum(linear.in_features + linear.out_features for linear in linears)


def test_a_forward_pass_takes_half_of_the_bases_operations_and_one_more_matrix(sizes: Sizes) -> None:
    model, tokens = LlamaForCausalLM(SMALL).eval(), torch.arange(10)[None]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.model.layers[0].mlp(model.model.embed_tokens(tokens))
    counted = counter.get_total_flops()
    assert counted == 2 * 10 * sum(i * o for i, o in sizes.matrices[4:])
    flops = step_flops(sizes, rank=4, lengths=[10], labels=10)
    assert flops["base"] == 2 * 10 * (sizes.block_weights + sizes.weights_backward)
    assert flops["head"] == 4 * 10 * SMALL.vocab_size * SMALL.hidden_size


def test_attention_grows_with_the_square_of_each_row_and_not_of_their_sum(sizes: Sizes) -> None:
    one, two = (step_flops(sizes, rank=1, lengths=lengths, labels=1) for lengths in ([20], [10, 10]))
    assert one["attention"] == 2 * two["attention"]
    assert one["base"] == two["base"]
    assert one["attention"] == sizes.layers * 6 * sizes.heads * 20 * 20 * sizes.head_width


def test_a_shared_beginning_is_counted_once(sizes: Sizes) -> None:
    shared = step_flops(sizes, rank=1, lengths=[10, 10, 10], labels=6, shared=4)
    apart = step_flops(sizes, rank=1, lengths=[4, 6, 6, 6], labels=6)
    assert shared["base"] == apart["base"] and shared["adapters"] == apart["adapters"]
    assert shared["head"] == apart["head"]
    pairs = 4 * 4 + 3 * (10 * 10 - 4 * 4)
    assert shared["attention"] * 10 * 10 == pairs * step_flops(sizes, rank=1, lengths=[10], labels=6)["attention"]


def test_every_product_of_both_directions_is_noted_once() -> None:
    x, w = torch.randn(5, 3, requires_grad=True), torch.randn(7, 3, requires_grad=True)
    with Products() as products:
        torch.nn.functional.linear(x, w).sum().backward()
    shapes = sorted((product.left.shape, product.right.shape) for product in products.counts.elements())
    assert shapes == [((5, 3), (3, 7)), ((5, 7), (7, 3)), ((7, 5), (5, 3))]
    assert products.flops == 3 * 2 * 5 * 3 * 7


def test_products_inside_our_own_autograd_functions_are_seen() -> None:
    class Doubling(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):  # type: ignore[no-untyped-def]
            ctx.save_for_backward(w)
            return x @ w

        @staticmethod
        def backward(ctx, dy):  # type: ignore[no-untyped-def]
            (w,) = ctx.saved_tensors
            return torch.addmm(dy.new_zeros(dy.shape[0], w.shape[0]), dy, w.t()), None

    x = torch.randn(4, 3, requires_grad=True)
    with Products() as products:
        Doubling.apply(x, torch.randn(3, 2)).sum().backward()
    assert products.counts.total() == 2


def test_attentions_own_products_are_left_out_whatever_way_it_is_done() -> None:
    q = torch.randn(1, 2, 8, 4, requires_grad=True)
    with Products() as products:
        torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True).sum().backward()
        (q[0] @ q[0].transpose(1, 2)).sum().backward()
    assert products.counts.total() == 0


def test_operators_of_other_libraries_are_told() -> None:
    @torch.library.custom_op("benchmarks_test::hidden", mutates_args=())
    def hidden(x: torch.Tensor) -> torch.Tensor:
        return x @ x

    with Products() as products:
        hidden(torch.ones(2, 2))
    assert list(products.unknown) == ["benchmarks_test.hidden.default"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_is_timed_in_every_layout_and_takes_some_time(dtype: torch.dtype) -> None:
    with Products() as products:
        torch.randn(16, 8).to(dtype) @ torch.randn(4, 8).to(dtype).t()
    (product,) = products.counts
    assert isinstance(product, Product) and str(product) == "[16, 8] by [8, 4]"
    assert product.right.strides == (1, 8)  # as it was
    best, as_it_lay = best_seconds(product)
    assert 0 < best <= as_it_lay < 1
    assert 0 < attention_seconds(5, heads=2, width=4, dtype=dtype) < 1
