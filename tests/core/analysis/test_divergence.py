"""Loss and divergence token by token: against full softmaxes in fp64, against peft with its adapter off, and at the
places where they are known.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from core.adapters.inject import activate, inject
from core.adapters.peft_format import load_adapter, save_adapter
from core.analysis import divergence
from core.analysis.divergence import Scores, by_row, compare
from core.config import LoraConfig
from core.data.tokens.encoding import IGNORE, Row
from core.models.load import LoadedModel
from core.train.objective import PackedRows, PaddedRows, Predictions
from tests.core.tiny import LINEARS, VOCABULARY, adapt, plain_logits, random_rows

ROWS = random_rows([30, 7, 90, 41])


def scores_of(loaded: LoadedModel, rows: list[Row] = ROWS, key: str = "a", layout: Any = PackedRows) -> Scores:
    objective = layout(loaded)
    activate(loaded.model, None)
    base = objective.predictions(rows)
    activate(loaded.model, key)
    return compare(base, objective.predictions(rows))


def slow(model: Any, row: Row) -> torch.Tensor:
    """`[labels, vocab]` fp64 log-probabilities of one row alone, through the model's own code."""
    chosen = torch.tensor(row.labels) != IGNORE
    return plain_logits(model, row.tokens)[chosen].double().log_softmax(dim=-1)


def slow_sums(base: Any, adapted: Any, row: Row) -> list[float]:
    p, q = slow(base, row), slow(adapted, row)
    labels = torch.tensor([label for label in row.labels if label != IGNORE])[:, None]
    kl = (q.exp() * (q - p)).sum()
    return [-float(p.gather(1, labels).sum()), -float(q.gather(1, labels).sum()), float(kl)]


def test_rows_that_are_packed_have_the_sums_of_each_alone_in_fp64(tiny: LoadedModel, plain: LoadedModel) -> None:
    adapt(tiny.model)
    adapted = copy.deepcopy(plain.model)
    adapt(adapted)
    activate(adapted, "a")
    for found, row in zip(by_row(scores_of(tiny), ROWS), ROWS, strict=True):
        assert found.answers == row.trained
        assert [found.base_loss, found.loss, found.kl] == pytest.approx(slow_sums(plain.model, adapted, row), rel=1e-4)


def test_padded_rows_have_the_same_sums(plain: LoadedModel, tiny: LoadedModel) -> None:
    for loaded in (plain, tiny):
        adapt(loaded.model)
    padded, packed = scores_of(plain, layout=PaddedRows), scores_of(tiny)
    for one, other in zip(by_row(padded, ROWS), by_row(packed, ROWS), strict=True):
        assert [one.base_loss, one.loss, one.kl] == pytest.approx([other.base_loss, other.loss, other.kl], rel=1e-4)


def test_chunks_change_nothing(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    adapt(tiny.model)
    whole = scores_of(tiny)
    monkeypatch.setattr(divergence, "CHUNK", 7)
    monkeypatch.setattr(divergence, "WIDE_BYTES", 4 * VOCABULARY * 3)
    parts = scores_of(tiny)
    assert torch.allclose(whole.kl, parts.kl, atol=1e-6) and torch.allclose(whole.loss, parts.loss, atol=1e-6)
    assert torch.equal(whole.right, parts.right)


def test_an_adapter_that_has_not_learned_anything_diverges_by_exactly_nothing(tiny: LoadedModel) -> None:
    inject(tiny.model, LoraConfig(rank=4, targets=LINEARS), key="a", seed=0)
    scores = scores_of(tiny)
    assert not scores.kl.any() and torch.equal(scores.base_loss, scores.loss)


def test_the_base_of_the_comparison_is_the_bare_base_to_the_bit(tiny: LoadedModel, plain: LoadedModel) -> None:
    bare = copy.deepcopy(tiny.model)
    objective = PackedRows(LoadedModel(**{**{n: getattr(tiny, n) for n in tiny.__slots__}, "model": bare}))
    expected = objective.predictions(ROWS)
    adapt(tiny.model)
    activate(tiny.model, None)
    found = PackedRows(tiny).predictions(ROWS)
    assert torch.equal(expected.states, found.states) and found.head is not None and expected.head is not None
    assert torch.equal(expected.head, found.head)


def test_losses_are_those_of_peft_with_its_adapter_on_and_off(
    plain: LoadedModel, tiny: LoadedModel, tmp_path: Path
) -> None:
    config = adapt(tiny.model)
    save_adapter(tiny.model, "a", tmp_path / "adapter", config, "some/base")
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(plain.model), tmp_path / "adapter").eval()
    for found, row in zip(by_row(scores_of(tiny), ROWS), ROWS, strict=True):
        labels = torch.tensor([label for label in row.labels if label != IGNORE])[:, None]
        on = -float(slow(theirs, row).gather(1, labels).sum())
        with theirs.disable_adapter():
            off = -float(slow(theirs, row).gather(1, labels).sum())
        assert [found.base_loss, found.loss] == pytest.approx([off, on], rel=1e-4)


@pytest.mark.parametrize("targets", [("lm_head",), ("embed_tokens",), (*LINEARS, "lm_head")])
def test_an_adapted_head_is_compared_with_the_bare_one(
    tiny: LoadedModel, plain: LoadedModel, targets: tuple[str, ...]
) -> None:
    adapted = copy.deepcopy(plain.model)
    for model in (tiny.model, adapted):
        inject(model, LoraConfig(rank=4, targets=targets), key="a", seed=0)
        generator = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    activate(adapted, "a")
    for found, row in zip(by_row(scores_of(tiny), ROWS), ROWS, strict=True):
        assert [found.base_loss, found.loss, found.kl] == pytest.approx(slow_sums(plain.model, adapted, row), rel=1e-4)


def test_the_divergence_is_never_below_zero_and_grows_with_the_distance() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(50, 300, generator=generator)
    step = torch.randn(50, 300, generator=generator)
    labels = torch.zeros(50, dtype=torch.int64)
    base = Predictions(labels=labels, states=start)
    found = [
        float(compare(base, Predictions(labels=labels, states=start + far * step)).kl.mean()) for far in (0, 0.1, 1, 3)
    ]
    assert found == sorted(found) and found[0] == 0 and found[-1] > 1


def test_an_adapter_on_disk_is_compared_as_it_was_in_memory(
    tiny: LoadedModel, plain: LoadedModel, tmp_path: Path
) -> None:
    config = adapt(tiny.model)
    expected = scores_of(tiny)
    save_adapter(tiny.model, "a", tmp_path / "adapter", config, "some/base")
    key = load_adapter(plain.model, tmp_path / "adapter")
    found = scores_of(plain, key=key, layout=PaddedRows)
    assert torch.allclose(expected.kl.sum(), found.kl.sum(), rtol=1e-4)
