"""What a run will cost, on the real page: estimated, measured by a real trial step, and made to fit with a click."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser import steps
from tests.browser.driver import App
from tests.jobs.tiny_model import write_tiny_model

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
SECOND = 1000


@pytest.fixture
def train(app: App, page: Page) -> Page:
    steps.open_train(page, app.url)
    return page


def set_number(page: Page, setting: str, value: int) -> None:
    page.locator(f"#setting-{setting} input").first.fill(str(value))


def test_an_estimate_stands_beside_what_a_trial_step_measured(train: Page, tmp_path: Path) -> None:
    cost = train.locator("#cost")
    expect(cost.locator(".cost")).to_have_count(0)
    train.locator("#model-kind").get_by_text("Model folder").click()
    train.locator("#model-ref textarea, #model-ref input").first.fill(str(write_tiny_model(tmp_path / "tiny")))
    train.locator("#example-captain").click()
    expect(cost.locator(".cost-head")).to_contain_text("estimated", timeout=60 * SECOND)
    for part in ("Weights", "Adapter", "Optimizer", "Activations", "Logits"):
        expect(cost).to_contain_text(part)
    expect(cost).to_contain_text("A trial step takes the longest rows through once")
    train.locator("#cost-measure").click()
    expect(train.locator("#cost-stop")).to_be_visible(timeout=30 * SECOND)
    expect(cost).to_contain_text("Measured on a batch of", timeout=120 * SECOND)
    expect(cost.locator(".cost-head")).to_contain_text("measured")
    expect(cost).to_contain_text("tokens a second")
    expect(cost.locator(".cost-mark.measured")).to_have_count(1)
    expect(train.locator("#cost-measure")).to_be_hidden()


def test_what_does_not_fit_says_so_on_the_button_and_is_made_to_fit_with_clicks(train: Page, tmp_path: Path) -> None:
    file = tmp_path / "long.jsonl"
    rows = [{"prompt": "Tell all", "completion": f"word {row} " * 100_000} for row in range(4)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    steps.upload(train, file)
    steps.wait_for_launch(train)
    train.locator("#advanced > button").click()
    set_number(train, "data-max-tokens", 130_000)
    set_number(train, "optim-micro-tokens", 130_000)
    launch, cost = train.locator("#launch"), train.locator("#cost")
    expect(launch).to_contain_text("of memory missing", timeout=60 * SECOND)
    expect(launch).to_be_enabled()
    expect(cost.locator(".cost-head")).to_contain_text("Does not fit")
    enough = cost.locator(".cost-fixes li", has_text="fits then")
    expect(enough.first).to_be_visible()
    enough.first.locator("button").click()
    expect(launch).to_have_text("Launch", timeout=60 * SECOND)
    expect(cost.locator(".cost-head")).not_to_contain_text("Does not fit")
