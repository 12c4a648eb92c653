"""Padded batches against the slow twin: row by row through the model's own code, all logits formed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from core.adapters.inject import activate
from core.data.tokens.encoding import IGNORE
from core.models.load import LoadedModel
from core.train.objective import ClassifiedRows, Objective, PackedRows, PaddedRows
from core.train.trial import choose_layout
from tests.core.tiny import adapt
from tests.core.train.architectures import causal, class_rows, classifier, rows_of

LENGTHS = (30, 3, 17, 17, 9, 40)
DENSE = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")
TARGETS = {
    "falcon": DENSE,
    "bloom": DENSE,
    "gptj": ("q_proj", "v_proj", "out_proj", "fc_in", "fc_out"),
    "mamba": ("in_proj", "x_proj", "out_proj"),
    "gemma2": ("q_proj", "down_proj"),
    "bert": ("query", "value", "output.dense"),
    "roberta": ("query", "value", "output.dense"),
    "deberta-v2": ("query_proj", "value_proj", "output.dense"),
    "llama": ("q_proj", "down_proj"),
}


def train(loaded: LoadedModel, kind: str, trained: str) -> nn.Module:
    """Let an adapter of `loaded` be trained, or everything."""
    model: nn.Module = loaded.model
    if trained == "adapter":
        adapt(model, targets=TARGETS[kind])
        activate(model, "a")
    else:
        model.requires_grad_(True)
    return model


def gradients(model: nn.Module, loss: Callable[[], Tensor]) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    value = loss()
    value.backward()  # type: ignore[no-untyped-call]
    return value.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_equal(model: nn.Module, ours: Callable[[], Tensor], theirs: Callable[[], Tensor]) -> None:
    loss, found = gradients(model, ours)
    expected_loss, expected = gradients(model, theirs)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert found.keys() == expected.keys() and found
    norm = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-5 * norm, name


def summed(objective: Objective, rows: list, micro_tokens: int) -> Callable[[], Tensor]:  # type: ignore[type-arg]
    groups = list(objective.groups(rows, micro_tokens))
    assert len(groups) > 1 and any(len(group) > 1 for group in groups)
    return lambda: torch.stack([objective.outcome(group).loss for group in groups]).sum()


@pytest.mark.parametrize("trained", ["adapter", "every weight"])
@pytest.mark.parametrize("kind", ["falcon", "gptj", "bloom", "mamba", "gemma2"])
def test_a_padded_step_equals_the_model_row_by_row(kind: str, trained: str) -> None:
    loaded = causal(kind)
    layout, _ = choose_layout(loaded)
    assert isinstance(layout, PaddedRows)
    model, rows = train(loaded, kind, trained), rows_of(LENGTHS)

    def slowly() -> Tensor:
        losses = []
        for row in rows:
            logits = model(input_ids=torch.tensor([row.tokens]), use_cache=False).logits[0]
            losses.append(cross_entropy(logits, torch.tensor(row.labels), ignore_index=IGNORE, reduction="sum"))
        return torch.stack(losses).sum()

    assert_equal(model, summed(layout, rows, 64), slowly)


@pytest.mark.parametrize("kind", ["opt"])
def test_packed_and_padded_rows_give_the_same_step(kind: str) -> None:
    """Every weight is trained, so that the head is not frozen and its logits are formed by the model itself."""
    loaded = causal(kind)
    packed, _ = choose_layout(loaded)
    assert isinstance(packed, PackedRows)
    model, rows = train(loaded, kind, "every weight"), rows_of(LENGTHS)
    ours = summed(packed, rows, 64)
    loss, found = gradients(model, ours)
    loaded.model.set_attn_implementation("sdpa")
    padded_loss, expected = gradients(model, summed(PaddedRows(loaded), rows, 64))
    assert loss == pytest.approx(padded_loss, rel=1e-5)
    rounding = 1e-6 * torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    for name, gradient in expected.items():  # a key's bias moves all scores of a row alike: its gradient is rounding
        assert (found[name] - gradient).norm() <= 1e-4 * gradient.norm() + rounding, name


@pytest.mark.parametrize("trained", ["adapter", "every weight"])
@pytest.mark.parametrize("kind", ["bert", "roberta", "deberta-v2", "llama"])
def test_a_classifiers_step_equals_the_model_row_by_row(kind: str, trained: str) -> None:
    loaded = classifier(kind)
    model, rows = train(loaded, kind, trained), class_rows(LENGTHS)

    def slowly() -> Tensor:
        losses = [
            cross_entropy(model(input_ids=torch.tensor([row.tokens])).logits, torch.tensor([row.label])) for row in rows
        ]
        return torch.stack(losses).sum()

    assert_equal(model, summed(ClassifiedRows(loaded), rows, 80), slowly)


def test_rows_named_right_are_counted() -> None:
    loaded = classifier("bert")
    rows = class_rows((9, 20, 5, 14, 8, 31, 12))
    with torch.no_grad():
        said = [int(loaded.model(input_ids=torch.tensor([row.tokens])).logits.argmax()) for row in rows]
        outcome = ClassifiedRows(loaded).outcome(rows)
    assert outcome.correct is not None
    assert int(outcome.correct) == sum(guess == row.label for guess, row in zip(said, rows, strict=True))


def test_the_texts_of_a_pair_are_told_apart() -> None:
    """BERT embeds which text a token belongs to; a row's loss must be that of its own types, padded or not."""
    loaded = classifier("bert")
    rows = [replace(row, types=[0] * 3 + [1] * (len(row.tokens) - 3)) for row in class_rows((8, 20))]
    with torch.no_grad():
        losses = [
            cross_entropy(
                loaded.model(input_ids=torch.tensor([row.tokens]), token_type_ids=torch.tensor([row.types])).logits,
                torch.tensor([row.label]),
            )
            for row in rows
        ]
        together = ClassifiedRows(loaded).outcome(rows).loss
        without = ClassifiedRows(loaded).outcome([replace(row, types=None) for row in rows]).loss
    assert together.item() == pytest.approx(sum(losses).item(), rel=1e-5)  # type: ignore[union-attr]
    assert without.item() != pytest.approx(together.item(), rel=1e-3)
