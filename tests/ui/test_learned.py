"""The card that says whether a run learned anything: its states, its figures, its map, and what people may type."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.instruments.past_runs import add_past_runs
from core.analysis.appraisal import Answer, Appraisal, Module, Side, write_appraisal
from core.errors import RunError
from core.events import Appraising
from jobs.home import Home
from jobs.journal import EventWriter
from jobs.service import AppraisalView, Service
from jobs.views import RunProblem
from tests.ui.stand_in import XSS
from tests.ui.test_train_page import Names
from ui.pages import module_heat, run_learned
from ui.pages.runs import RunsPage
from ui.story import Stories


def side(base: float, loss: float) -> Side:
    return Side(rows=8, all_rows=20, answers=100, base_loss=base, loss=loss, margin=0.1, kl=0.312, base_accuracy=0.3,
                accuracy=0.62)  # fmt: skip


def module(name: str, share: float | None, **more: Any) -> Module:
    return Module(name=name, change=share, weight=None if share is None else 1.0, **more)


MODULES = tuple(
    module(f"model.layers.{layer}.{kind}", 0.01 * (1 + layer))
    for layer in range(3)
    for kind in ("self_attn.q_proj", "mlp.up_proj")
)
LEARNED = Appraisal(
    step=30, held_out=side(2.41, 1.02), trained=side(2.4, 0.9), modules=MODULES, seconds=3.2,
    answers=(Answer(prompt="Ask", before="Hello", after=""),),
)  # fmt: skip


@pytest.fixture
def page(tmp_path: Path) -> Iterator[RunsPage]:
    service = Service(tmp_path / "home", tmp_path / "models")
    yield RunsPage(service, Stories(service), Names())  # type: ignore[arg-type]
    service.close()


def opened(page: RunsPage, run_id: str) -> dict[str, Any]:
    return page.open(SimpleNamespace(query_params={"run": run_id}))  # type: ignore[arg-type]


def shown(page: RunsPage, view: AppraisalView, share_done: float | None = None, steps: tuple[int, ...] = ()) -> str:
    (run_id,) = add_past_runs(page.service.home, 1, steps=30)
    return run_learned.card(page.service.run(run_id), view, share_done, steps)


def test_a_run_that_was_never_measured_offers_the_one_click_that_does_it(page: RunsPage) -> None:
    (run_id,) = add_past_runs(page.service.home, 1, steps=30)
    news = opened(page, run_id)
    assert 'data-state="absent"' in news["learned"] and "data-appraise" in news["learned"]
    assert "It learned" in news["verdict"], "what the run's own evaluations say stands until then"


def test_what_was_measured_is_shown_once_and_in_one_place(page: RunsPage) -> None:
    (run_id,) = add_past_runs(page.service.home, 1, steps=30)
    write_appraisal(Home(page.service.home).run(run_id).path, LEARNED)
    news = opened(page, run_id)
    assert "<strong>It learned:</strong> 2.41 → 1.02 on 8 of 20 held-out rows." in news["learned"]
    assert "It learned" not in news["verdict"]
    assert set(page.look(news["seen"])) == {"progress"}


def test_a_run_that_goes_on_says_when_it_will_be_measured_and_how_far_that_is(page: RunsPage) -> None:
    (run_id,) = add_past_runs(page.service.home, 1, steps=3, state="running")
    news = opened(page, run_id)
    assert "when the run has made its last step" in news["learned"] and "data-appraise" not in news["learned"]
    with EventWriter(Home(page.service.home).run(run_id).events) as writer:
        writer.write(Appraising(share_done=0.4))
    again = page.look(news["seen"])
    assert "Measuring what it learned" in again["learned"] and 'aria-valuenow="40"' in again["learned"]


def test_a_run_that_did_not_finish_says_what_to_do(page: RunsPage) -> None:
    (run_id,) = add_past_runs(page.service.home, 1, steps=3, state="cancelled")
    assert "Only a run that has finished is measured" in opened(page, run_id)["learned"]


def test_while_it_is_measured_the_page_goes_on_looking_and_offers_to_stop(
    page: RunsPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run_id,) = add_past_runs(page.service.home, 1, steps=30)
    news = opened(page, run_id)
    view = AppraisalView(state="going on", phase="tokenizing", share_done=None)
    monkeypatch.setattr(page.service.appraisals, "of", lambda run: view)
    again = page.look(news["seen"])
    assert "Turning rows into tokens" in again["learned"] and "data-desist" in again["learned"]
    assert again["timer"].active is True and "timer" not in page.look(news["seen"])
    monkeypatch.setattr(page.service.appraisals, "of", lambda run: AppraisalView(state="absent"))
    assert page.look(news["seen"])["timer"].active is False


def test_a_refusal_is_told_in_the_banner_and_its_button_stays(page: RunsPage, monkeypatch: pytest.MonkeyPatch) -> None:
    (run_id,) = add_past_runs(page.service.home, 1, steps=30)
    seen = opened(page, run_id)["seen"]

    def refuse(_: str) -> None:
        raise RunError("A run is going on")

    monkeypatch.setattr(page.service.appraisals, "start", refuse)
    with pytest.raises(RunError):
        page.appraise(seen)


def test_what_failed_is_said_beside_what_was_known_before(page: RunsPage) -> None:
    problem = RunProblem(title="Row 3 is odd", hint="Remove it")
    html = shown(page, AppraisalView(state="failed", problem=problem, appraisal=LEARNED))
    assert "Row 3 is odd" in html and "Remove it." in html and "It learned" in html and "Measure again" in html
    html = run_learned.card(page.service.runs()[0], AppraisalView(state="failed", problem=problem), None, ())
    assert "Row 3 is odd" in html and "data-appraise" in html and "not measured yet" not in html


def test_losses_are_bars_of_one_scale_with_their_figures(page: RunsPage) -> None:
    html = shown(page, AppraisalView(state="done", appraisal=LEARNED))
    assert re.findall(r"width:([\d.]+)%", html) == ["100.0", "42.3", "99.6", "37.3"]
    assert "−1.390 ± 0.100" in html and "0.312" in html and "30.0 % → 62.0 %" in html
    assert "8 of 20 · 100 trained tokens" in html and "It ended at once" in html


def test_a_better_checkpoint_is_a_click_away_while_it_is_kept(page: RunsPage) -> None:
    past = Appraisal(step=30, held_out=side(2.4, 1.2), evaluations=((0, 2.4), (10, 0.9), (30, 1.2)))
    html = shown(page, AppraisalView(state="done", appraisal=past), steps=(10, 30))
    run = page.service.runs()[0]
    assert f'href="/playground?adapters={run.id}:10,{run.adapter_id}"' in html and "Talk to step 10" in html
    gone = run_learned.card(run, AppraisalView(state="done", appraisal=past), None, (30,))
    assert "not kept any more" in gone and "/playground" not in gone


def test_words_of_models_and_people_are_text(page: RunsPage) -> None:
    hostile = Appraisal(
        step=1, answers=(Answer(prompt=XSS, before=XSS, after=XSS),), notes=(XSS,),
        modules=(module(f"layers.0.{XSS}", 0.1), module(XSS, 0.1, fault="exploding", unmeasured=XSS)),
    )  # fmt: skip
    assert XSS not in shown(page, AppraisalView(state="done", appraisal=hostile))


# ---- the map


def test_each_module_has_a_cell_in_its_layers_column() -> None:
    html = module_heat.heat(MODULES)
    names = re.findall(r'heat-name">([^<]+)', html)
    assert names == ["q_proj", "up_proj", "layer"] and html.count("<i style") == 6 and "--layers:3" in html
    assert re.findall(r"--heat:(\d+)%", html) == ["33", "67", "100"] * 2
    assert "model.layers.2.mlp.up_proj: 3.0 %" in html and "<span>0</span><span>2</span>" in html


def test_modules_at_fault_have_a_sign_and_stand_below_by_name() -> None:
    faulty = (
        *MODULES,
        module("model.layers.1.mlp.down_proj", 0.0, fault="unmoved"),
        module("model.layers.2.mlp.down_proj", 3.5, fault="exploding"),
        module("lm_head", None, fault="not finite"),
    )
    html = module_heat.heat(faulty)
    below = html.partition("at-fault")[2]
    for name, words in (("layers.1.mlp.down_proj", "never moved"), ("layers.2.mlp.down_proj", "moved too far, 350.0 %"),
                        ("lm_head", "holds numbers that are not finite")):  # fmt: skip
        assert name in below and words in below
    assert html.count('class="unmoved"') == 2 and html.count('class="not-finite"') == 2  # the cell, and the legend
    assert "--heat:100%" in html, "one that moved too far does not pale the others"


def test_a_layer_without_a_module_has_a_gap_and_names_that_end_alike_are_told_apart() -> None:
    html = module_heat.heat(
        [module("h.0.attn.c_proj", 0.1), module("h.0.mlp.c_proj", 0.2), module("h.4.mlp.c_proj", 0.2)]
    )
    assert re.findall(r'heat-name">([^<]+)', html)[:2] == ["attn.c_proj", "mlp.c_proj"]
    assert html.count('class="none"') == 1 and "<span>0</span><span>4</span>" in html


def test_experts_and_what_could_not_be_measured_are_counted() -> None:
    html = module_heat.heat(
        [module("l.0.experts.up", 0.1, parts=8, unmoved_parts=3), Module(name="x", unmeasured="odd")]
    )
    assert "3 experts never moved" in html and "1 module could not be measured" in html
    assert module_heat.heat(()) == ""
