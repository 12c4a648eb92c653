from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from core.adapters.inject import activate, inject
from core.config import RunConfig, parse
from core.errors import RunError
from core.events import EvalDone, Event, Saved, StepDone
from core.models.load import LoadedModel
from core.train.loop import Loop
from core.train.schedule import learning_rate
from tests.core.tiny import LINEARS, bits, random_rows
from tests.core.train.running import adapter_subject

Make = Callable[..., Loop]


def config(lora: dict[str, Any] | None = None, **optim: Any) -> RunConfig:
    settings = {"learning_rate": 1e-2, "batch_size": 3, "steps": 4, "evaluations": 2, "micro_tokens": 64}
    return parse({
        "name": "loop",
        "data": {"dataset_id": "none"},
        "lora": {"rank": 4, "targets": LINEARS} | (lora or {}),
        "optim": settings | optim,
    })  # fmt: skip


@pytest.fixture
def make(tiny: LoadedModel, tmp_path: Path) -> Make:
    """A loop over the tiny model with a fresh adapter, seven training rows and two for evaluation."""

    def build(config: RunConfig, stop: Callable[[], str | None] = lambda: None, rows: int = 9) -> Loop:
        drawn = random_rows([40, 29, 34, 25, 50, 32, 28, 20, 17][:rows])
        inject(tiny.model, config.lora, key="a", seed=config.seed)
        activate(tiny.model, "a")
        return Loop(adapter_subject(tiny), config, drawn[:7], drawn[7:], tmp_path / "checkpoints", stop)

    return build


def kinds(events: Iterator[Event] | list[Event]) -> list[str]:
    return [event.event for event in events]


def test_a_run_evaluates_first_and_last_and_saves_after_each_evaluation_between(make: Make) -> None:
    events = list(make(config()).run())
    assert kinds(events) == ["eval", "step", "step", "eval", "saved", "step", "step", "eval", "saved"]
    assert [event.step for event in events if isinstance(event, EvalDone)] == [0, 2, 4]
    assert [event.step for event in events if isinstance(event, Saved)] == [2, 4]


def test_totals_count_what_was_fed(make: Make) -> None:
    loop = make(config(steps=6))
    steps = [event for event in loop.run() if isinstance(event, StepDone)]
    epoch = sum(len(row.tokens) for row in loop.train_rows)
    assert loop.order.steps == 3  # of 7 rows, 3 a step
    assert (steps[2].tokens, steps[5].tokens) == (epoch, 2 * epoch)
    assert [step.epoch for step in steps] == [(i + 1) / 3 for i in range(6)]
    assert [step.seconds for step in steps] == sorted(step.seconds for step in steps)
    assert all(step.grad_norm > 0 and step.rss_bytes > 0 for step in steps)


def test_epochs_become_steps_and_steps_win(make: Make) -> None:
    assert make(config(steps=None, epochs=2.0)).steps == 6
    assert make(config(steps=None, epochs=0.01)).steps == 1
    assert make(config(steps=5, epochs=2.0)).steps == 5


def test_without_evaluation_rows_there_are_checkpoints_all_the_same(make: Make) -> None:
    loop = make(config(), rows=7)
    assert kinds(loop.run()) == ["step", "step", "saved", "step", "step", "saved"]
    assert loop.eval_loss is None and loop.base_eval_loss is None


def test_the_evaluation_loss_is_that_of_the_present_weights_or_none(make: Make) -> None:
    loop = make(config(steps=3, evaluations=1))
    events = loop.run()
    first = next(events)
    assert isinstance(first, EvalDone) and loop.eval_loss == loop.base_eval_loss == first.loss
    next(events)
    assert loop.eval_loss is None and loop.base_eval_loss == first.loss
    *_, last_evaluation, _saved = events
    assert isinstance(last_evaluation, EvalDone) and loop.eval_loss == last_evaluation.loss


def test_evaluating_draws_no_dropout_even_after_training_steps(make: Make) -> None:
    loop = make(config(lora={"dropout": 0.5}))
    events = loop.run()
    while loop.steps_done < 1:
        next(events)
    losses = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        losses += [event.loss for event in loop._evaluate()]
    assert losses[0] == losses[1]


def test_the_adapters_dropout_is_drawn_while_training_after_evaluations_too(make: Make) -> None:
    """The first step's loss cannot show it, since B is zero; those of the others do, on both sides of an evaluation."""
    losses = [
        [event.loss for event in make(config(lora={"dropout": dropout})).run() if isinstance(event, StepDone)]
        for dropout in (0.0, 0.5)
    ]
    assert [plain != dropped for plain, dropped in zip(*losses, strict=True)] == [False, True, True, True]


def test_the_optimizer_uses_the_rates_that_are_reported_and_they_are_the_schedules(make: Make) -> None:
    loop = make(config(steps=5, schedule="cosine", warmup=0.3))
    used: list[float] = []
    loop.optimizer.register_step_pre_hook(lambda optimizer, *_: used.append(optimizer.param_groups[0]["lr"]))
    reported = [event.learning_rate for event in loop.run() if isinstance(event, StepDone)]
    assert used == reported == [learning_rate(1e-2, loop.config.optim, step, 5) for step in range(5)]


def test_dropout_of_the_bases_own_is_off_while_training(make: Make, tiny: LoadedModel) -> None:
    tiny.model.config.attention_dropout = 0.9
    for layer in tiny.model.model.layers:
        layer.self_attn.attention_dropout = 0.9
    losses = [next(event.loss for event in make(config()).run() if isinstance(event, StepDone)) for _ in range(2)]
    assert losses[0] == losses[1]
    assert tiny.model.model.layers[0].self_attn.training is False


def test_the_gradient_is_clipped_to_the_norm_that_was_asked_for(make: Make) -> None:
    loop = make(config(steps=1, clip_norm=1e-3, schedule="constant", warmup=0.0))
    applied: list[float] = []
    loop.optimizer.register_step_pre_hook(
        lambda *_: applied.append(torch.stack([p.grad.norm() for p in loop.parameters.values()]).norm().item())
    )
    (step,) = [event for event in loop.run() if isinstance(event, StepDone)]
    assert step.grad_norm > 1e-3 and applied[0] == pytest.approx(1e-3, rel=1e-3)


def test_weights_that_stopped_being_numbers_end_the_run_and_nothing_is_saved(make: Make) -> None:
    loop = make(config())
    events = loop.run()
    while loop.steps_done < 1:
        next(events)
    next(iter(loop.parameters.values())).data.view(-1)[3] = torch.nan
    before = bits(loop.loaded.model)
    with pytest.raises(RunError, match="diverged at step 2.*lower the learning rate") as caught:
        list(events)
    assert caught.value.hint and not loop.checkpoints.exists()
    after = loop.loaded.model.state_dict()
    assert all(torch.equal(before[name].nan_to_num(), after[name].nan_to_num()) for name in before)


def test_an_evaluation_that_is_no_number_ends_the_run_before_its_checkpoint(make: Make) -> None:
    loop = make(config())
    events = loop.run()
    while loop.steps_done < 2:
        next(events)
    loop.parameters["model.layers.1.mlp.down_proj.adapters.a.b"].data[0, 0] = torch.nan
    with pytest.raises(RunError, match="diverged at step 2: its evaluation loss"):
        list(events)
    assert not loop.checkpoints.exists()


def test_weights_without_end_are_never_saved_even_where_the_loss_does_not_show_it(make: Make) -> None:
    loop = make(config(), rows=7)
    events = loop.run()
    while loop.steps_done < 2:
        next(events)
    loop.parameters["model.layers.0.self_attn.q_proj.adapters.a.a"].data[0, 0] = torch.inf
    with pytest.raises(RunError, match="diverged at step 2: its weights are not finite"):
        list(events)
    assert not loop.checkpoints.exists()


@pytest.mark.parametrize("answer", ["keep", "cancel"])
def test_a_stop_between_micro_batches_leaves_the_weights_of_the_last_whole_step(make: Make, answer: str) -> None:
    """The step under way is dropped: its gradients are neither applied nor left behind."""
    asked = 0

    def stop() -> str | None:
        nonlocal asked
        asked += 1
        return answer if asked >= stop_at else None

    loop, stop_at = make(config(evaluations=1), stop), 10**9
    events = loop.run()
    while loop.steps_done < 1:
        next(events)
    before, stop_at = bits(loop.loaded.model), asked + 2  # three rows of the next step make two micro-batches or more
    assert kinds(events) == ["saved"] and asked == stop_at
    assert all(torch.equal(before[name], tensor) for name, tensor in loop.loaded.model.state_dict().items())
    assert all(p.grad is None for p in loop.parameters.values())


def test_a_stop_before_the_first_step_saves_nothing(make: Make) -> None:
    loop = make(config(), stop=lambda: "keep")
    assert list(loop.run()) == [] and not loop.checkpoints.exists()
