from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from core.adapters.inject import activate, inject, lora_layers
from core.adapters.linear import LoraLinear
from core.config import LoraConfig, QuantConfig
from core.data.tokens.batching import micro_batches, pack
from core.data.tokens.encoding import IGNORE, Row
from core.kernels.cross_entropy import CHUNK_ROWS
from core.models.linears import find_linears
from core.models.load import LoadedModel, head_weight
from core.models.quantize import quantize_linears
from core.train import objective
from core.train.objective import summed_loss
from tests.core.tiny import VOCABULARY, adapt, padded_loss, random_rows

CPU = torch.device("cpu")
LENGTHS = (120, 60, 7, 110, 1)


def gradients(model: nn.Module, loss: Callable[[], Tensor]) -> tuple[float, dict[str, Tensor]]:
    """The loss and the gradient of every adapter parameter."""
    model.zero_grad()
    value = loss()
    value.backward()  # type: ignore[no-untyped-call]
    return value.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = 2e-5) -> None:
    assert ours.keys() == theirs.keys() and ours
    for name, gradient in theirs.items():
        assert (ours[name] - gradient).norm() <= tolerance * gradient.norm(), name


def test_a_packed_and_chunked_step_equals_the_padded_one_with_all_logits(tiny: LoadedModel, plain: LoadedModel) -> None:
    rows = random_rows(LENGTHS, labeled=0.9)
    labeled = sum(row.trained for row in rows)
    assert labeled > CHUNK_ROWS
    for loaded in (tiny, plain):
        adapt(loaded.model)
        activate(loaded.model, "a")
    ours, our_gradients = gradients(tiny.model, lambda: summed_loss(tiny.model, pack(rows, CPU)) / labeled)
    theirs, their_gradients = gradients(plain.model, lambda: padded_loss(plain.model, rows))
    assert ours == pytest.approx(theirs, rel=1e-6)
    assert_close(our_gradients, their_gradients)


@pytest.mark.parametrize("use_dora", [False, True])
def test_a_step_whose_rows_share_their_beginning_equals_the_padded_one(
    tiny: LoadedModel, plain: LoadedModel, use_dora: bool
) -> None:
    beginning, *rows = random_rows((40, 30, 7, 150, 1))
    rows = [Row(beginning.tokens + row.tokens, [IGNORE] * 40 + row.labels) for row in rows]
    for loaded in (tiny, plain):
        adapt(loaded.model, use_dora=use_dora)
        activate(loaded.model, "a")
    batch, labels = pack(rows, CPU), sum(row.trained for row in rows)
    assert batch.shared == 40 and batch.tokens.shape[1] == 40 + 30 + 7 + 150 + 1
    ours, our_gradients = gradients(tiny.model, lambda: summed_loss(tiny.model, batch) / labels)
    theirs, their_gradients = gradients(plain.model, lambda: padded_loss(plain.model, rows))
    assert ours == pytest.approx(theirs, rel=1e-6)
    assert_close(our_gradients, their_gradients)


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_rows_do_not_share_where_each_draws_its_own_dropout(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch, bits: Literal[4, 8, 16]
) -> None:
    if bits < 16:
        layers = [shape.name for shape in find_linears(tiny.model)]
        quantize_linears(tiny.model, layers, QuantConfig(bits=bits))
    seen: list[int] = []
    pack_rows = objective.pack
    monkeypatch.setattr(objective, "pack", lambda *a, **k: seen.append((b := pack_rows(*a, **k)).shared) or b)
    beginning, *rows = random_rows((40, 30, 7))
    rows = [Row(beginning.tokens + row.tokens, [IGNORE] * 40 + row.labels) for row in rows]
    adapt(tiny.model)
    activate(tiny.model, "a")
    objective.PackedRows(tiny).outcome(rows)
    for layer in lora_layers(tiny.model).values():
        layer.training = True  # as the loop does where there is dropout
    objective.PackedRows(tiny).outcome(rows)
    assert seen == [40, 0]


@pytest.mark.parametrize("micro_tokens", [64, 200])
def test_splitting_a_step_into_micro_batches_changes_it_by_rounding_only(tiny: LoadedModel, micro_tokens: int) -> None:
    rows = random_rows(LENGTHS)
    adapt(tiny.model)
    activate(tiny.model, "a")
    groups = list(micro_batches(rows, micro_tokens))
    assert len(groups) > 1

    def loss_of_groups() -> Tensor:
        return torch.stack([summed_loss(tiny.model, pack(group, CPU)) for group in groups]).sum()

    whole, whole_gradients = gradients(tiny.model, lambda: summed_loss(tiny.model, pack(rows, CPU)))
    split, split_gradients = gradients(tiny.model, loss_of_groups)
    assert split == pytest.approx(whole, rel=1e-6)
    assert_close(split_gradients, whole_gradients)


def test_masked_positions_give_no_gradient(tiny: LoadedModel) -> None:
    """The gradient that reaches the last hidden states is zero exactly where there is no label."""
    adapt(tiny.model)
    activate(tiny.model, "a")
    batch = pack(random_rows([15, 8]), CPU)
    reached: list[Tensor] = []
    tiny.model.model.norm.register_forward_hook(
        lambda _module, _inputs, output: output.register_hook(reached.append) and None
    )
    summed_loss(tiny.model, batch).backward()  # type: ignore[no-untyped-call]
    assert torch.equal(reached[0][0].abs().sum(dim=-1) > 0, batch.labeled[0])


def test_what_follows_the_last_label_of_a_row_cannot_matter(tiny: LoadedModel) -> None:
    row = random_rows([20])[0]
    labels = row.labels[:12] + [IGNORE] * 8
    other = row.tokens[:12] + [token + 1 for token in row.tokens[12:]]
    with torch.no_grad():
        losses = [summed_loss(tiny.model, pack([Row(tokens, labels)], CPU)) for tokens in (row.tokens, other)]
    assert torch.equal(*losses)


def test_a_head_that_is_not_plain_gets_the_same_loss_the_long_way(tiny: LoadedModel) -> None:
    rows = random_rows([30, 12])
    inject(tiny.model, LoraConfig(rank=2, targets=("q_proj",)), key="a", seed=0)
    with torch.no_grad():
        short = summed_loss(tiny.model, pack(rows, CPU))
        tiny.model.lm_head = LoraLinear(tiny.model.lm_head)
        assert head_weight(tiny.model) is None
        assert summed_loss(tiny.model, pack(rows, CPU)).item() == pytest.approx(short.item(), rel=1e-6)


def test_only_layers_from_the_lowest_adapted_one_upward_get_a_backward_pass(tiny: LoadedModel) -> None:
    inject(tiny.model, LoraConfig(rank=2, targets=("layers.1.mlp.up_proj",)), key="a", seed=0)
    activate(tiny.model, "a")
    needed: dict[int, bool] = {}
    for index, layer in enumerate(tiny.model.model.layers):
        layer.register_forward_hook(lambda _m, _i, output, at=index: needed.update({at: output.requires_grad}))
    summed_loss(tiny.model, pack(random_rows([9]), CPU)).backward()  # type: ignore[no-untyped-call]
    assert needed == {0: False, 1: True}
    assert all(p.grad is None for name, p in tiny.model.named_parameters() if ".adapters." not in name)
    assert len(lora_layers(tiny.model)) == 1


def test_logits_are_never_formed_for_all_tokens(tiny: LoadedModel) -> None:
    """One labeled token among many must not cost a `[tokens, vocabulary]` tensor."""
    adapt(tiny.model)
    activate(tiny.model, "a")
    row = random_rows([400])[0]
    only_last = Row(row.tokens, [IGNORE] * 399 + row.labels[-1:])
    sizes: list[int] = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda saved: saved)
    with hooks:
        summed_loss(tiny.model, pack([only_last], CPU)).backward()  # type: ignore[no-untyped-call]
    assert max(sizes) < 400 * VOCABULARY / 100
