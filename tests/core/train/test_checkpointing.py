from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from core.adapters.inject import activate, lora_layers
from core.data.tokens.encoding import Row
from core.errors import ConfigError
from core.models.load import LoadedModel
from core.train.checkpointing import checkpoint_blocks
from core.train.objective import PackedRows
from tests.core.tiny import adapt, random_rows
from tests.core.train.architectures import causal, rows_of
from tests.core.train.running import Make, same_bits

ROWS = random_rows((40, 9, 25))


def step(loaded: LoadedModel, rows: list[Row] = ROWS) -> tuple[float, dict[str, Tensor], int]:
    """Loss, gradients, and the bytes that were kept for the backward pass."""
    kept: dict[int, int] = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in loaded.model.parameters()}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(0)
    loaded.model.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = PackedRows(loaded).outcome(rows).loss
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name: p.grad.clone() for name, p in loaded.model.named_parameters() if p.grad is not None}
    return loss.item(), gradients, sum(size for at, size in kept.items() if at not in weights)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_blocks_computed_twice_give_the_same_bits_and_keep_much_less(tiny: LoadedModel, dropout: float) -> None:
    adapt(tiny.model)
    activate(tiny.model, "a")
    for layer in lora_layers(tiny.model).values():
        layer.training = True
        for update in layer.adapters.values():
            update.dropout = dropout
    loss, gradients, kept = step(tiny)
    assert checkpoint_blocks(tiny.model) == 2
    again, found, kept_now = step(tiny)
    assert again == loss and gradients.keys() == found.keys()
    assert all(torch.equal(gradient, found[name]) for name, gradient in gradients.items())
    assert kept_now < kept / 3


def test_a_run_with_checkpointing_leaves_the_same_adapter(make: Make) -> None:
    plain, twice = make("plain"), make("twice", optim={"checkpointing": True})
    plain.carry_out()
    twice.carry_out()
    assert same_bits(plain, twice)


def test_a_blocks_own_dropout_stays_off() -> None:
    """transformers' own switch wants blocks in training mode, in which OPT's dropout would wake up."""
    loaded = causal("opt")
    loaded.model.requires_grad_(True)
    rows = rows_of((40, 9, 25))
    loss, gradients, _ = step(loaded, rows)
    assert checkpoint_blocks(loaded.model) > 0
    again, found, _ = step(loaded, rows)
    assert again == loss and all(torch.equal(gradient, found[name]) for name, gradient in gradients.items())


def test_a_model_without_known_blocks_is_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model.config = type("Config", (), {"model_type": "odd"})()  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="kind odd cannot be computed in blocks") as caught:
        checkpoint_blocks(model)
    assert caught.value.field == "optim.checkpointing"
