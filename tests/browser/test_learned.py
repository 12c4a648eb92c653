"""Did it learn? On the real page, with the starter: measured by the run itself, and again when somebody asks."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser import steps
from tests.browser.driver import ROOT, App

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
ROWS, RUN_SECONDS, MEASURE_SECONDS = 30, 420, 240
SECOND = 1000


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    lines = (ROOT / "examples" / "captain.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    path = tmp_path / "captain.jsonl"
    path.write_text("".join(lines[:ROWS]), encoding="utf-8")
    return path


def test_a_run_says_what_it_learned_and_is_measured_again_on_request(app: App, page: Page, dataset: Path) -> None:
    steps.open_train(page, app.url)
    steps.upload(page, dataset)
    expect(page.locator("#dataset-status")).to_contain_text(f"{ROWS} conversations")
    run = steps.launch(page)
    card = page.locator("#run-learned")
    expect(card).to_contain_text("when the run has made its last step", timeout=60 * SECOND)
    steps.expect_state(page, "finished", RUN_SECONDS)

    verdict = card.locator(".verdict")
    expect(verdict).to_contain_text("It learned", timeout=30 * SECOND)
    said = verdict.inner_text()
    expect(card.locator(".side")).to_have_count(2)
    expect(card.locator(".heat-row").first.locator("i")).to_have_count(30)  # the starter's layers
    expect(card.locator(".before-after").first).to_contain_text("Base")
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("() => document.documentElement.scrollWidth - innerWidth") <= 0, width

    page.goto(f"{app.url}/runs?run={run}")
    card.get_by_role("button", name="Measure again").focus()
    page.keyboard.press("Enter")
    card.get_by_role("button", name="Stop").click(timeout=30 * SECOND)
    expect(verdict).to_have_text(said, timeout=30 * SECOND)

    (app.home / "runs" / run / "learned.json").unlink()
    page.reload()
    expect(card).to_contain_text("It was not measured yet", timeout=30 * SECOND)
    card.get_by_role("button", name="Measure").click()
    expect(card.locator(".loading")).to_be_visible(timeout=30 * SECOND)
    expect(verdict).to_have_text(said, timeout=MEASURE_SECONDS * SECOND)
