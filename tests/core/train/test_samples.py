"""Answers to fixed prompts while a run goes on: what they are, and that they leave no trace."""

from __future__ import annotations

import pytest
import torch

from core.adapters.inject import activate
from core.config import SampleConfig
from core.data.records import Passage
from core.data.tokens.encoding import encode
from core.data.tokens.splits import hold_out
from core.data.tokens.templates import render
from core.errors import ConfigError
from core.events import EvalDone, Note, Sample, Saved, StepDone
from core.models.load import LoadedModel
from core.train.samples import LONGEST_PROMPT, MOST_TOKENS, Sampler, asked_after, prompts_of
from tests.core.tiny import adapt, packed_logits
from tests.core.train.running import RECORDS, Make, of_kind, same_bits, same_tensors


@pytest.fixture(autouse=True)
def at_each_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs here are short."""
    monkeypatch.setattr("core.train.samples.SPACING", 1)


def greedy(model: torch.nn.Module, tokens: tuple[int, ...], count: int) -> list[int]:
    """The slow, obvious way: the whole text anew for each token."""
    text = list(tokens)
    for _ in range(count):
        with torch.no_grad():
            text.append(int(packed_logits(model, text)[-1].argmax()))
    return text[len(tokens) :]


@pytest.mark.parametrize(
    "parts",
    [
        {"lora": {"dropout": 0.3}},
        {"lora": {"dropout": 0.3}, "optim": {"checkpointing": True}},
        {"lora": {"use_dora": True}},
        {"quant": {"bits": 4}},
        {"quant": {"bits": 16}},
    ],
    ids=["dropout", "checkpointing", "dora", "4-bit", "16-bit"],
)
def test_training_with_samples_is_to_the_bit_training_without(make: Make, parts: dict[str, object]) -> None:
    without, with_samples = make("without", **parts), make("with", samples={"rows": 2}, **parts)
    plain, asked = without.carry_out(), with_samples.carry_out()
    assert len(of_kind(asked, Sample)) == 2 * len(of_kind(asked, EvalDone)) and not of_kind(plain, Sample)
    assert same_bits(without, with_samples)
    assert [step.loss for step in of_kind(plain, StepDone)] == [step.loss for step in of_kind(asked, StepDone)]
    assert [found.loss for found in of_kind(plain, EvalDone)] == [found.loss for found in of_kind(asked, EvalDone)]


def test_full_fine_tuning_is_asked_too_and_stays_the_same(make: Make) -> None:
    full = {"method": "full", "quant": {"bits": 16}}
    without, with_samples = make("without", **full), make("with", samples={"rows": 1}, **full)
    without.carry_out()
    assert of_kind(with_samples.carry_out(), Sample)
    assert same_tensors(without.model, with_samples.model)


def test_a_run_that_is_resumed_goes_on_asking_the_same(make: Make) -> None:
    straight, stopped = make("straight", samples={"rows": 2}), make("stopped", samples={"rows": 2})
    expected = of_kind(straight.carry_out(), Sample)
    first = of_kind(stopped.carry_out(until_step=3, answer="pause"), Sample)
    assert [*first, *of_kind(stopped.carry_out(), Sample)] == expected
    assert same_bits(straight, stopped)


def test_held_out_rows_are_begun_and_the_user_reads_what_was_asked(make: Make, tiny: LoadedModel) -> None:
    run = make(samples={"rows": 2})
    samples = of_kind(run.carry_out(), Sample)
    held = hold_out(encode(tiny.tokenizer, RECORDS, 1024).rows, 0.2, run.config.seed).held
    prompts = prompts_of(run.config.samples, tiny, RECORDS, held)
    asked = [record.messages[0].content for record in RECORDS]
    assert {sample.prompt for sample in samples} == {prompt.text for prompt in prompts} <= set(asked)
    for prompt in prompts:
        record = RECORDS[asked.index(prompt.text)]
        opening = render(tiny.tokenizer, record.messages[:1], opening=True)
        assert tiny.tokenizer.decode(prompt.tokens) == opening
    assert [(sample.step, sample.number) for sample in samples[:4]] == [(0, 0), (0, 1), (2, 0), (2, 1)]


def test_each_answer_is_the_one_that_the_model_gives_alone(tiny: LoadedModel) -> None:
    adapt(tiny.model)
    activate(tiny.model, "a")
    rows = encode(tiny.tokenizer, RECORDS, 1024).rows
    prompts = prompts_of(SampleConfig(rows=3), tiny, RECORDS, rows)
    sampler = Sampler(tiny, prompts)
    answers = sampler._answers(lambda: None)
    for prompt, answer in zip(prompts, answers, strict=True):
        expected = greedy(tiny.model, prompt.tokens, len(answer))
        assert 1 <= len(answer) <= MOST_TOKENS and answer == expected


def test_own_prompts_take_the_place_of_rows_and_need_none(make: Make) -> None:
    prompts = ["What is a star?", "Say 'hello'.\nTwice."]
    run = make(samples={"prompts": prompts}, data={"holdout": 0})
    events = run.carry_out()
    assert not of_kind(events, EvalDone)
    assert [sample.prompt for sample in of_kind(events, Sample)][:2] == prompts
    assert [saved.step for saved in of_kind(events, Saved)] == [2, 4, 6, 8]


def test_text_that_is_trained_as_a_whole_is_begun_with_some_of_it(tiny: LoadedModel) -> None:
    texts = [Passage(text="The sky is blue and the sea is wide. " * 8, source_row=1)]
    (prompt,) = prompts_of(SampleConfig(rows=1), tiny, texts, encode(tiny.tokenizer, texts, 1024).rows)
    assert texts[0].text.startswith(prompt.text) and len(prompt.tokens) == 24
    (own,) = prompts_of(SampleConfig(prompts=("Once upon",)), tiny, texts, [])
    assert tiny.tokenizer.decode(own.tokens, skip_special_tokens=True) == "Once upon"


def test_a_prompt_that_is_too_long_is_refused_and_a_row_that_is_is_passed_over(tiny: LoadedModel) -> None:
    with pytest.raises(ConfigError, match=f"at most {LONGEST_PROMPT}") as raised:
        prompts_of(SampleConfig(prompts=("word " * 700,)), tiny, RECORDS, [])
    assert raised.value.field == "samples.prompts"


@pytest.mark.parametrize(
    ("evaluations", "asked"),
    [
        ({10, 20, 30, 40}, {0, 30, 40}),
        ({50, 100, 150}, {0, 50, 100, 150}),
        ({2, 4, 6, 8}, {0, 8}),
        (range(1, 61), {0, 25, 50, 60}),
        (set(), {0}),
    ],
)
def test_the_model_is_asked_first_and_last_and_between_them_as_often_as_steps_allow(
    evaluations: set[int], asked: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.train.samples.SPACING", 25)
    assert asked_after(evaluations) == asked


def test_nobody_is_asked_where_that_is_off(make: Make) -> None:
    assert not of_kind(make(samples={"rows": 0}).carry_out(), Sample)


def test_a_stop_while_answering_is_heeded_at_the_next_token(tiny: LoadedModel) -> None:
    prompts = prompts_of(SampleConfig(rows=1), tiny, RECORDS, encode(tiny.tokenizer, RECORDS, 1024).rows)
    asked = 0

    def stop() -> str | None:
        nonlocal asked
        asked += 1
        return "cancel" if asked == 3 else None

    assert list(Sampler(tiny, prompts).ask(0, stop)) == [] and asked == 3


def test_a_model_that_cannot_write_is_told_of_once_and_trains_on(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise TypeError("no cache")

    monkeypatch.setattr("core.train.samples.PaddedBatch", refuse)
    events = make(samples={"rows": 2}).carry_out()
    told = [note.text for note in of_kind(events, Note) if "No samples" in note.text]
    assert told == ["No samples are written: answering, this llama model fails with TypeError"]
    assert events[-1].event == "finished"
