"""What the pages show, as far as it can be told without a browser."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from core.config import RunConfig
from core.data.records import Conversation, Labeled, Message, Passage
from core.errors import ConfigError, ModelError
from core.events import EvalDone, Finished, Note, Preparing, Saved
from jobs.service import Estimate, Machine, RunProblem
from tests.ui.stand_in import NOW, XSS, adapter, dataset, model_card, run, run_config
from tests.ui.test_story import started, step, told
from ui.pages import datasets, frame, library_list, queue, ready, run_settings, run_view
from ui.story import Story

ESTIMATE = Estimate(
    trainable_parameters=2_442_240, base_parameters=134_515_008, adapter_bytes=9_800_000, adapted_modules=210
)


def conversation(*contents: str) -> Conversation:
    roles = ("user", "assistant")
    turns = tuple(Message(role=roles[at % 2], content=content) for at, content in enumerate(contents))  # type: ignore[arg-type]
    return Conversation(messages=turns, source_row=7)


def test_the_preview_marks_what_is_trained() -> None:
    html = datasets.preview([conversation("hi", "Ahoy")], 96)
    assert html.count("turn trained") == 1 and "the first 1 of 96" in html
    assert "turn trained" in datasets.preview([Passage(text="all of it", source_row=1)], 1)
    pair = datasets.preview([Labeled(text="a", text_pair="b", label="yes", source_row=1)], 1)
    assert pair.count('class="turn"') == 2 and pair.count("turn trained") == 1


def test_a_datasets_line_counts_what_it_holds_and_what_was_left_out() -> None:
    assert "96 conversations" in datasets.line(dataset(), [conversation("a", "b")])
    line = datasets.line(dataset(rows=1, skipped=3), [Passage(text="x", source_row=1)])
    assert "1 passage ·" in line and "3 rows left out" in line


def test_launch_names_what_is_missing() -> None:
    problem = ConfigError("Rank is 0", field="lora.rank")
    assert ready.launch_label(None, model_card(), None) == "Choose a dataset"
    assert ready.launch_label(dataset(), None, None) == "Choose a base model"
    assert ready.launch_label(dataset(), model_card(), problem) == "Check rank"
    assert ready.launch_label(dataset(), model_card(), ConfigError("x", field="name")) == "Check the run name"
    assert ready.launch_label(dataset(), model_card(), None) == "Launch"


def test_the_ready_card_tells_what_is_trained_and_what_it_costs() -> None:
    html = ready.summary(run_config(lora={"rank": 16}), dataset(), ESTIMATE, None)
    assert "2.4 M of 134.5 M (1.8 %)" in html and "9.8 MB" in html and "rank" in html


def test_the_ready_card_says_when_it_cannot_know_yet() -> None:
    assert "known once the model is here" in ready.summary(run_config(), dataset(), None, None)
    assert "see its card" in ready.summary(None, dataset(), None, ModelError("no such folder"))


def test_steps_are_counted_as_the_loop_will_make_them() -> None:
    assert "about 33" in ready.summary(run_config(), dataset(), ESTIMATE, None)
    assert "<dd>60</dd>" in ready.summary(run_config(optim={"steps": 60}), dataset(), ESTIMATE, None)


def test_a_model_that_is_not_here_is_fetched_later() -> None:
    assert "on this machine" in ready.model_line(model_card())
    assert "fetched when the run starts" in ready.model_line(model_card(()))


@pytest.mark.parametrize(
    ("method", "words"), [("lora", "rank 8"), ("full", "every weight: 210 modules"), ("bitfit", "biases alone: 210")]
)
def test_every_method_is_counted_alike(method: str, words: str) -> None:
    html = ready.summary(run_config(method=method), dataset(), ESTIMATE, None)
    assert words in html and "2.4 M of 134.5 M" in html and "9.8 MB" in html
    story = told(started(), step(1), Saved(step=1, path="x", bytes=5_000_000), finished(1.1, output_bytes=9_800_000))
    tiles = run_view.tiles(run(config=run_config(method=method), state="finished"), story)
    for figure in ("1.0 % of 1,000", "5.0 MB", "9.8 MB", "7.0 GB"):
        assert figure in tiles


def test_a_classifiers_page_tells_its_accuracy_and_why_it_does_not_chat() -> None:
    config = run_config(task="classification")
    story = told(
        started(), EvalDone(step=0, loss=0.7, accuracy=0.5), step(1), EvalDone(step=1, loss=0.3, accuracy=0.925),
        finished(0.3, 0.7),
    )  # fmt: skip
    done = run(config=config, state="finished", ended_at=NOW)
    assert "92.5 %" in run_view.tiles(done, story) and "before: 50.0 %" in run_view.tiles(done, story)
    verdict = run_view.verdict(done, story)
    assert "50.0 % → 92.5 %" in verdict and "no words to chat with" in verdict
    assert "Accuracy" not in run_view.tiles(run(), told(started(), step(1)))


def test_a_whole_models_page_says_what_it_is_good_for() -> None:
    done = run(config=run_config(method="full"), state="finished", ended_at=NOW)
    assert "base model of a new run" in run_view.verdict(done, told(started(), step(1), finished(1.1)))
    assert "Full fine-tuning".lower() in run_view.head(done).lower() and "rank" not in run_view.head(done)
    assert "Rank" not in run_settings.settings(done, told(started()))


def test_the_library_offers_other_formats_for_all_but_whole_models() -> None:
    for one in (adapter(), adapter(task="classification"), adapter(method="bitfit", rank=0, targets=())):
        assert library_list.adapter_list([one], NOW).count('class="as-button small plain formats"') == 1
    assert "plain formats" not in library_list.adapter_list([adapter(method="full", rank=0, targets=())], NOW)
    classifier = library_list.adapter_list([adapter(task="classification")], NOW)
    assert "/playground" not in classifier and 'class="pick"' not in classifier and "Classifier" in classifier
    assert "BitFit" in library_list.adapter_list([adapter(method="bitfit", rank=0, targets=())], NOW)


def test_a_runs_progress_names_its_phase_then_its_step() -> None:
    waiting = run_view.progress(run(state="queued", started_at=None), Story(), NOW)
    assert "Waiting for its turn" in waiting
    loading = told(Preparing(phase="loading", detail="tiny"))
    assert "Loading the model: tiny" in run_view.progress(run(state="preparing"), loading, NOW)
    story = told(started(steps=100), step(40))
    html = run_view.progress(run(), story, NOW + timedelta(seconds=64))
    assert "Step 40 of 100" in html and "1:04 elapsed" in html and "about 0:30 left" in html


def test_a_failed_run_says_what_to_do_and_one_that_goes_on_again_does_not() -> None:
    error = RunProblem(title="The loss became NaN", hint="Lower the learning rate")
    assert "Lower the learning rate." in run_view.progress(run(state="failed", error=error), Story(), NOW)
    assert "NaN" not in run_view.progress(run(state="running", error=error), Story(), NOW)


def finished(eval_loss: float | None, base: float | None = 2.7, output_bytes: int = 0) -> Finished:
    return Finished(
        output="a", steps=1, tokens=50, seconds=1, tokens_per_second=50, peak_rss_bytes=7_000_000_000,
        first_loss=2.0, last_loss=1.0, eval_loss=eval_loss, base_eval_loss=base, output_bytes=output_bytes,
    )  # fmt: skip


def test_the_verdict_is_honest() -> None:
    done = run(state="finished", ended_at=NOW)
    assert "It learned" in run_view.verdict(done, told(started(), step(1), finished(1.1)))
    assert "did not learn" in run_view.verdict(done, told(started(), step(1), finished(2.9)))
    assert "nothing measured" in run_view.verdict(done, told(started(), step(1), finished(None, None)))
    between = run_view.verdict(done, told(started(), step(1), finished(None)))
    assert "stopped after step 1" in between and "2.700" in between
    assert run_view.verdict(run(), told(started(), step(1))) == ""


def test_tiles_compare_with_the_base_model() -> None:
    html = run_view.tiles(run(), told(started(), EvalDone(step=0, loss=2.71), step(1), EvalDone(step=1, loss=1.5)))
    assert "1.500" in html and "base model: 2.710" in html


def test_a_run_shows_its_own_settings() -> None:
    html = run_settings.settings(run(config=run_config(quant={"bits": 4}, seed=42)), told(started(), step(1)))
    assert "4-bit" in html and "42" in html and "90 trained, 6 held out" in html


def test_nothing_a_person_named_is_markup() -> None:
    config: RunConfig = run_config(name=XSS, base_model=XSS)
    bad = run(
        name=XSS, dataset_name=XSS, config=config, state="failed", error=RunProblem(title=XSS, detail=XSS, hint=XSS)
    )
    story = told(Preparing(phase="loading", detail=XSS), Note(text=XSS), started(), step(1))
    pieces = [
        run_view.head(bad), run_view.progress(bad, story, NOW), run_settings.settings(bad, story),
        run_view.timeline(story), run_view.run_list([(bad, story.summary)], NOW), queue.section([bad, bad], 1),
        library_list.adapter_list([adapter(name=XSS, targets=(XSS,))], NOW),
        datasets.preview([conversation(XSS, XSS)], 1), library_list.adapter_list([adapter(id=XSS, name=XSS)], NOW),
        datasets.preview([Labeled(text=XSS, text_pair=XSS, label=XSS, source_row=1)], 1),
        datasets.line(dataset(row_format=XSS), []),
        ready.summary(config, dataset(name=XSS), ESTIMATE, None), ready.command_html(config, ["--data", XSS]),
        frame.machine_line(machine(bad), ""),
    ]  # fmt: skip
    assert all("<img" not in piece and "&lt;img" in piece for piece in pieces)


def machine(*active: object) -> Machine:
    return Machine(
        cpu_count=2,
        memory_total_bytes=24 * 10**9,
        memory_free_bytes=18 * 10**9,
        gpus=(),
        active_runs=active,  # type: ignore[arg-type]
    )


def test_the_machines_line_says_what_it_has_and_does() -> None:
    assert "CPU, 2 cores" in frame.machine_line(machine(), "") and "idle" in frame.machine_line(machine(), "")
    assert "captain-r8, step 3 of 9" in frame.machine_line(machine(run()), ", step 3 of 9")
    assert "captain-r8, step 3 of 9 and 1 more" in frame.machine_line(machine(run(), run()), ", step 3 of 9")
    gpus = [("H100",), ("H100", "H100"), ("H100", "H200")]
    lines = [frame.machine_line(replace(machine(), gpus=names), "") for names in gpus]
    for line, words in zip(lines, ("<span>H100<", "<span>2 × H100<", "<span>2 GPUs<"), strict=True):
        assert words in line


def test_empty_pages_offer_the_one_click_that_fills_them() -> None:
    assert 'href="/"' in library_list.adapter_list([], NOW)
