"""The whole way in a real browser with the real starter model: upload, train, watch, come back, compare, download."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from playwright.sync_api import BrowserContext, Page, expect
from transformers import AutoModelForCausalLM

from core.adapters.inject import activate
from core.adapters.peft_format import load_adapter
from core.models.load import load_model
from tests.browser import steps
from tests.browser.driver import ROOT, App

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
ROWS = 40
RUN_SECONDS = 420


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    lines = (ROOT / "examples" / "captain.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    path = tmp_path / "my-captain.jsonl"
    path.write_text("".join(lines[:ROWS]), encoding="utf-8")
    return path


@pytest.mark.parametrize("bits", [16, pytest.param(4, marks=pytest.mark.slow)])
def test_from_an_uploaded_file_to_a_side_by_side_chat(
    bits: int, app: App, context: BrowserContext, page: Page, dataset: Path, starter_folder: Path, tmp_path: Path
) -> None:
    steps.open_train(page, app.url)
    steps.upload(page, dataset)
    expect(page.locator("#dataset-status")).to_contain_text(f"{ROWS} conversations")
    expect(page.locator("#dataset-preview")).to_contain_text("Aye")
    steps.choose_bits(page, bits)
    run = steps.launch(page)

    seen = steps.wait_for_points(page, 0, RUN_SECONDS)
    more = steps.wait_for_points(page, seen, RUN_SECONDS)
    assert more > seen
    assert steps.state(page) == "running", "points must arrive while the worker runs"

    page.close()
    page = context.new_page()
    page.goto(f"{app.url}/runs")
    page.locator(f"a[href*='{run}']").first.click()
    assert steps.wait_for_points(page, more - 1, RUN_SECONDS) >= more, "the whole history is there again"
    assert steps.state(page) in ("running", "finished")
    steps.expect_state(page, "finished", RUN_SECONDS)

    archive = download(page, tmp_path / "adapter.zip")
    compare(page)
    check_in_peft(archive, starter_folder, tmp_path)


def download(page: Page, target: Path) -> Path:
    with page.expect_download() as waiting:
        page.locator("#download-adapter").click()
    assert waiting.value.suggested_filename.endswith(".zip")
    waiting.value.save_as(target)
    return target


def compare(page: Page) -> None:
    page.locator("#compare").click()
    page.wait_for_url("**/playground?adapters=*")
    expect(page.locator("#pane-1")).to_contain_text("#")
    base, tuned = steps.ask(page, "What is a star?", panes=2, seconds=240)
    assert base and tuned and base != tuned


def check_in_peft(archive: Path, starter_folder: Path, tmp_path: Path) -> None:
    """The adapter in the zip gives, in plain peft, the logits that our engine gives."""
    folder = tmp_path / "unpacked"
    with zipfile.ZipFile(archive) as opened:
        assert set(opened.namelist()) == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
        opened.extractall(folder)
    tokens = torch.tensor([[1, 4093, 198, 1780, 314, 253, 2772, 47, 2, 198, 1, 520, 9531, 198]])
    base = AutoModelForCausalLM.from_pretrained(starter_folder, dtype=torch.float32)
    with torch.inference_mode():
        plain = base(tokens).logits
        theirs = PeftModel.from_pretrained(base, folder).eval()(tokens).logits
        loaded = load_model(starter_folder, dtype=torch.float32)
        activate(loaded.model, load_adapter(loaded.model, folder))
        ours = loaded.model(tokens).logits
    assert (ours - theirs).abs().max() < 1e-4
    assert (plain - theirs).abs().max() > 1e-2, "the adapter changes something"


def test_a_run_outlives_the_app_that_started_it(app: App, page: Page, dataset: Path) -> None:
    steps.open_train(page, app.url)
    steps.upload(page, dataset)
    run = steps.launch(page)
    before = steps.wait_for_points(page, 1, RUN_SECONDS)
    app.kill()
    page.goto("about:blank")  # a page that is open comes back by itself, at a moment of its own
    app.start()
    page.goto(f"{app.url}/runs?run={run}")
    assert steps.wait_for_points(page, before, RUN_SECONDS) > before, "the worker went on, and its history is whole"
    page.locator("#stop-run").click()
    steps.expect_state(page, "finished", 60)
    expect(page.locator("#download-adapter")).to_be_visible()
