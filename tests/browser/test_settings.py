"""The form of a run in a real browser: what is changed and goes back, what is suggested, copied, saved, loaded, shown
as a command; each by keyboard, with names that a screen reader reads, on wide and narrow screens, in light and dark.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import BrowserContext, Locator, Page, expect

from core.settings_file import read_settings
from tests.browser import steps
from tests.browser.driver import App
from ui.evidence import EVIDENCE
from ui.settings import SETTINGS

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
SCREENS = ((1280, 900, "light"), (1280, 900, "dark"), (390, 844, "light"), (390, 844, "dark"))
BY_PATH = {setting.path: setting for setting in SETTINGS}
# Of every setting: whether it is named, by what, and whether that and its hint reach who cannot see them.
TIES = """() => [...document.querySelectorAll('.block[id^="setting-"]')].map((block) => {
    const control = block.matches('fieldset') ? block : block.querySelector('input, textarea');
    const words = (name) => (control.getAttribute(name) || '').split(' ').filter(Boolean)
        .map((id) => document.getElementById(id)?.innerText).join(' ');
    return {id: block.id, hint: words('aria-describedby'),
            name: words('aria-labelledby') || control.ariaLabel || control.closest('label')?.innerText || ''};
})"""
# The lowest contrast of a text in the card against what lies behind it.
CONTRAST = """() => {
    const parse = (color) => { const c = document.createElement('canvas').getContext('2d'); c.fillStyle = '#000';
        c.fillStyle = color; c.fillRect(0, 0, 1, 1); return [...c.getImageData(0, 0, 1, 1).data]; };
    const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92
        : ((v + 0.055) / 1.055) ** 2.4).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (node) => { for (let n = node; n; n = n.parentElement) {
        const color = getComputedStyle(n).backgroundColor; const parts = color.match(/[\\d.]+/g) || [];
        if (color !== 'transparent' && !(parts.length === 4 && Number(parts[3]) < 1)) return parse(color); }
        return [255, 255, 255]; };
    const texts = document.querySelectorAll('#changes p, #changes strong, .about summary, .about p, .about .back, '
        + '#suggestion p, #suggestion li, #suggestion summary, .info-text, #save-settings a');
    return Math.min(...[...texts].filter((node) => node.offsetParent).map((node) => {
        const [one, two] = [light(parse(getComputedStyle(node).color)), light(behind(node))].sort((a, b) => b - a);
        return (one + 0.05) / (two + 0.05); }));
}"""


def field(page: Page, path: str) -> Locator:
    return page.locator(f"#{BY_PATH[path].elem_id}")


def number(page: Page, path: str) -> Locator:
    return field(page, path).locator("input[type=number]")


def set_rank(page: Page, rank: int) -> None:
    number(page, "lora.rank").fill(str(rank))
    number(page, "lora.rank").press("Tab")


def open_everything(page: Page) -> None:
    """Both accordions, and all that was measured."""
    for accordion in ("#advanced", "#variants"):
        page.locator(f"{accordion} .label-wrap").click()
    expect(field(page, "quant.skip")).to_be_visible()
    expect(page.locator(".about").first).to_be_attached()


def ready(page: Page, app: App) -> None:
    steps.open_train(page, app.url)
    page.locator("#example-captain").click()
    steps.wait_for_launch(page)


def reach(page: Page, target: Locator) -> None:
    """Press Tab until it has the focus."""
    for _ in range(200):
        if target.evaluate("(node) => node === document.activeElement"):
            return
        page.keyboard.press("Tab")
    pytest.fail(f"Tab does not reach {target}")


def test_every_setting_has_a_name_a_hint_and_its_evidence(shared_app: App, page: Page) -> None:
    ready(page, shared_app)
    open_everything(page)
    ties = {tie["id"]: tie for tie in page.evaluate(TIES)}
    assert set(ties) == {setting.elem_id for setting in SETTINGS}
    for setting in SETTINGS:
        tie = ties[setting.elem_id]
        assert tie["name"].strip() in (setting.title, f"number input for {setting.title}")
        assert "Standard: " in tie["hint"] and len(tie["hint"]) > len("Standard: ") + 8
        evidence = field(page, setting.path).locator(".about details p")
        assert evidence.all_text_contents() == ([EVIDENCE[setting.path]] if setting.path in EVIDENCE else [])


def test_a_change_is_marked_and_goes_back_by_keyboard(shared_app: App, page: Page) -> None:
    ready(page, shared_app)
    changes = page.locator("#changes")
    expect(changes).to_contain_text("Every setting has its standard value")
    set_rank(page, 16)
    steps.choose_bits(page, 4)
    expect(changes).to_contain_text("2 settings changed: Rank, Base precision")
    back = field(page, "lora.rank").locator(".back")
    mark = "(node) => getComputedStyle(node, '::after').content"
    assert "changed" in field(page, "lora.rank").locator("[data-testid=block-info]").evaluate(mark)
    reach(page, back)
    page.keyboard.press("Enter")
    expect(number(page, "lora.rank")).to_have_value("8")
    expect(back).to_be_hidden()
    expect(changes).to_contain_text("1 setting changed: Base precision")
    assert field(page, "lora.rank").evaluate("(node) => node.contains(document.activeElement)")
    changes.locator("button").click()
    expect(changes).to_contain_text("Every setting has its standard value")
    expect(field(page, "quant.bits").locator("label.selected")).to_have_text("16-bit")
    steps.wait_for_launch(page)


def test_the_evidence_opens_by_keyboard_and_stays_open_while_the_value_changes(shared_app: App, page: Page) -> None:
    ready(page, shared_app)
    summary = field(page, "lora.rank").locator("summary")
    reach(page, summary)
    page.keyboard.press("Enter")
    words = field(page, "lora.rank").locator(".about p")
    expect(words).to_be_visible()
    set_rank(page, 4)
    expect(page.locator("#changes")).to_contain_text("1 setting changed")
    expect(words).to_be_visible()


def test_a_suggestion_is_taken(shared_app: App, page: Page) -> None:
    ready(page, shared_app)
    page.locator("#advanced .label-wrap").click()
    number(page, "optim.batch_size").fill("64")
    number(page, "optim.batch_size").press("Tab")
    expect(page.locator("#suggestion")).to_contain_text("For 113 rows")
    reach(page, page.locator("#take-suggestion"))
    page.keyboard.press("Enter")
    expect(page.locator("#suggestion")).to_contain_text("in the form")
    assert int(number(page, "optim.batch_size").input_value()) < 64
    steps.wait_for_launch(page)


def test_settings_are_saved_loaded_and_copied_from_an_earlier_run(app: App, page: Page, tmp_path: Path) -> None:
    ready(page, app)
    expect(page.locator("#earlier-run")).to_be_hidden()
    set_rank(page, 2)
    steps.choose_bits(page, 4)
    expect(page.locator("#changes")).to_contain_text("2 settings changed")
    link = page.locator("#save-settings a")
    with page.expect_download() as saving:
        reach(page, link)
        page.keyboard.press("Enter")
    file = tmp_path / "saved.yaml"
    saving.value.save_as(file)
    assert saving.value.suggested_filename == "the-captain-r2.yaml"
    content = file.read_text(encoding="utf-8")
    assert yaml.safe_load(content) == read_settings(content).values
    assert read_settings(content).values["quant"] == {"bits": 4}

    page.locator("#changes button").click()
    expect(page.locator("#changes")).to_contain_text("Every setting")
    page.locator("#load-settings input[type=file], input[type=file]").last.set_input_files(file)
    expect(page.locator("#filled")).to_contain_text("The form has the settings of the file")
    expect(number(page, "lora.rank")).to_have_value("2")
    expect(page.locator("#changes")).to_contain_text("2 settings changed: Rank, Base precision")

    run = steps.launch(page)
    page.locator("#cancel-run").click()
    steps.expect_state(page, "cancelled", 60)
    steps.open_train(page, app.url)
    expect(number(page, "lora.rank")).to_have_value("8")
    menu = page.locator("#earlier-run input")
    expect(menu).to_be_visible()
    menu.click()
    page.get_by_role("option").filter(has_text="rank, base precision").click()
    expect(page.locator("#filled")).to_contain_text("The form has the settings of the-captain-r2")
    expect(number(page, "lora.rank")).to_have_value("2")
    expect(field(page, "quant.bits").locator("label.selected")).to_have_text("4-bit")
    assert run


def test_settings_in_closed_parts_of_the_page_are_filled_and_go_back(
    shared_app: App, page: Page, tmp_path: Path
) -> None:
    ready(page, shared_app)
    file = tmp_path / "hidden.yaml"
    file.write_text("seed: 7\noptim: {warmup: 0.2, steps: 60}\nlora: {layers: [0, 1]}\ndata: {template: chatml}\n")
    page.locator("#load-settings input[type=file], input[type=file]").last.set_input_files(file)
    changes = page.locator("#changes")
    expect(changes).to_contain_text("5 settings changed: Chat template, Steps, Warm-up, Seed, Layers")
    steps.wait_for_launch(page)
    open_everything(page)
    expect(number(page, "seed")).to_have_value("7")
    expect(field(page, "lora.layers").locator("textarea, input")).to_have_value("0-1")
    for accordion in ("#advanced", "#variants"):
        page.locator(f"{accordion} .label-wrap").click()
    expect(field(page, "seed")).to_be_hidden()
    changes.locator("button").click()
    expect(changes).to_contain_text("Every setting has its standard value")
    open_everything(page)
    expect(number(page, "seed")).to_have_value("0")
    expect(field(page, "lora.layers").locator("textarea, input")).to_have_value("")
    expect(field(page, "seed")).not_to_contain_class("changed")


def test_a_broken_file_is_told_with_its_line_and_the_form_stays(shared_app: App, page: Page, tmp_path: Path) -> None:
    ready(page, shared_app)
    set_rank(page, 2)
    file = tmp_path / "broken.yaml"
    file.write_text("optim:\n  batch_size: 0\n")
    page.locator("#load-settings input[type=file], input[type=file]").last.set_input_files(file)
    expect(page.locator("#banner")).to_contain_text("Batch size is 0")
    expect(page.locator("#banner")).to_contain_text("line 2")
    expect(number(page, "lora.rank")).to_have_value("2")


def test_the_command_is_copied_by_keyboard(shared_app: App, page: Page, context: BrowserContext) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    ready(page, shared_app)
    set_rank(page, 3)
    page.locator("#command .label-wrap").click()
    shown = page.locator("#command-text")
    expect(shown).to_contain_text("--rank 3")
    button = page.locator("#command [data-copy]")
    reach(page, button)
    page.keyboard.press("Enter")
    expect(button).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()").split() == shown.inner_text().split()


@pytest.mark.parametrize(("width", "height", "scheme"), SCREENS)
def test_the_form_fits_and_can_be_read(
    shared_app: App, page: Page, tmp_path: Path, width: int, height: int, scheme: str
) -> None:
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    ready(page, shared_app)
    set_rank(page, 16)
    open_everything(page)
    expect(page.locator("#changes")).to_contain_text("1 setting changed")
    page.evaluate("document.querySelectorAll('#card-lora details').forEach((each) => { each.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    wide = page.evaluate(
        """() => {
            const edge = document.querySelector('#card-lora').getBoundingClientRect().right + 1;
            return [...document.querySelectorAll('#card-lora *')]
                .filter((node) => node.offsetParent && node.getBoundingClientRect().right > edge)
                .map((node) => node.outerHTML.slice(0, 120));
        }"""
    )
    assert wide == []
    assert page.evaluate(CONTRAST) >= 4.5
    folder = Path(os.environ.get("SCREENSHOTS", tmp_path))
    page.locator("#card-lora").screenshot(path=str(folder / f"settings-{width}-{scheme}.png"))
