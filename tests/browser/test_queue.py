"""The queue, and what a run that died or a full disk offers to do, on the real page over real runs of a tiny model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import BrowserContext, Page, expect

from core.config import parse
from jobs.service import Run, Service
from tests.browser import steps
from tests.browser.conftest import Watch
from tests.browser.driver import App
from tests.jobs.conftest import add_dataset_row, queue_run
from tests.jobs.tiny_model import write_tiny_model
from tests.jobs.waiting import wait_for
from tests.small_disk import fill, small_disk

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
NAMES = "#run-queue .waiting strong"
FOCUS = """() => {
    const row = document.activeElement.closest('.waiting');
    return row && [row.querySelector('strong').textContent, document.activeElement.dataset.to || 'priority'];
}"""
CLICK_AN_OLD_ROW = """(row) => {
    document.querySelector('#run-queue ol').insertAdjacentHTML('afterbegin', row);
    document.querySelector('#run-queue .waiting [data-to=down]').click();
}"""


@pytest.fixture
def service(app: App) -> Iterator[Service]:
    """A second hand on the app's home; no run outlives the test."""
    service = Service(app.home)
    yield service
    end_all(service)
    service.close()


def end_all(service: Service) -> None:
    for run in service.queue():
        service.cancel_run(run.id)
    for run in service.runs():
        if not run.is_at_rest:
            service.cancel_run(run.id)
    wait_for(lambda: all(run.is_at_rest for run in service.runs()), 60)


def submit(service: Service, names: str) -> list[Run]:
    """A run for each letter, each going on for minutes with a checkpoint every few steps."""
    folder = service.home.parent / f"{service.home.name}-given"
    if not folder.exists():
        write_tiny_model(folder / "tiny")
        rows = [{"prompt": f"{i}?", "completion": f"It be {i}."} for i in range(12)]
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        service.data.add(folder / "rows.jsonl")
    common = {
        "base_model": str(folder / "tiny"),
        "data": {"dataset_id": service.data.all()[0].id},
        "lora": {"rank": 4},
        "optim": {"steps": 100_000, "batch_size": 2, "evaluations": 1000},
    }
    return [service.submit(parse({"name": name, **common})) for name in names]


def behind_a_running_one(service: Service, names: str) -> list[Run]:
    """The running one first, then those that wait."""
    runs = submit(service, "R" + names)
    wait_for(lambda: service.run(runs[0].id).state == "running", 60)
    return runs


def open_runs(page: Page, app: App, names: str) -> None:
    page.goto(f"{app.url}/runs")
    expect(page.locator(NAMES)).to_have_text(list(names), timeout=60_000)


def order(service: Service) -> str:
    return "".join(run.name for run in service.queue())


def button(page: Page, name: str, to: str) -> None:
    page.locator(f"#run-queue .waiting:has(strong:text-is('{name}')) [data-to={to}]").click()


def test_two_that_wait_are_moved_and_given_priorities(app: App, service: Service, page: Page) -> None:
    behind_a_running_one(service, "AB")
    open_runs(page, app, "AB")
    expect(page.locator("#run-queue .place")).to_have_text(["Next in the queue", "2nd of 2 in the queue"])
    expect(page.locator("#run-list strong")).to_have_text(["R"])
    button(page, "B", "up")
    expect(page.locator(NAMES)).to_have_text(["B", "A"])
    assert order(service) == "BA"
    page.locator(".waiting:has(strong:text-is('A')) .priority").select_option("High")
    expect(page.locator(NAMES)).to_have_text(["A", "B"])
    assert [(run.name, run.priority) for run in service.queue()] == [("A", 1), ("B", 0)]
    for name, words in (("A", "1"), ("B", "0")):
        expect(page.locator(f".waiting:has(strong:text-is('{name}')) .priority")).to_have_value(words)
    expect(page.locator("#banner .banner")).to_have_count(0)


def test_the_focus_stays_with_the_run_that_is_moved(app: App, service: Service, page: Page) -> None:
    behind_a_running_one(service, "ABC")
    open_runs(page, app, "ABC")
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate(FOCUS) == ["C", "up"]:
            break
    else:
        pytest.fail("Tab does not reach the last run's button")
    for expected in ("ACB", "CAB", "CAB"):
        page.keyboard.press("Enter")
        expect(page.locator(NAMES)).to_have_text(list(expected))
        assert page.evaluate(FOCUS) == ["C", "up"]
    assert order(service) == "CAB"
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    assert page.evaluate(FOCUS) == ["C", "priority"]
    page.keyboard.press("l")  # as in Low
    expect(page.locator(NAMES)).to_have_text(["A", "B", "C"])
    assert page.evaluate(FOCUS) == ["C", "priority"] and order(service) == "ABC"


def test_other_pages_follow_and_the_next_run_leaves_the_queue(
    app: App, service: Service, page: Page, context: BrowserContext
) -> None:
    runs = behind_a_running_one(service, "ABC")
    open_runs(page, app, "ABC")
    other = context.new_page()
    other.goto(f"{app.url}/runs?run={runs[2].id}")
    expect(other.locator("#run-progress")).to_contain_text("2nd of 3 in the queue", timeout=60_000)
    button(page, "B", "front")
    expect(other.locator("#run-progress")).to_contain_text("Next in the queue; starts as soon as the CPU is free")
    service.cancel_run(runs[0].id)
    expect(page.locator(NAMES)).to_have_text(["A", "C"])
    steps.expect_state(other, "running", 60)


def test_a_click_on_a_run_that_has_begun_is_answered_with_a_sentence(app: App, service: Service, page: Page) -> None:
    runs = behind_a_running_one(service, "ABC")
    open_runs(page, app, "ABC")
    row = page.locator("#run-queue .waiting").first.evaluate("(row) => row.outerHTML")
    service.cancel_run(runs[0].id)
    expect(page.locator(NAMES)).to_have_text(["B", "C"])
    page.evaluate(CLICK_AN_OLD_ROW, row)
    expect(page.locator("#banner")).to_contain_text("The run A is not in the queue: it is ")
    assert order(service) == "BC" and "Traceback" not in (app.home / "app.log").read_text()


def test_the_queue_fits_a_narrow_screen_in_both_lights(app: App, service: Service, page: Page, watch: Watch) -> None:
    behind_a_running_one(service, "AB")
    page.set_viewport_size({"width": 390, "height": 844})
    for light in ("light", "dark"):
        page.emulate_media(color_scheme=light)  # type: ignore[arg-type]
        open_runs(page, app, "AB")
        assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
        for control in page.locator("#run-queue .move, #run-queue .priority").all():
            box = control.bounding_box()
            assert box and box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["height"] >= 40 > 38 <= box["width"]
    assert watch.foreign == []


def test_what_a_killed_run_had_learned_is_kept_with_a_click(app: App, service: Service, page: Page) -> None:
    (run,) = submit(service, "R")
    page.goto(f"{app.url}/runs?run={run.id}")
    steps.expect_state(page, "running", 90)
    expect(page.locator("#keep-run")).to_be_hidden()
    wait_for(lambda: list(app.home.glob(f"runs/{run.id}/checkpoints/step-*")), 60)
    psutil.Process(service.run(run.id).pid).kill()
    steps.expect_state(page, "interrupted", 30)
    step = service.run(run.id).checkpoint_step
    expect(page.locator("#run-progress")).to_contain_text(f"What it had learned by step {step:,} is saved")
    expect(page.locator("#resume-run")).to_be_visible()
    page.locator("#keep-run", has_text="Keep the adapter of the last checkpoint").click()
    steps.expect_state(page, "finished", 90)
    expect(page.locator("#run-progress")).to_contain_text(f"Step {step:,} of 100,000")
    expect(page.locator("#download-adapter")).to_be_visible()
    assert [adapter.run_id for adapter in service.adapters()] == [run.id]


@pytest.fixture
def app_on_a_small_disk(tmp_path: Path) -> Iterator[App]:
    with small_disk(tmp_path / "disk", 8) as disk:
        app = App(home=disk / "home")
        app.home.mkdir()
        app.start()
        yield app
        app.stop()


def test_a_full_disk_is_said_on_every_page_for_as_long_as_it_is_full(app_on_a_small_disk: App, page: Page) -> None:
    app = app_on_a_small_disk
    service = Service(app.home)
    add_dataset_row(service._store)
    for name in "AB":  # the service itself would not queue them where there is so little room
        queue_run(service._store, name)
    page.goto(f"{app.url}/runs")
    expect(page.locator(NAMES)).to_have_text(["run A", "run B"], timeout=60_000)
    expect(page.locator("#storage")).to_contain_text("Waiting runs are not started")
    filler = fill(app.home.parent)
    button(page, "run B", "up")
    expect(page.locator("#banner")).to_contain_text("Nothing can be saved")
    page.goto(f"{app.url}/library")
    expect(page.locator("#storage")).to_contain_text("Nothing can be saved", timeout=60_000)
    filler.unlink()
    expect(page.locator("#storage")).to_contain_text("Waiting runs are not started")
    end_all(service)
    expect(page.locator("#storage .banner")).to_have_count(0)
    service.close()
