from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file

from core.adapters.peft_format import read_adapter
from core.errors import RunError
from core.events import (
    Cancelled,
    Event,
    Finished,
    Paused,
    Preparing,
    Saved,
    Started,
    StepDone,
)
from core.models.precision import Precision
from core.train.checkpoint import TENSORS_FILE
from tests.core.train.running import Make, notes, of_kind, same_bits


def test_keep_saves_what_was_learned_so_far_and_says_that_it_was_stopped(make: Make) -> None:
    run = make()
    events = run.carry_out(until_step=3, answer="keep")
    assert isinstance(events[-1], Finished) and events[-1].stopped and events[-1].steps == 3
    assert [event.event for event in events[-2:]] == ["saved", "finished"]
    assert events[-1].eval_loss is None and events[-1].base_eval_loss is not None  # step 3 was not evaluated
    checkpoint = load_file(run.folder / "checkpoints" / "step-00000003" / TENSORS_FILE)
    adapter = read_adapter(run.folder / "adapter").tensors
    assert all(torch.equal(a, checkpoint[f"{name}.adapters.trained.a"]) for name, (a, _) in adapter.items())


def test_cancel_ends_the_run_without_an_adapter_but_with_a_checkpoint(make: Make) -> None:
    run = make()
    events = run.carry_out(until_step=3, answer="cancel")
    assert events[-1] == Cancelled(step=3) and not of_kind(events, Finished)
    assert not (run.folder / "adapter").exists() and run.checkpoints == ["step-00000002", "step-00000003"]


def test_pause_leaves_a_checkpoint_and_no_adapter(make: Make) -> None:
    run = make()
    events = run.carry_out(until_step=3, answer="pause")
    assert [event.event for event in events[-2:]] == ["saved", "paused"] and events[-1] == Paused(step=3)
    assert not (run.folder / "adapter").exists() and run.checkpoints == ["step-00000002", "step-00000003"]


def test_a_pause_after_the_last_step_leaves_the_last_evaluation_to_whoever_resumes(make: Make) -> None:
    straight, run = make("straight"), make()
    expected = straight.carry_out()[-1]
    assert isinstance(run.carry_out(until_step=8, answer="pause")[-1], Paused)
    finished = run.carry_out()[-1]
    assert isinstance(finished, Finished) and isinstance(expected, Finished)
    assert finished.eval_loss == expected.eval_loss is not None and same_bits(straight, run)


@pytest.mark.parametrize("answer", ["keep", "cancel", "pause"])
@pytest.mark.parametrize("phase", ["fetching", "loading", "injecting", "tokenizing"])
def test_a_stop_before_the_first_step_leaves_nothing(make: Make, answer: str, phase: str) -> None:
    run = make()
    seen: list[Event] = []
    for event in run.events():
        seen.append(event)
        if isinstance(event, Preparing) and event.phase == phase:
            run.answer = answer
    assert seen[-1] == (Paused if answer == "pause" else Cancelled)(step=0) and not of_kind(seen, StepDone)
    assert not (run.folder / "adapter").exists() and run.checkpoints == []


def test_a_cancel_during_the_last_evaluation_is_a_cancel(make: Make) -> None:
    run = make()
    events = run.carry_out(until_step=8, answer="cancel")
    assert events[-1] == Cancelled(step=8) and not (run.folder / "adapter").exists()


@pytest.mark.parametrize(
    ("until_step", "answer", "bits"),
    [(3, "cancel", 32), (5, None, 32), (1, None, 32), (8, "cancel", 32), (3, "pause", 4), (5, None, 8)],
)
def test_stopping_and_going_on_gives_the_bits_of_never_stopping(
    make: Make, until_step: int, answer: str | None, bits: int
) -> None:
    """With dropout, over two epochs of shuffled rows; answer None stands for a worker that was killed."""
    settings = {"lora": {"dropout": 0.3}, "quant": {"bits": bits}}
    straight, stopped = make("straight", **settings), make("stopped", **settings)
    expected = of_kind(straight.carry_out(), Finished)[0]
    stopped.carry_out(until_step=until_step, answer=answer)
    events = stopped.carry_out()
    (started,), (finished,) = of_kind(events, Started), of_kind(events, Finished)
    saved = until_step if answer else until_step // 2 * 2
    assert started.first_step == saved + 1
    assert ("Resumed after step" in notes(events)) == (saved > 0)
    assert same_bits(straight, stopped)
    for name in ("steps", "tokens", "first_loss", "last_loss", "base_eval_loss"):
        assert getattr(finished, name) == getattr(expected, name), name


def test_stopping_again_and_again_gives_the_same_bits_too(make: Make) -> None:
    straight, stopped = make("straight"), make("stopped")
    straight.carry_out()
    for step in (2, 3, 4, 7):
        stopped.carry_out(until_step=step, answer="cancel")
    stopped.carry_out()
    assert same_bits(straight, stopped)


def test_a_damaged_newest_checkpoint_is_passed_over_and_named(make: Make) -> None:
    straight, damaged = make("straight"), make("damaged")
    straight.carry_out()
    damaged.carry_out(until_step=7)
    assert damaged.checkpoints == ["step-00000004", "step-00000006"]
    file = damaged.folder / "checkpoints" / "step-00000006" / TENSORS_FILE
    file.write_bytes(file.read_bytes()[:-100])
    events = damaged.carry_out()
    assert "The checkpoint step-00000006 cannot be read and was passed over" in notes(events)
    assert "Resumed after step 4" in notes(events)
    assert same_bits(straight, damaged)
    assert of_kind(events, Saved)[0].step == 6


def test_where_no_checkpoint_can_be_read_the_run_is_refused_and_not_begun_anew(make: Make) -> None:
    run = make()
    run.carry_out(until_step=5)
    for name in run.checkpoints:
        (run.folder / "checkpoints" / name / TENSORS_FILE).write_bytes(b"")
    with pytest.raises(RunError, match="None of the run's checkpoints can be read.*step-00000004, step-00000002"):
        run.carry_out()
    assert run.checkpoints == ["step-00000002", "step-00000004"]


def test_a_finished_run_carried_out_again_gives_the_same_adapter(make: Make) -> None:
    run = make()
    run.carry_out()
    before = run.adapter
    events = run.carry_out()
    assert not of_kind(events, StepDone) and isinstance(events[-1], Finished)
    assert all(torch.equal(tensor, before[name]) for name, tensor in run.adapter.items())


def test_feeding_more_tokens_at_once_changes_the_adapter_by_rounding_only(make: Make) -> None:
    small, large = make("small"), make("large", optim={"micro_tokens": 4096})
    small.carry_out()
    large.carry_out()
    for name, tensor in small.adapter.items():
        assert (tensor - large.adapter[name]).norm() <= 1e-2 * tensor.norm(), name


def test_a_resumed_run_computes_in_the_dtype_it_began_with(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is the faster dtype is measured, and a busy machine may measure otherwise on another day."""
    answers = {"then": torch.bfloat16, "now": torch.float32}

    def measured(day: str) -> Callable[[torch.device, int], Precision]:
        return lambda device, bits: Precision(dtype=answers[day], reason=f"measured {day}")

    run = make(quant={"bits": 16})
    monkeypatch.setattr("core.train.run.choose_precision", measured("then"))
    run.carry_out(until_step=3, answer="cancel")
    monkeypatch.setattr("core.train.run.choose_precision", measured("now"))
    events = run.carry_out()
    (started,) = of_kind(events, Started)
    assert (started.first_step, started.compute_dtype) == (4, "bfloat16") and "measured then" in notes(events)
