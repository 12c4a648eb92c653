"""Runs that are over, on the real page: found, tagged, compared, and their charts smoothed in the browser alone."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from benchmarks.instruments.past_runs import add_past_runs
from core.events import Note
from jobs.home import Home
from jobs.journal import EventWriter
from jobs.service import Service
from tests.browser.driver import App

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
SECOND = 1000


@pytest.fixture(scope="module")
def runs(shared_app: App) -> list[str]:
    """Sixty runs of 60 steps that have finished."""
    return add_past_runs(shared_app.home, 60, steps=60)


def listed(page: Page) -> list[str]:
    return page.locator(".run-list strong").all_inner_texts()


def drawn(page: Page, chart: str) -> list[list[float]]:
    expect(page.locator(f"{chart} .js-plotly-plot")).to_be_visible(timeout=30 * SECOND)
    found: list[list[float]] = page.evaluate(
        f"() => document.querySelector('{chart} .js-plotly-plot').data.map(s => [...s.y])"
    )
    return found


def test_runs_are_searched_filtered_by_tags_and_turned_page_by_page(
    shared_app: App, page: Page, runs: list[str]
) -> None:
    page.goto(f"{shared_app.url}/runs")
    expect(page.locator(".runs-bar")).to_contain_text("1 to 50 of 60 runs", timeout=30 * SECOND)
    page.locator('[data-turn="1"]').click()
    expect(page.locator(".runs-bar")).to_contain_text("51 to 60 of 60 runs")
    assert listed(page)[-1] == "run 000"
    page.locator("#run-search input, #run-search textarea").first.fill("try number nowhere")
    expect(page.locator(".none-found")).to_contain_text("No run has")
    page.locator("#run-search input, #run-search textarea").first.fill("number 14")
    expect(page.locator(".run-list strong")).to_have_text(["run 014"])
    page.locator("#run-search input, #run-search textarea").first.fill("")
    page.locator('[data-tag="night"]').click()
    expect(page.locator(".runs-bar")).to_contain_text("10 runs found")
    expect(page.locator('[data-tag="night"]')).to_have_attribute("aria-pressed", "true")
    page.locator('[data-tag="night"]').click()
    expect(page.locator(".runs-bar")).to_contain_text("of 60 runs")


def test_tags_and_a_note_are_kept_and_found(shared_app: App, page: Page, runs: list[str]) -> None:
    page.goto(f"{shared_app.url}/runs?run={runs[0]}")
    page.locator("#run-notes > button").click()
    page.locator("#run-own-tags input, #run-own-tags textarea").first.fill("Keeper, <b>bold</b>")
    page.locator("#run-own-note textarea").fill("the one with the lanterns")
    page.locator("#run-save-notes").click()
    expect(page.locator("#run-head .tag")).to_have_text(["keeper", "<b>bold</b>"])
    expect(page.locator("#run-head .run-note")).to_have_text("the one with the lanterns")
    page.locator("#run-own-tags input, #run-own-tags textarea").first.fill("x" * 31)
    page.locator("#run-save-notes").click()
    expect(page.locator("#banner")).to_contain_text("too long")
    page.goto(f"{shared_app.url}/runs")
    page.locator("#run-search input, #run-search textarea").first.fill("lanterns")
    expect(page.locator(".run-list strong")).to_have_text(["run 000"])


def test_runs_are_ticked_across_pages_and_compared_on_one_axis(shared_app: App, page: Page, runs: list[str]) -> None:
    page.goto(f"{shared_app.url}/runs")
    page.locator(f'.pick[value="{runs[59]}"]').check()
    expect(page.locator("#compare-runs")).to_be_hidden()
    page.locator('[data-turn="1"]').click()
    page.locator(f'.pick[value="{runs[0]}"]').check()
    expect(page.locator("#compare-runs")).to_have_text("Compare 2 runs")
    page.locator("#compare-runs").click()
    expect(page.locator("#compare-head h1")).to_have_text("2 runs compared", timeout=30 * SECOND)
    assert len(drawn(page, "#compared-evaluation")) == 2
    across = "() => document.querySelector('#compared-evaluation .js-plotly-plot').data[0].x.at(-1)"
    assert page.evaluate(across) == 60
    page.get_by_label("Tokens", exact=True).check()
    page.wait_for_function(f"({across})() === 60 * 800")
    page.get_by_label("Time", exact=True).check()
    page.wait_for_function(f"Math.abs(({across})() - 60 * 1.1) < 1")
    rows = page.locator("#compare-table").get_by_role("rowheader")
    expect(rows.filter(has_text="Rank")).to_have_count(1)
    expect(rows.filter(has_text="Schedule")).to_have_count(0)
    page.reload()
    expect(page.get_by_label("Time", exact=True)).to_be_checked()


def test_smoothing_and_the_log_axis_are_the_browsers_own_and_remembered(
    shared_app: App, page: Page, runs: list[str]
) -> None:
    asked: list[str] = []
    page.goto(f"{shared_app.url}/runs?run={runs[0]}")
    faint, smooth, held_out = drawn(page, "#chart-loss")
    assert len(faint) == len(smooth) == 60 and faint != smooth and len(held_out) == 11
    page.on("request", lambda request: asked.append(request.url) if "/gradio_api/" in request.url else None)
    slider = page.locator('#chart-tools [data-chart="smoothing"]')
    slider.fill("0")
    page.wait_for_function("() => document.querySelector('#chart-loss .js-plotly-plot').data.length === 2")
    assert drawn(page, "#chart-loss") == [faint, held_out]
    slider.fill("100")
    rough = [abs(after - before) for before, after in zip(smooth, smooth[1:], strict=False)]
    page.wait_for_function("() => document.querySelector('#chart-loss .js-plotly-plot').data.length === 3")
    smoother = drawn(page, "#chart-loss")[1]
    assert sum(abs(after - before) for before, after in zip(smoother, smoother[1:], strict=False)) < sum(rough)
    page.locator('#chart-tools [data-chart="log"]').check()
    kind = "() => document.querySelector('#chart-{} .js-plotly-plot').layout.yaxis.type"
    page.wait_for_function(f"({kind.format('loss')})() === 'log'")
    assert page.evaluate(kind.format("memory")) != "log"
    assert [url for url in asked if "heartbeat" not in url and "machine" not in url and "/queue/" in url] == []
    page.reload()
    expect(slider).to_have_value("100")
    assert drawn(page, "#chart-loss")[1] == smoother and page.evaluate(kind.format("loss")) == "log"


def test_samples_follow_a_slider_and_stay_where_one_looks(shared_app: App, page: Page, runs: list[str]) -> None:
    page.goto(f"{shared_app.url}/runs?run={runs[0]}")
    shown = page.locator(".sample-step:visible")
    expect(shown).to_contain_text("said 60", timeout=30 * SECOND)
    page.locator(".sample-slider").fill("0")
    expect(shown).to_contain_text("said 0.")
    expect(page.locator(".sample-tools output")).to_have_text("no step: the base model")
    expect(shown).to_have_count(1)


def test_a_run_of_a_hundred_thousand_steps_is_shown_whole_and_ticks_on(app: App, page: Page) -> None:
    (run_id,) = add_past_runs(app.home, 1, steps=100_000, state="paused")
    page.goto(f"{app.url}/runs?run={run_id}")
    expect(page.locator("#chart-loss .js-plotly-plot")).to_be_visible(timeout=30 * SECOND)
    steps = page.evaluate("() => [...document.querySelector('#chart-loss .js-plotly-plot').data[0].x]")
    first, last, count = steps[0], steps[-1], len(steps)
    assert (first, last) == (1, 100_000) and 500 < count <= 1001
    page.locator("#run-timeline > button").click()
    with EventWriter(Home(app.home).run(run_id).events) as writer:
        writer.write(Note(text="a word that comes later"))
    expect(page.locator("#run-timeline")).to_contain_text("a word that comes later", timeout=20 * SECOND)


def test_figures_leave_as_a_table(shared_app: App, page: Page, runs: list[str], tmp_path: Path) -> None:
    page.goto(f"{shared_app.url}/runs?run={runs[0]}")
    with page.expect_download() as download:
        page.locator(".chart-files a").first.click()
    path = tmp_path / "figures.csv"
    download.value.save_as(path)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert len(rows) == 61 and rows[-1]["step"] == "60" and float(rows[-1]["eval_loss"]) > 1


def test_a_comparison_of_runs_that_are_not_there_is_a_sentence(shared_app: App, page: Page) -> None:
    Service(shared_app.home).close()
    page.goto(f"{shared_app.url}/runs?compare=a,b")
    expect(page.locator("#banner")).to_contain_text("There is no run a", timeout=30 * SECOND)
