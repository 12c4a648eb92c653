"""An export made, checked and taken home in a real browser, and what the panel looks like while it is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from core.config import parse
from jobs.service import Service
from tests.browser.driver import App
from tests.jobs.tiny_model import write_tiny_model
from tests.jobs.waiting import wait_for

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]
MADE_MILLISECONDS = 120_000


def train(app: App) -> str:
    """An adapter of a tiny model, trained for two steps by the app's own worker; its id."""
    service = Service(app.home)
    folder = service.home.parent / f"{service.home.name}-given"
    write_tiny_model(folder / "tiny")
    rows = [{"prompt": f"{i}?", "completion": f"It be {i}."} for i in range(12)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = service.data.add(folder / "rows.jsonl")
    config = {"base_model": str(folder / "tiny"), "data": {"dataset_id": dataset.id}, "optim": {"steps": 2}}
    service.submit(parse({"name": "captain", **config}))
    wait_for(lambda: len(service.adapters()) == 1, 120)
    (adapter,) = service.adapters()
    service.close()
    return adapter.id


def test_a_form_is_made_its_figure_read_and_the_file_downloaded(page: Page, app: App, tmp_path: Path) -> None:
    train(app)
    page.goto(f"{app.url}/library")
    page.locator(".adapter .formats").click()
    panel = page.locator("#export-panel")
    expect(panel).to_contain_text("Take captain elsewhere")
    expect(panel.locator(".export")).to_have_count(6)
    expect(panel).to_contain_text("No row of the data.")

    item = panel.locator("[data-form=portable]")
    item.locator("[data-do=make]").press("Enter")
    expect(item.locator("[role=status]")).to_be_visible()
    expect(item.locator(".export-figure")).to_contain_text("64 of 64 greedy tokens agree", timeout=MADE_MILLISECONDS)
    expect(item.locator(".export-figure")).to_contain_text("bound")
    with page.expect_download() as waiting:
        item.locator("a[download]").click()
    target = tmp_path / "portable.zip"
    waiting.value.save_as(target)
    assert target.stat().st_size > 1000 and waiting.value.suggested_filename.endswith("-portable.zip")

    page.reload()
    page.locator(".adapter .formats").click()
    expect(item.locator(".export-figure")).to_be_visible()
    page.locator("#push-repo input, #push-repo textarea").first.fill("no-name")
    page.locator("#push").click()
    expect(page.locator("#banner")).to_contain_text("no repository's name")
    page.locator("#export-close").click()
    expect(panel).to_be_hidden()


def test_the_panel_fits_a_narrow_page(page: Page, app: App) -> None:
    train(app)
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{app.url}/library")
    page.locator(".adapter .formats").click()
    expect(page.locator("#export-panel")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
