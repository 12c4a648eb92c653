"""Every page, empty, on a wide and a narrow screen, in light and dark; by keyboard; and what a text may not do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser import steps
from tests.browser.conftest import Watch
from tests.browser.driver import App

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
PATHS = ("/", "/runs", "/playground", "/library")
SCREENS = ((1280, 900), (390, 844))
LUMINANCE = """() => {
    const channels = getComputedStyle(document.body).backgroundColor.match(/[\\d.]+/g).map(Number);
    return (channels[0] + channels[1] + channels[2]) / 3;
}"""


def open_page(page: Page, url: str) -> None:
    page.goto(url)
    expect(page.locator("h1").first).to_be_visible(timeout=60_000)
    expect(page.locator("#machine")).to_contain_text("free")


def test_every_page_fits_wide_and_narrow_screens_and_asks_no_other_host(
    app: App, context: BrowserContext, watch: Watch
) -> None:
    for width, height in SCREENS:
        for path in PATHS:
            page = context.new_page()
            page.set_viewport_size({"width": width, "height": height})
            open_page(page, app.url + path)
            overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
            assert overflow <= 0, f"{path} is {overflow} pixels too wide at {width}"
            page.close()
    assert watch.foreign == []


def test_light_and_dark_follow_what_the_person_prefers(app: App, page: Page) -> None:
    page.emulate_media(color_scheme="light")
    open_page(page, app.url)
    assert page.evaluate(LUMINANCE) > 200
    page.emulate_media(color_scheme="dark")
    page.reload()
    expect(page.locator("h1").first).to_be_visible()
    assert page.evaluate(LUMINANCE) < 60


def test_empty_pages_say_what_to_do_next(app: App, page: Page) -> None:
    for path in ("/runs", "/library"):
        open_page(page, app.url + path)
        empty = page.locator(".empty").first
        expect(empty).to_be_visible()
        empty.locator("a").first.click()
        page.wait_for_url(lambda url: url.rstrip("/") == app.url)
    open_page(page, app.url + "/playground")
    expect(page.locator("#playground-hint")).to_contain_text("rain")
    open_page(page, app.url)
    expect(page.locator("#launch")).to_have_text("Choose a dataset")


def test_a_run_can_be_launched_by_keyboard_alone(app: App, page: Page) -> None:
    steps.open_train(page, app.url)
    for goal in ("example-captain", "launch"):
        for _ in range(120):
            if page.evaluate("document.activeElement && document.activeElement.id") == goal:
                break
            page.keyboard.press("Tab")
        else:
            pytest.fail(f"Tab does not reach {goal}")
        page.keyboard.press("Enter")
        if goal == "example-captain":
            steps.wait_for_launch(page)
    page.wait_for_url(steps.RUN_ID, timeout=60_000)
    page.locator("#cancel-run").click()
    steps.expect_state(page, "cancelled", 60)


def test_two_clicks_on_launch_start_one_run(app: App, page: Page) -> None:
    steps.open_train(page, app.url)
    page.locator("#example-captain").click()
    steps.wait_for_launch(page)
    page.evaluate("() => { const button = document.querySelector('#launch'); button.click(); button.click(); }")
    expect(page).to_have_url(steps.RUN_ID, timeout=60_000)  # the second answer may lead to the same address once more
    page.locator("#cancel-run").click()
    steps.expect_state(page, "cancelled", 60)
    page.goto(f"{app.url}/runs")
    expect(page.locator("#run-list a[href*='run=']").first).to_be_visible()
    runs = {link.get_attribute("href") for link in page.locator("#run-list a[href*='run=']").all()}
    assert len(runs) == 1


def test_text_from_a_file_is_text_and_never_markup(app: App, page: Page, tmp_path: Path) -> None:
    attack = '<img src=x onerror="window.p=1"><script>window.p=1</script>'
    path = tmp_path / "attack<img src=x onerror=window.p=1>.jsonl"
    path.write_text(json.dumps({"prompt": attack, "completion": attack}) + "\n", encoding="utf-8")
    steps.open_train(page, app.url)
    steps.upload(page, path)
    expect(page.locator("#dataset-preview")).to_contain_text("onerror")
    page.locator("#run-name input, #run-name textarea").first.fill("<img src=x onerror=window.p=1>")
    page.locator("#run-name input, #run-name textarea").first.press("Tab")
    steps.launch(page)
    expect(page.locator("#run-head")).to_contain_text("onerror")
    page.locator("#cancel-run").click()
    steps.expect_state(page, "cancelled", 60)
    page.goto(f"{app.url}/runs")
    expect(page.locator("#run-list")).to_contain_text("onerror")
    assert page.evaluate("window.p") is None
