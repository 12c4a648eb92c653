"""What a run says of what it learned: at its end, whatever happens meanwhile, and later from what it left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from core.analysis import appraisal as kept
from core.analysis.appraisal import Appraisal, read_appraisal
from core.analysis.verdict import judge
from core.data.records import Records
from core.data.tokens.encoding import encode
from core.data.tokens.splits import hold_out
from core.events import Appraised, Appraising, Cancelled, EvalDone, Event, Finished, Note
from core.models.load import LoadedModel
from core.train import appraising
from core.train.appraising import AT_END, MARKER, ON_REQUEST, Bounds, budget, chosen
from core.train.appraising_later import Left, Measuring, appraise_later
from tests.core.tiny import LINEARS, conversation, random_rows
from tests.core.train.running import RECORDS, Make, Run, notes, of_kind, same_bits
from tests.core.train.test_classification import classify, encoder

__all__ = ["classify", "encoder"]  # fixtures


def later(run: Run, step: int = 8) -> Appraisal:
    """What is measured from the run's files alone."""
    left = Left(
        config=run.config, folder=run.folder, records=run.records, models_root=run.folder / "no models", step=step
    )
    progress = appraise_later(left)
    shares = []
    while True:
        try:
            told = next(progress)
        except StopIteration as end:
            assert shares == sorted(shares) and shares[-1] == 1
            result: Appraisal = end.value
            return result
        if isinstance(told, Measuring):
            shares.append(told.share_done)


def found(run: Run) -> Appraisal:
    appraisal = read_appraisal(run.folder)
    assert appraisal is not None
    return appraisal


# ---- at the end of a run


def test_a_run_ends_with_what_it_learned_and_the_losses_are_those_of_its_evaluations(make: Make) -> None:
    run = make(samples={"rows": 1})
    events = run.carry_out()
    appraisal, (told,) = found(run), of_kind(events, Appraised)
    assert [event.event for event in events[-2:]] == ["appraised", "finished"] and of_kind(events, Appraising)
    assert told.verdict == judge(appraisal).sentence and told.level == judge(appraisal).level
    evaluations = of_kind(events, EvalDone)
    assert appraisal.evaluations == tuple((each.step, each.loss) for each in evaluations)
    assert appraisal.held_out is not None and appraisal.trained is not None and appraisal.step == 8
    assert appraisal.held_out.base_loss == pytest.approx(evaluations[0].loss, rel=1e-5)
    assert appraisal.held_out.loss == pytest.approx(evaluations[-1].loss, rel=1e-5)
    assert appraisal.held_out.base_accuracy == evaluations[0].token_accuracy
    assert appraisal.held_out.accuracy == evaluations[-1].token_accuracy
    assert (appraisal.held_out.rows, appraisal.held_out.all_rows, appraisal.trained.rows) == (2, 2, 8)
    assert len(appraisal.modules) == 14 and not any(module.fault == "unmoved" for module in appraisal.modules)
    assert not (run.folder / MARKER).exists() and not appraisal.is_cut


def test_answers_before_and_after_are_those_that_the_run_itself_wrote(make: Make) -> None:
    run = make(samples={"prompts": ["Color 3?", "Color 4?"]})
    events = run.carry_out()
    samples = {(event.step, event.number): event.text for event in events if event.event == "sample"}
    assert [(each.before, each.after) for each in found(run).answers] == [
        (samples[0, number], samples[8, number]) for number in (0, 1)
    ]
    assert [each.prompt for each in found(run).answers] == ["Color 3?", "Color 4?"]


def test_a_resumed_run_asks_the_base_again_and_hears_the_same(make: Make) -> None:
    run, whole = make("run", samples={"rows": 1}), make("whole", samples={"rows": 1})
    run.carry_out(until_step=5, answer="pause")
    run.carry_out()
    whole.carry_out()
    assert found(run).answers == found(whole).answers and found(run).answers


def test_measuring_changes_nothing_of_what_is_saved(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    measured, plain = make("measured"), make("plain")
    measured.carry_out()
    monkeypatch.setattr("core.train.run.appraise_run", lambda loop, folder: iter(()))
    events = plain.carry_out()
    assert same_bits(measured, plain) and measured.checkpoints == plain.checkpoints
    assert isinstance(events[-1], Finished) and read_appraisal(plain.folder) is None


@pytest.mark.parametrize("answer", ["pause", "cancel", "keep"])
def test_whoever_asks_the_run_to_end_meanwhile_is_heeded_at_once(make: Make, answer: str) -> None:
    run = make()
    events: list[Event] = []
    for event in run.events():
        events.append(event)
        if isinstance(event, Appraising):
            run.answer = answer
    assert not of_kind(events, Appraised) and len(of_kind(events, Appraising)) == 1
    assert isinstance(events[-1], Cancelled if answer == "cancel" else Finished)
    assert read_appraisal(run.folder) is None and not (run.folder / MARKER).exists()


def test_a_run_that_is_stopped_early_is_not_kept_from_ending(make: Make) -> None:
    run = make()
    events = run.carry_out(until_step=5, answer="keep")
    assert isinstance(events[-1], Finished) and events[-1].stopped and not of_kind(events, Appraising)
    assert read_appraisal(run.folder) is None


def test_a_fault_while_measuring_is_a_note_and_the_run_finishes(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(appraising, "modules_of", fail)
    run = make()
    events = run.carry_out()
    assert isinstance(events[-1], Finished) and "could not be measured: MemoryError" in notes(events)
    assert run.adapter and read_appraisal(run.folder) is None and not (run.folder / MARKER).exists()


def test_a_disk_without_room_for_it_is_a_note_and_the_run_finishes(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept, "flush", refuse)
    events = make().carry_out()
    assert isinstance(events[-1], Finished) and "could not be measured: OSError" in notes(events)


def test_a_run_whose_process_ended_while_measuring_goes_on_and_does_not_try_again(make: Make) -> None:
    run, whole = make("run"), make("whole")
    for event in run.events():
        if isinstance(event, Appraising):
            break  # the generator is dropped as a killed process drops it, but for the marker, which it would leave
    (run.folder / MARKER).touch()
    events = run.carry_out()
    assert isinstance(events[-1], Finished) and not of_kind(events, Appraising)
    assert "the worker ended while it did so" in notes(events)
    whole.carry_out()
    assert same_bits(run, whole)


def test_what_was_measured_of_other_weights_is_thrown_away(make: Make) -> None:
    run = make()
    run.folder.mkdir(parents=True)
    kept.write_appraisal(run.folder, Appraisal(step=1))
    run.carry_out(until_step=4, answer="keep")
    assert read_appraisal(run.folder) is None


def test_a_resumed_run_knows_the_evaluations_from_before(make: Make) -> None:
    run = make()
    before = {each.step: each.loss for each in of_kind(run.carry_out(until_step=5, answer="pause"), EvalDone)}
    events = list(_resumed(run, before))
    later_ones = {each.step: each.loss for each in of_kind(events, EvalDone)}
    assert dict(found(run).evaluations) == before | later_ones and set(before | later_ones) == {0, 2, 4, 6, 8}


def _resumed(run: Run, evaluations: dict[int, float]) -> Iterator[Event]:
    from core.train.run import carry_out

    return carry_out(
        run.config, records=run.records, run_folder=run.folder, models_root=run.folder, stop=lambda: None,
        evaluations=evaluations,
    )  # fmt: skip


def test_time_that_is_up_cuts_the_measurement_and_that_is_said(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(appraising, "budget", lambda seconds: 0.0)
    run = make(samples={"rows": 1}, optim={"micro_tokens": 64})
    run.carry_out(until_step=5, answer="pause")  # it will not know what the base answered
    events = run.carry_out()
    appraisal = found(run)
    assert isinstance(events[-1], Finished) and appraisal.is_cut and not appraisal.answers
    assert appraisal.held_out is not None and appraisal.trained is None  # the first group was of held-out rows
    assert any("Time was up" in note for note in appraisal.notes) and len(appraisal.modules) == 14


def test_time_is_a_share_of_the_runs_own_within_bounds() -> None:
    assert [budget(seconds) for seconds in (0, 300, 1e5)] == [10, 30, 120]


def test_a_sample_is_bounded_the_same_each_time_and_never_empty() -> None:
    rows = random_rows([40] * 300)
    one, other, more = (list(chosen(rows, 3, bounds)) for bounds in (AT_END, AT_END, ON_REQUEST))
    assert len(one) == AT_END.rows and one == other and one != list(chosen(rows, 4, AT_END))
    assert len(more) == ON_REQUEST.rows and more[: len(one)] == one
    long = random_rows([49, 50, 200])
    assert 1 <= len(chosen(long, 0, Bounds(64, 100))) <= 2 and len(chosen(long[2:], 0, Bounds(64, 100))) == 1
    assert len(chosen([], 0, AT_END)) == 0


# ---- what it says of runs that went wrong


def test_rows_that_are_learned_by_heart_are_told_from_rows_that_are_learned(make: Make) -> None:
    """Answers without any rule: whatever is learned of them serves no other row."""
    generator = torch.Generator().manual_seed(0)
    words = ["red", "seven", "moon", "fish", "stone", "paper", "cloud", "iron"]
    drawn = torch.randint(8, (30, 12), generator=generator).tolist()
    records: Records = [
        conversation(f"Number {i}?", " ".join(words[n] for n in numbers), row=i) for i, numbers in enumerate(drawn, 1)
    ]
    settings = {"data": {"holdout": 0.3}, "lora": {"rank": 16}}
    optim = {"learning_rate": 1e-2, "steps": 300, "evaluations": 15}
    run = make("by heart", records=records, **settings, optim=optim)
    run.carry_out()
    appraisal, verdict = found(run), judge(found(run))
    assert appraisal.trained is not None and appraisal.held_out is not None
    assert appraisal.trained.loss < 1 < appraisal.held_out.loss
    assert (verdict.level, verdict.headline) == ("bad", "It learned the rows by heart")
    assert verdict.better_step == min(appraisal.evaluations, key=lambda each: each[1])[0] < 300
    ruled: Records = [conversation(f"Color {i}?", "It is " + words[i % 8], row=i) for i in range(1, 31)]
    run = make("learned", records=ruled, **settings, optim={"steps": 20, "learning_rate": 5e-3})
    run.carry_out()
    assert judge(found(run)).headline == "It learned"


def test_a_rate_of_almost_nothing_is_not_called_learning(make: Make) -> None:
    run = make(optim={"learning_rate": 1e-12})
    (told,) = of_kind(run.carry_out(), Appraised)
    assert told.level == "bad" and told.verdict.startswith("It did not learn")


def test_without_held_out_rows_only_the_trained_ones_are_spoken_of(make: Make) -> None:
    run = make(data={"holdout": 0})
    (told,) = of_kind(run.carry_out(), Appraised)
    assert found(run).held_out is None and told.level == "warn" and "none were held out" in told.verdict


# ---- later, from what a run left


@pytest.mark.parametrize(
    "settings",
    [{}, {"lora": {"init": "pissa"}}, {"lora": {"use_dora": True}}, {"lora": {"targets": (*LINEARS, "embed_tokens")}},
     {"lora": {"new_tokens": ["<<x>>"]}}, {"quant": {"bits": 4}}],
    ids=["plain", "pissa", "dora", "embedding", "new tokens", "4 bits"],
)  # fmt: skip
def test_what_is_measured_later_is_what_was_measured_at_the_end(make: Make, settings: dict[str, Any]) -> None:
    run = make(samples={"rows": 1}, **settings)
    run.carry_out()
    at_end, again = found(run), later(run)
    for one, other in ((at_end.trained, again.trained), (at_end.held_out, again.held_out)):
        assert one is not None and other is not None
        assert (one.rows, one.answers) == (other.rows, other.answers)
        assert [one.base_loss, one.loss, one.kl] == pytest.approx([other.base_loss, other.loss, other.kl], abs=2e-3)
    assert again.answers == at_end.answers
    faults = [{module.name: module.fault for module in each.modules} for each in (at_end, again)]
    assert faults[0] == faults[1]
    for module, other_module in zip(at_end.modules, again.modules, strict=True):
        assert module.share == pytest.approx(other_module.share, rel=1e-3, abs=1e-6)


def test_a_whole_model_is_measured_later_with_its_base_gone_before_it_comes(make: Make) -> None:
    run = make(method="full", lora={}, samples={"rows": 1}, optim={"learning_rate": 1e-3})
    events = run.carry_out()
    assert not of_kind(events, Appraising) and read_appraisal(run.folder) is None
    appraisal, evaluations = later(run), of_kind(events, EvalDone)
    assert appraisal.held_out is not None and appraisal.trained is not None
    assert appraisal.held_out.base_loss == pytest.approx(evaluations[0].loss, rel=1e-4)
    assert appraisal.held_out.loss == pytest.approx(evaluations[-1].loss, rel=1e-4)
    assert appraisal.trained.kl > 0.001 and len(appraisal.answers) == 1
    assert appraisal.modules == () and any("for adapters alone" in note for note in appraisal.notes)


def test_a_classifier_is_measured_by_its_rows_and_has_no_answers(classify: Make) -> None:
    run = classify(method="lora")
    events = run.carry_out()
    evaluations, appraisal = of_kind(events, EvalDone), found(run)
    assert appraisal.answers_are == "rows" and appraisal.answers == () and appraisal.held_out is not None
    assert appraisal.held_out.loss == pytest.approx(evaluations[-1].loss, rel=1e-4)
    assert appraisal.held_out.accuracy == evaluations[-1].accuracy
    again = later(run)
    assert again.held_out is not None and again.held_out.kl == pytest.approx(appraisal.held_out.kl, rel=1e-3)


def test_a_whole_classifier_is_measured_later(classify: Make) -> None:
    run = classify()
    last = of_kind(run.carry_out(), EvalDone)[-1]
    appraisal = later(run)
    assert appraisal.held_out is not None and appraisal.held_out.accuracy == last.accuracy


def test_the_sample_has_rows_of_its_own_side_alone(make: Make, pristine: LoadedModel) -> None:
    rows = encode(pristine.tokenizer, RECORDS, 512).rows
    split = hold_out(rows, 0.2, 3)
    trained, held = ({tuple(row.tokens) for row in chosen(side, 3, AT_END)} for side in (split.train, split.held))
    assert trained and held and not trained & held


def test_a_note_is_made_of_an_answer_that_could_not_be_written(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(appraising.Sampler, "ask", lambda *_: iter([Note(text="No samples are written")]))
    run = make(samples={"rows": 1})
    run.carry_out()
    assert found(run).notes == later(run).notes[:1] == ("No samples are written",) and found(run).answers == ()


def test_a_folder_is_left_as_it_was_found(make: Make) -> None:
    run = make()
    run.carry_out()
    before = sorted(path.name for path in run.folder.iterdir())
    later(run)
    assert sorted(Path(path).name for path in run.folder.iterdir()) == before
