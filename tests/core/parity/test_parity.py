"""Whatever can be adapted, in every variant, beside an independent implementation: one test a claim, for each case of
the table in `cases`."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

from core.adapters.inject import activate, lora_layers, remove, routed
from core.adapters.layer import Mix
from core.adapters.merge import merged
from core.adapters.peft_format import load_adapter, save_adapter
from core.errors import AdapterError
from tests.core.parity.architectures import build
from tests.core.parity.cases import CASES, LIMIT
from tests.core.parity.twins import KEY, NEIGHBOR, Twins, anchored_base, blended_base, plain_base, relative
from tests.core.tiny import bits

MIXES: tuple[Mix, ...] = (
    (),
    ((KEY, 1.0),),
    ((KEY, -1.0),),
    ((NEIGHBOR, 1.0),),
    ((KEY, 0.5),),
    ((KEY, 2.0),),
    ((KEY, 0.7), (NEIGHBOR, -0.4)),
)


def each(cases: Iterable[Any] = CASES) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("twins", tuple(cases), indirect=True, ids=str, scope="module")


in_pefts_format = each(case for case in CASES if not case.is_bias_only)


@pytest.fixture(autouse=True)
def at_first(twins: Twins) -> None:
    """Each test begins with the same A and B, whatever the last one did to them."""
    twins.reset()


def logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(**{name: tensor for name, tensor in batch.items() if name != "labels"})["logits"]
    return found


@each(case for case in CASES if case.config.init != "loftq")
def test_a_fresh_adapter_changes_nothing(twins: Twins) -> None:
    parameters = dict(twins.ours.named_parameters())
    for name, value in twins.started.items():
        parameters[name].data.copy_(value)
    fresh = logits(twins.ours, twins.batch())
    activate(twins.ours, None)
    assert relative(fresh, logits(twins.ours, twins.batch())) < LIMIT


@each()
def test_logits_and_loss_are_the_same(twins: Twins) -> None:
    mine, other = (model(**twins.batch()) for model in (twins.ours, twins.theirs))
    assert relative(mine["logits"], other["logits"]) < LIMIT
    assert relative(mine["loss"], other["loss"]) < LIMIT
    assert relative(mine["logits"], logits(twins.base, twins.batch())) > 0.05


@each()
def test_gradients_of_all_that_is_trained_are_the_same(twins: Twins) -> None:
    for model in (twins.ours, twins.theirs):
        model(**twins.batch())["loss"].backward()
    for pair in twins.trained:
        pair.gather()
        assert pair.ours.grad is not None and pair.theirs.grad is not None
        mine, other = (twins.felt(pair, g) for g in (pair.encode(pair.ours.grad), pair.theirs.grad))
        assert relative(mine, other) < LIMIT, pair.name


@each()
def test_the_same_is_trained_and_nothing_else(twins: Twins) -> None:
    paired = {id(p) for pair in twins.trained for p in (pair.ours, pair.theirs, pair.mirror)}
    for model in (twins.ours, twins.theirs):
        assert [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in paired] == []


@each()
def test_the_adapter_is_the_same_after_five_steps_and_the_base_has_not_changed(twins: Twins) -> None:
    before = bits(twins.ours)
    twins.step()
    for pair, first in zip(twins.pairs, twins.first, strict=True):
        assert relative(twins.felt(pair, pair.expected()), twins.felt(pair, pair.theirs.detach())) < LIMIT, pair.name
        assert not pair.ours.requires_grad or relative(pair.ours.detach(), first) > 10 * LIMIT, pair.name
    changed = {name for name, tensor in twins.ours.state_dict().items() if not torch.equal(tensor, before[name])}
    trained = {id(pair.ours) for pair in twins.trained}
    names = {name for name, p in twins.ours.named_parameters(remove_duplicate=False) if id(p) in trained}
    assert changed == names
    activate(twins.ours, None)
    if twins.case.bits == 32:
        assert torch.equal(logits(twins.ours, twins.batch()), logits(twins.base, twins.batch()))


@in_pefts_format
def test_what_we_save_peft_loads(twins: Twins, tmp_path: Path) -> None:
    save_adapter(twins.ours, KEY, tmp_path, twins.case.config, "a-base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its advice about tied weights is not what we test
        loaded = peft.PeftModel.from_pretrained(plain_base(twins.case, twins.ours), tmp_path).eval()
    assert relative(logits(loaded, twins.batch()), logits(twins.ours, twins.batch())) < LIMIT


@in_pefts_format
def test_what_peft_saves_we_load(twins: Twins, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        twins.theirs.save_pretrained(tmp_path)  # type: ignore[operator]
    model = anchored_base(twins.case, twins.ours)
    activate(model, load_adapter(model, tmp_path))
    assert relative(logits(model, twins.batch()), logits(twins.theirs, twins.batch())) < LIMIT


@each()
def test_merged_says_the_same_and_the_base_comes_back_bit_for_bit(twins: Twins) -> None:
    before, expected = bits(twins.ours), logits(twins.ours, twins.batch())
    with merged(twins.ours, KEY):
        assert relative(logits(twins.ours, twins.batch()), expected) < LIMIT
    after = twins.ours.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    assert torch.equal(logits(twins.ours, twins.batch()), expected)


@each(case for case in CASES if not case.heaped)
def test_each_row_of_a_mixed_batch_gets_what_it_gets_alone(twins: Twins) -> None:
    assert_rows_are_as_alone(twins)


@each(case for case in CASES if case.heaped)
def test_where_a_model_hands_a_layer_no_rows_a_mixed_batch_is_refused_and_not_routed_wrongly(twins: Twins) -> None:
    mixes = MIXES[:2]  # so many that the heap could be shared out evenly, and wrongly
    with routed(twins.ours, mixes, torch.float32), pytest.raises(AdapterError, match="side by side"):
        logits(twins.ours, rows_for(twins, len(mixes)))
    targets = tuple(target for target in twins.case.config.targets if target not in twins.case.heaped)
    assert_rows_are_as_alone(Twins(replace(twins.case, config=replace(twins.case.config, targets=targets))))


@each()
def test_taking_every_adapter_out_gives_the_plain_model_back(twins: Twins) -> None:
    model = copy.deepcopy(twins.ours)
    activate(model, None)
    expected = logits(model, twins.batch())
    for key in (KEY, NEIGHBOR):
        remove(model, key)
    kinds = [(name, type(module)) for name, module in build(twins.case.architecture).named_modules()]
    if twins.case.bits == 32:
        assert [(name, type(module)) for name, module in model.named_modules()] == kinds
    assert lora_layers(model) == {} and torch.equal(logits(model, twins.batch()), expected)


def assert_rows_are_as_alone(twins: Twins) -> None:
    batch = rows_for(twins, len(MIXES))
    with routed(twins.ours, MIXES, torch.float32):
        mixed = logits(twins.ours, batch)
    for row, mix in enumerate(MIXES):
        alone = {name: tensor[row : row + 1] for name, tensor in batch.items()}
        expected = logits(blended_base(twins.case, twins.ours, mix), alone)[0]
        with routed(twins.ours, [mix], torch.float32):
            assert relative(logits(twins.ours, alone)[0], expected) < LIMIT, mix
        assert relative(*(seen(found, alone) for found in (mixed[row], expected))) < LIMIT, mix


def rows_for(twins: Twins, count: int) -> dict[str, Tensor]:
    batch = twins.batch()
    size = len(batch["input_ids"])
    return {name: tensor[[row % size for row in range(count)]] for name, tensor in batch.items()}


def seen(found: Tensor, row: dict[str, Tensor]) -> Tensor:
    """Logits of the tokens that are no padding; all, where there is one set a row."""
    return found[row["attention_mask"][0] == 1] if found.ndim == 2 else found
