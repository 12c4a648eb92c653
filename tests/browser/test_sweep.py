"""Several values at once, on the real page with real runs of a tiny model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from core.events import StepDone
from jobs.service import Service
from tests.browser import steps
from tests.browser.driver import App
from tests.browser.test_queue import end_all
from tests.jobs.tiny_model import write_tiny_model
from tests.jobs.waiting import wait_for

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]
SECOND = 1000


@pytest.fixture
def service(app: App) -> Iterator[Service]:
    """A second hand on the app's home; no run outlives the test."""
    service = Service(app.home)
    yield service
    end_all(service)
    service.close()


@pytest.fixture
def ready(app: App, page: Page, tmp_path: Path) -> Page:
    """The Train page with a small dataset, the tiny model and a few steps."""
    model = write_tiny_model(tmp_path / "tiny")
    rows = [{"prompt": f"What is {i}?", "completion": f"It be {i}."} for i in range(20)]
    file = tmp_path / "numbers.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    service = Service(app.home)
    service.data.add(file)
    service.close()
    steps.open_train(page, app.url)
    page.locator("#model-kind").get_by_text("Model folder").click()
    page.locator("#model-ref textarea, #model-ref input").first.fill(str(model))
    expect(page.locator("#model-status")).to_contain_text("tiny", timeout=30 * SECOND)
    page.locator("#advanced > button").click()
    type_into(page, "#setting-optim-steps", "4")
    steps.wait_for_launch(page)
    page.locator("#sweep > button").click()
    return page


def has_made_a_step(service: Service) -> bool:
    (run,) = service.machine().active_runs
    return any(isinstance(event, StepDone) for event in service.events(run.id)[0])


def type_into(page: Page, place: str, words: str) -> None:
    page.locator(f"{place} input, {place} textarea").first.fill(words)


def launch_says(page: Page, words: str) -> None:
    expect(page.locator("#launch")).to_have_text(words, timeout=20 * SECOND)


def test_a_sweep_is_typed_launched_and_compared(ready: Page, service: Service) -> None:
    page = ready
    type_into(page, "#sweep-lora-rank", "4, 8, x")
    expect(page.locator("#sweep-lora-rank.faulty")).to_contain_text("Rank is 'x'")
    launch_says(page, "Check rank")
    expect(page.locator("#launch")).to_be_disabled()
    type_into(page, "#sweep-lora-rank", "2, 4")
    expect(page.locator(".sweep-count")).to_have_attribute("data-runs", "2")
    type_into(page, "#sweep-seed", "1, 2")
    launch_says(page, "Launch 4 runs")
    expect(page.locator("#sweep-lora-rank.faulty")).to_have_count(0)
    names = page.locator("#sweep-plan tbody tr td:first-child")
    expect(names).to_have_count(4)
    expect(names.first).to_have_text("numbers · r2 · seed 1")
    page.locator("#launch").click()
    page.wait_for_url("**/runs?group=*", timeout=60 * SECOND)
    expect(page.locator(".sweep-head p")).to_contain_text("4 of 4 runs finished", timeout=240 * SECOND)
    assert len(service.runs()) == 4 and len(service.sweeps.groups()) == 1
    group = service.sweeps.group(service.sweeps.groups()[0])
    assert group.best is not None
    expect(page.locator(".figures .is-best a")).to_have_text(group.best.run.name)
    expect(page.locator(".sweep .plot .scatterlayer .point")).to_have_count(2)
    expect(page.locator(".figures").nth(1)).to_contain_text("±")
    page.locator(".best-link").click()
    page.wait_for_url(f"**/?from={group.best.run.id}")
    expect(page.locator("#model-ref textarea, #model-ref input").first).to_have_value(group.best.run.config.base_model)


def test_targets_are_added_with_a_click_and_share_a_budget(ready: Page) -> None:
    page = ready
    for choice in ("q_proj", "q_proj+v_proj", "all attention"):
        page.locator(f'#sweep-target-choices [data-add="{choice}"]').click()
    launch_says(page, "Launch 3 runs")
    expect(page.locator("#sweep-lora-targets input, #sweep-lora-targets textarea").first).to_have_value(
        "q_proj, q_proj+v_proj, all attention"
    )
    type_into(page, "#sweep-budget", "1k")
    expect(page.locator("#sweep-plan tbody")).to_contain_text("q_proj+v_proj · r4", timeout=20 * SECOND)
    expect(page.locator("#sweep-plan tbody")).to_contain_text("numbers · q_proj · r7")
    type_into(page, "#sweep-budget", "300")
    launch_says(page, "Launch 2 runs")
    expect(page.locator(".left-out")).to_contain_text("all attention")
    type_into(page, "#sweep-budget", "lots")
    expect(page.locator("#sweep-budget.faulty")).to_contain_text("The budget is 'lots'")
    launch_says(page, "Check the budget")


def test_a_group_is_stopped_with_one_click(ready: Page, service: Service) -> None:
    page = ready
    type_into(page, "#setting-optim-steps", "100000")
    type_into(page, "#sweep-lora-rank", "2, 4, 8")
    launch_says(page, "Launch 3 runs")
    page.locator("#launch").click()
    page.wait_for_url("**/runs?group=*", timeout=60 * SECOND)
    expect(page.locator(".sweep .chip.running")).to_have_count(1, timeout=90 * SECOND)
    expect(page.locator("[data-end=waiting]")).to_have_text("Cancel the 2 that wait")
    wait_for(lambda: has_made_a_step(service), 60)  # before that there is nothing to keep
    page.locator("[data-end=all]").click()
    expect(page.locator(".sweep .chip.cancelled")).to_have_count(2, timeout=30 * SECOND)
    expect(page.locator(".sweep-head p")).to_contain_text("1 of 3 runs finished", timeout=60 * SECOND)
    expect(page.locator("[data-end]")).to_have_count(0)
    assert [run.state for run in service.sweeps.runs(service.sweeps.groups()[0])] == [
        "finished",
        "cancelled",
        "cancelled",
    ]
