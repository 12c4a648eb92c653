"""Bad input on the page: one sentence that says what, where and what to do, and nothing that was there is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser import steps
from tests.browser.driver import App

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
GOOD = '{"prompt": "Hello", "completion": "Ahoy"}\n'
# What is uploaded, and the words that must be in the answer.
FILES: dict[str, tuple[bytes, list[str]]] = {
    "empty.jsonl": (b"", ["empty.jsonl", "empty"]),
    "picture.jsonl": (b"\x89PNG\r\n\x1a\n" + bytes(64), ["picture.jsonl", "PNG"]),
    "broken.jsonl": ((GOOD * 6 + '{"prompt": \n' + GOOD).encode(), ["Line 7", "broken.jsonl"]),
    "silent.jsonl": ((GOOD * 2 + '{"prompt": "Hello", "completion": ""}\n').encode(), ["Row 3"]),
    "columns.csv": (b"colour,size\nred,3\n", ["colour", "not clear"]),
}


@pytest.fixture
def train(shared_app: App, page: Page) -> Page:
    steps.open_train(page, shared_app.url)
    return page


def no_traceback(page: Page) -> None:
    text = page.locator("body").inner_text()
    assert "Traceback" not in text and "Something broke" not in text


def test_files_that_cannot_be_trained_on_are_refused_in_a_sentence_each(train: Page, tmp_path: Path) -> None:
    train.locator("#example-captain").click()
    steps.wait_for_launch(train)
    for name, (content, words) in FILES.items():
        path = tmp_path / name
        path.write_bytes(content)
        steps.upload(train, path)
        banner = train.locator("#dataset-status .banner")
        for word in words:
            expect(banner).to_contain_text(word)
        expect(banner.locator(".what-to-do")).not_to_be_empty()
        expect(train.locator("#launch")).to_be_disabled()
        no_traceback(train)
    train.locator("#dataset-choice input").click()
    train.get_by_role("option").get_by_text("The Captain").first.click()
    steps.wait_for_launch(train)


def test_rows_without_an_answer_can_be_left_out_with_one_click(train: Page, tmp_path: Path) -> None:
    path = tmp_path / "silent.jsonl"
    path.write_bytes(FILES["silent.jsonl"][0])
    steps.upload(train, path)
    train.locator("#skip-bad-rows").click()
    expect(train.locator("#dataset-status")).to_contain_text("2 conversations")
    steps.wait_for_launch(train)


def test_settings_outside_what_the_model_allows_are_named_beside_launch(train: Page) -> None:
    train.locator("#example-captain").click()
    steps.wait_for_launch(train)
    rank = train.locator("#setting-lora-rank input[type=number]")
    rank.fill("0")  # and stay there: leaving the box would take it back to the smallest rank there is
    expect(train.locator("#launch")).to_have_text("Check rank")
    expect(train.locator("#ready .banner")).to_contain_text("Rank is 0")
    rank.fill("8")
    rank.press("Tab")
    steps.wait_for_launch(train)
    for box in train.locator("#setting-lora-targets input[type=checkbox]").all():
        box.uncheck()
    expect(train.locator("#launch")).to_have_text("Check target modules")
    expect(train.locator("#ready .banner")).to_contain_text("No target modules are chosen")
    no_traceback(train)


def test_a_model_folder_that_does_not_exist_is_named(train: Page, tmp_path: Path) -> None:
    train.locator("#example-captain").click()
    train.locator("#model-kind").get_by_text("Model folder", exact=True).click()
    missing = str(tmp_path / "no-such-model")
    box = train.locator("#model-ref textarea, #model-ref input").first
    box.fill(missing)
    box.press("Tab")
    banner = train.locator("#model-status .banner")
    expect(banner).to_contain_text("does not exist")
    expect(banner).to_contain_text("no-such-model")
    expect(train.locator("#launch")).to_be_disabled()
    expect(train.locator("#dataset-status")).to_contain_text("conversations")
    no_traceback(train)


@pytest.mark.parametrize("asked", ["from", "base"])
def test_an_address_that_names_what_has_gone_is_told_where_there_is_data_too(
    shared_app: App, train: Page, asked: str
) -> None:
    train.locator("#example-captain").click()
    steps.wait_for_launch(train)
    steps.open_train(train, f"{shared_app.url}/?{asked}=gone")
    steps.wait_for_launch(train)  # by then the dataset has been chosen again
    expect(train.locator("#banner .banner")).to_contain_text("gone")
