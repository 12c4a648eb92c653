"""The Library in a real browser: adapters from elsewhere and out of others, notes, deletion and the way back."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from core.models.catalogue import default_models_root
from jobs.service import Service
from tests.browser.driver import App
from tests.browser.test_hub import app_at
from tests.core.models.hub_stand_in import Model, hub
from tests.jobs.adapters_at_hand import peft_folder, zip_of
from tests.jobs.tiny_model import write_tiny_model

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
SECOND = 1000
MADE = 60 * SECOND


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("peft")
    model = write_tiny_model(folder / "tiny")
    return {name: peft_folder(folder / name, model, seed) for seed, name in enumerate(("captain", "to-json"))}


def open_library(page: Page, app: App, find: str = "") -> None:
    page.goto(f"{app.url}/library{find}")
    expect(page.locator(".adapter, .empty").first).to_be_visible(timeout=MADE)


def upload(page: Page, path: Path) -> None:
    """Drop a file where adapters are added, whose fold is opened if it is not."""
    if not page.locator("#adapter-upload").is_visible():
        page.locator("#adapter-adding > button").click()
    page.locator("#adapter-upload input[type=file]").first.set_input_files(path)


def item(page: Page, name: str) -> Locator:
    return page.locator(".adapter", has=page.get_by_role("heading", name=name, exact=True))


def add(page: Page, folder: Path) -> None:
    upload(page, zip_of(folder))
    expect(page.locator(".list-notice")).to_contain_text(f"{folder.name} is in the library now", timeout=MADE)


def fill(page: Page, name: str, value: str) -> None:
    page.locator(f"#{name} input, #{name} textarea").first.fill(value)


def test_a_zip_of_plain_peft_is_added_and_a_bad_one_is_explained(
    app: App, page: Page, made: dict[str, Path], tmp_path: Path
) -> None:
    open_library(page, app)
    bad = tmp_path / "holiday.zip"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    upload(page, bad)
    expect(page.locator("#adding-status .banner")).to_contain_text("it is a PNG image", timeout=MADE)
    expect(page.locator(".adapter")).to_have_count(0)
    add(page, made["captain"])
    shown = item(page, "captain")
    expect(shown.locator(".lineage")).to_have_text("from captain.zip")
    expect(shown.locator(".adapter-facts")).to_contain_text("4, 8")
    expect(page.locator("#adding-status .banner")).to_have_count(0)
    page.reload()
    expect(item(page, "captain")).to_be_visible(timeout=MADE)


def test_a_name_and_a_note_are_kept_and_found(app: App, page: Page, made: dict[str, Path]) -> None:
    open_library(page, app)
    for folder in made.values():
        add(page, folder)
    item(page, "captain").locator(".rename").click()
    fill(page, "rename-name", "Old sailor")
    fill(page, "adapter-note", "Best at rank 4.\nTry more rows.")
    page.locator("#rename-save").click()
    expect(item(page, "Old sailor").locator(".adapter-note")).to_contain_text("Try more rows.")
    fill(page, "library-search", "more rows")
    expect(page.locator(".adapter")).to_have_count(1)
    fill(page, "library-search", "nobody has this")
    expect(page.locator(".empty")).to_contain_text("Nothing found")
    open_library(page, app, "?find=sailor")
    expect(page.locator(".adapter")).to_have_count(1)
    expect(page.locator("#library-search input, #library-search textarea").first).to_have_value("sailor")


def test_ticked_adapters_are_combined_and_the_result_is_shrunk(app: App, page: Page, made: dict[str, Path]) -> None:
    open_library(page, app)
    for folder in made.values():
        add(page, folder)
    for name in ("captain", "to-json"):
        item(page, name).locator(".pick").check()
    expect(page.locator("#compare-selected")).to_have_text("Compare 2 adapters")
    page.locator("#combine-selected").click()
    fill(page, "combine-weight-1", "0.5")
    fill(page, "combine-name", "Both")
    expect(page.locator("#combine-when")).to_contain_text("Keeps everything")
    page.locator("#combine-how").get_by_text("TIES", exact=True).click()
    expect(page.locator("#combine-density")).to_be_visible()
    page.locator("#combine-how").get_by_text("Exact sum", exact=True).click()
    expect(page.locator("#combine-density")).to_be_hidden()
    page.locator("#combine-make").click()
    both = item(page, "Both")
    expect(both.locator(".lineage")).to_contain_text("exact sum", timeout=MADE)
    expect(both.locator(".lineage a")).to_have_count(2)
    expect(both.locator(".adapter-facts")).to_contain_text("8, 8")
    expect(page.locator("#combining")).to_be_hidden()
    for name in ("captain", "to-json"):
        item(page, name).locator(".pick").uncheck()
    both.locator(".pick").check()
    page.locator("#shrink-selected").click()
    figure = page.locator("#shrink-figure")
    expect(figure).to_contain_text("Rank 4 keeps", timeout=MADE)
    fill(page, "shrink-rank", "2")
    expect(figure).to_contain_text("Rank 2 keeps")
    said = figure.inner_text().split("keeps ")[1].split(" of")[0]
    fill(page, "shrink-name", "Small")
    page.locator("#shrink-make").click()
    expect(item(page, "Small").locator(".lineage")).to_contain_text(f"at rank 2, keeps {said}", timeout=MADE)


def test_what_cannot_be_combined_is_explained(app: App, page: Page, made: dict[str, Path], tmp_path: Path) -> None:
    other = peft_folder(tmp_path / "other", write_tiny_model(tmp_path / "tiny"), base="somebody/else")
    open_library(page, app)
    for folder in (made["captain"], other):
        add(page, folder)
    expect(item(page, "other").locator(".missing-base")).to_contain_text("fetched when it is used")
    for name in ("captain", "other"):
        item(page, name).locator(".pick").check()
    page.locator("#combine-selected").click()
    page.locator("#combine-make").click()
    expect(page.locator("#banner")).to_contain_text("different base models")
    expect(page.locator("#combining")).to_be_visible()


def test_deleting_asks_once_and_can_be_undone_there_and_later(app: App, page: Page, made: dict[str, Path]) -> None:
    open_library(page, app)
    for folder in made.values():
        add(page, folder)
    captain = item(page, "captain")
    captain.locator(".remove").click()
    captain.locator(".remove-not").click()
    expect(captain.locator(".remove")).to_be_focused()
    page.keyboard.press("Enter")
    expect(captain.locator(".remove-sure")).to_be_focused()
    page.keyboard.press("Enter")
    expect(captain).to_have_count(0)
    page.locator(".undo").click()
    expect(captain).to_be_visible()
    captain.locator(".remove").click()
    captain.locator(".remove-sure").click()
    expect(captain).to_have_count(0)
    page.reload()
    page.locator("#trash > button").click()
    expect(page.locator(".deleted")).to_have_count(1, timeout=MADE)
    page.locator(".deleted .restore").click()
    expect(captain).to_be_visible()
    captain.locator(".remove").click()
    captain.locator(".remove-sure").click()
    page.locator(".empty-trash").click()
    page.locator(".empty-sure").click()
    expect(page.locator("#trash-list")).to_contain_text("Nothing was deleted")
    kept = list((app.home / "adapters").iterdir())
    assert len(kept) == 1


def test_an_adapter_of_the_hub_is_added_by_its_id(page: Page, made: dict[str, Path], tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in made["captain"].iterdir()}
    with hub() as there, app_at(tmp_path / "home", there.url) as app:
        there.models["ann/captain"] = Model(files=files)
        there.models["ann/gated"] = Model(files=files, access=403)
        open_library(page, app)
        page.locator("#adapter-adding > button").click()
        for name, words in (("ann/nobody", "The hub has no adapter"), ("ann/gated", "is gated")):
            fill(page, "adapter-place", name)
            page.locator("#adapter-fetch").click()
            expect(page.locator("#adding-status .banner")).to_contain_text(words, timeout=MADE)
        fill(page, "adapter-place", "ann/captain")
        page.locator("#adapter-fetch").click()
        expect(item(page, "captain").locator(".lineage")).to_have_text("from hub ann/captain", timeout=MADE)


def test_two_hundred_adapters_list_within_a_second(app: App, page: Page, made: dict[str, Path]) -> None:
    service = Service(app.home, default_models_root())
    row = {"rank": 4, "alpha": 8.0, "targets": '["q_proj"]', "base_model": "starter", "bytes": 9_000_000}
    for at in range(200):
        values = {**row, "id": f"A{at:03d}", "name": f"adapter {at:03d}", "fingerprint": f"{at:08x}"}
        service._store.shelf.add({**values, "folder": f"adapters/A{at:03d}"})
    service.close()
    open_library(page, app)
    page.evaluate(
        """() => {
            window.shown = new Promise((done) => new MutationObserver((_, watch) => {
                if (document.querySelectorAll('.adapter').length < 100) return;
                watch.disconnect();
                done(performance.now());
            }).observe(document.body, {childList: true, subtree: true}));
            window.clicked = performance.now();
            document.querySelector('.more').click();
        }"""
    )
    assert page.evaluate("() => window.shown.then((at) => at - window.clicked)") < SECOND
    fill(page, "library-search", "A19")
    expect(page.locator(".adapter")).to_have_count(10)
