"""Sizes of steps in which a row's numbers do not depend on the others, found by trying."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from core.generate.attention import use_grouped_attention
from core.generate.decoder import Decoder
from core.generate.equal_rows import SIZES
from core.models.load import LoadedModel
from tests.core.parity.architectures import build

SLIGHT = 2.0**-16


def sizes(change: Callable[[Tensor], Tensor] | None = None, architecture: str = "llama") -> tuple[int, ...]:
    """Those of a model whose last product is changed."""
    model: Any = build(architecture)
    use_grouped_attention(model)
    if change is not None:
        model.get_output_embeddings().register_forward_hook(lambda _, __, output: change(output))
    loaded = LoadedModel(model=model, tokenizer=None, dtype=torch.float32, device=torch.device("cpu"), parameters=0)
    return Decoder(loaded, 0).sizes


def test_a_model_of_which_every_number_of_rows_is_equal_takes_all_sizes_from_its_smallest_on() -> None:
    found = sizes()
    assert found and found == SIZES[-len(found) :]


@pytest.mark.parametrize("least", SIZES)
def test_sizes_in_which_a_product_differs_are_left_out(least: int) -> None:
    def change(output: Tensor) -> Tensor:
        return output * (1 + SLIGHT) if len(output) < least else output

    assert sizes(change) == tuple(size for size in sizes() if size >= least)


def test_a_model_whose_rows_depend_on_where_they_stand_is_written_row_by_row() -> None:
    def change(output: Tensor) -> Tensor:
        return output * (1 + SLIGHT * torch.arange(len(output))[:, None, None])

    assert sizes(change) == ()


def test_a_model_that_does_not_look_for_joined_rows_is_written_row_by_row() -> None:
    model: Any = build("llama")
    loaded = LoadedModel(model=model, tokenizer=None, dtype=torch.float32, device=torch.device("cpu"), parameters=0)
    assert Decoder(loaded, 0).sizes == ()
