"""The data card in a real browser: files of many kinds, columns that are asked about, health, tokens, versions."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser import steps
from tests.browser.driver import App

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
PAIRS = [{"prompt": f"Question number {row}?", "completion": f"Answer {row}, and no other."} for row in range(1, 41)]


@pytest.fixture
def train(app: App, page: Page) -> Page:
    steps.open_train(page, app.url)
    return page


def tab(page: Page, name: str) -> None:
    page.locator("#dataset-tabs").get_by_role("tab", name=name).click()


def jsonl(rows: list[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def zipped(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def workbook(rows: list[dict[str, str]]) -> bytes:
    from openpyxl import Workbook

    book, packed = Workbook(), io.BytesIO()
    sheet = book.active
    assert sheet is not None
    sheet.append(list(rows[0]))
    for row in rows:
        sheet.append(list(row.values()))
    book.save(packed)
    return packed.getvalue()


def test_files_of_many_kinds_are_read_and_say_why(train: Page, tmp_path: Path) -> None:
    table = "prompt;completion\n" + "".join(f"{row['prompt']};{row['completion']}\n" for row in PAIRS)
    files = {
        "pairs.jsonl": (jsonl(PAIRS), "40 conversations"),
        "columns.json": (json.dumps({key: [row[key] for row in PAIRS] for key in PAIRS[0]}).encode(), "40 conv"),
        "table.csv": (table.encode("cp1252"), "semicolons"),
        "packed.jsonl.gz": (gzip.compress(jsonl(PAIRS)), "40 conversations"),
        "book.xlsx": (workbook(PAIRS), "40 conversations"),
        "letters.zip": (zipped({"a.txt": b"One.\n\nTwo.", "b.md": b"# Three\n\nFour."}), "passages"),
    }
    for name, (content, words) in files.items():
        (tmp_path / name).write_bytes(content)
        steps.upload(train, tmp_path / name)
        expect(train.locator("#dataset-choice input")).to_have_value(f"{name} · {4 if '.zip' in name else 40} rows")
        expect(train.locator("#dataset-status")).to_contain_text(words)
        steps.wait_for_launch(train)


def test_columns_that_do_not_tell_are_mapped_by_hand_with_a_live_preview(train: Page, tmp_path: Path) -> None:
    path = tmp_path / "sides.csv"
    path.write_text("left,right\n" + "".join(f"Was ist {row}?,Das ist {row}.\n" for row in range(30)))
    steps.upload(train, path)
    panel = train.locator("#mapping")
    expect(panel).to_be_visible()
    expect(train.locator("#launch")).to_be_disabled()
    expect(panel.locator(".turn.trained").first).to_contain_text("Das ist 0.")
    for role, column in ((0, "right"), (1, "left")):
        train.locator(f"#mapping-role-{role} input").click()
        train.locator(f"#mapping-role-{role}").get_by_role("option", name=column).click()
    expect(panel.locator(".turn.trained").first).to_contain_text("Was ist 0?")
    train.locator("#mapping-use").click()
    expect(train.locator("#dataset-preview .turn.trained").first).to_contain_text("Was ist 0?")
    expect(panel).to_be_hidden()
    steps.wait_for_launch(train)


def test_a_kind_of_rows_is_removed_with_one_click_and_the_original_stays(train: Page, tmp_path: Path) -> None:
    path = tmp_path / "copies.jsonl"
    path.write_bytes(jsonl([*PAIRS, PAIRS[4], PAIRS[9]]))
    steps.upload(train, path)
    tab(train, "Health")
    finding = train.locator("#health-duplicates")
    expect(finding).to_contain_text("2 exact duplicates")
    expect(finding).to_contain_text("41")
    finding.get_by_role("link", name="42").click()
    expect(train.locator("#row-number input")).to_have_value("42")
    expect(train.locator("#dataset-preview")).to_contain_text("Question number 10?")
    tab(train, "Health")
    train.locator("#health-keep-duplicates").click()
    expect(finding).to_contain_text("kept")
    expect(train.locator("#health-remove-duplicates")).to_have_count(0)
    train.locator("#health-keep-duplicates").click()
    train.locator("#health-remove-duplicates").click()
    expect(train.locator("#dataset-choice input")).to_have_value("copies.jsonl, version 2 · 40 rows")
    expect(train.locator("#dataset-status")).to_contain_text("without exact duplicates")
    train.locator("#dataset-choice input").click()
    expect(train.get_by_role("option", name="copies.jsonl · 42 rows")).to_be_visible()


def test_a_row_is_shown_as_the_model_will_see_it_and_the_limit_is_a_line(train: Page) -> None:
    train.locator("#example-captain").click()
    tab(train, "Tokens")
    view = train.locator("#tokens-view .token-view")
    expect(view.locator(".tok.special").first).to_have_text("<|im_start|>", timeout=120_000)
    spoken = "".join(view.locator(".tok.trained").all_inner_texts())
    assert "Ahoy" in spoken and "assistant" not in spoken
    expect(train.locator("#tokens-lengths")).to_contain_text("No row is longer")
    line = train.locator("#tokens-lengths .limit")
    box = train.locator("#setting-data-max-tokens input")
    train.locator("#advanced button").first.click()
    box.fill("64")
    expect(train.locator("#tokens-lengths")).to_contain_text("rows cut at 64 tokens")
    expect(view.locator(".tok.cut").first).to_be_attached()
    line.focus()
    line.press("ArrowRight")
    expect(box).not_to_have_value("64")
    box.fill("40")
    drop = train.locator("#tokens-leave-no_labels, #tokens-leave-over_limit").last
    expect(drop).to_be_attached()
    over = train.locator("#tokens-leave-over_limit")
    expect(over).to_contain_text("over the limit")


def test_the_limits_line_is_dragged(train: Page) -> None:
    train.locator("#example-captain").click()
    tab(train, "Tokens")
    picture = train.locator("#tokens-lengths svg")
    expect(picture).to_be_visible(timeout=120_000)
    train.locator("#advanced button").first.click()
    picture.scroll_into_view_if_needed()
    place = picture.bounding_box()
    assert place is not None
    last = int(picture.get_attribute("data-last") or 0)
    train.mouse.move(place["x"] + place["width"] - 2, place["y"] + place["height"] / 2)
    train.mouse.down()
    train.mouse.move(place["x"] + place["width"] / 4, place["y"] + place["height"] / 2, steps=4)
    train.mouse.up()
    tokens = int(train.locator("#setting-data-max-tokens input").input_value())
    assert abs(tokens - last / 4) <= last / 20
    expect(train.locator("#tokens-lengths figcaption")).to_contain_text(f"Token limit: {tokens}")


def test_a_preset_and_the_models_tree_say_the_same_as_the_form(train: Page) -> None:
    train.locator("#example-captain").click()
    steps.wait_for_launch(train)
    train.locator("#tree button").first.click()
    figures = train.locator("#adapter-figures")
    expect(figures).to_contain_text("210 modules")
    train.locator("#preset-small_machine, #preset-small-machine, #preset-small").first.click()
    expect(figures).to_contain_text("60 modules")
    boxes = train.locator("#setting-lora-targets label.selected")
    expect(boxes).to_have_count(2)
    row = train.locator('#module-tree [role="treeitem"]', has_text="o_proj").last
    row.click()
    expect(figures).to_contain_text("90 modules")
    expect(boxes).to_have_count(3)


def test_a_reload_finds_the_dataset_and_a_phone_shows_the_card_whole(train: Page, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(jsonl(PAIRS))
    steps.upload(train, path)
    steps.wait_for_launch(train)
    train.set_viewport_size({"width": 390, "height": 844})
    train.emulate_media(color_scheme="dark")
    train.reload()
    expect(train.locator("#dataset-status")).to_contain_text("40 conversations")
    wide = train.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0
