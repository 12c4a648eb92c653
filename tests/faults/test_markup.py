"""Markup wherever a person or a file can put a text: the real app and the real browser take it for text everywhere.

A trap is laid in every page before anything else runs there, so that what runs between two looks is seen as well.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, Request, expect

from core.config import RunConfig, parse
from jobs.service import Run, Service
from tests.browser import steps
from tests.browser.driver import App
from tests.jobs.tiny_model import write_tiny_model
from tests.jobs.waiting import wait_for

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

ATTACK = "<img src=x onerror=window.p=1>"
MORE = (
    f'"><svg onload=window.p=1>{ATTACK}<script>window.p=1</script><a href="javascript:window.p=1">[a](javascript:p=1)'
)
MARKDOWN = f"**{ATTACK}** ![x](http://evil.example/x.png) <iframe src=javascript:parent.p=1></iframe>"
PATHS = ("/", "/runs", "/playground", "/library")
TRAP = "Object.defineProperty(window, 'p', {set(value) { window.sprung('p'); }, get() { return undefined; }});"


@dataclass
class Trap:
    """What ran in a page, and what was asked for, that only markup could have brought there."""

    sprung: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def lay(self, context: BrowserContext) -> None:
        context.expose_function("sprung", lambda what: self.sprung.append(what))
        context.add_init_script(TRAP)
        context.on("request", self._note)
        context.on("dialog", lambda dialog: self.sprung.append(dialog.message))

    def _note(self, request: Request) -> None:
        if request.url.endswith(("/x", "/x.png")):
            self.asked.append(request.url)


@pytest.fixture
def trap(context: BrowserContext) -> Iterator[Trap]:
    laid = Trap()
    laid.lay(context)
    yield laid
    assert (laid.sprung, laid.asked) == ([], [])


@pytest.fixture
def service(app: App, tmp_path: Path) -> Iterator[Service]:
    """A second hand on the app's home."""
    running = Service(app.home, tmp_path / "models")
    yield running
    running.close()


def attack_rows(folder: Path, name: str = f"{ATTACK}.jsonl") -> Path:
    """A dataset that wants its markup to be written by heart."""
    folder.mkdir(exist_ok=True)
    file = folder / name
    row = {"prompt": MORE, "completion": ATTACK}
    file.write_text("".join(json.dumps(row) + "\n" for _ in range(8)), encoding="utf-8")
    return file


def attack_config(dataset: str, model: Path, **values: Any) -> RunConfig:
    optim = {"steps": 2, "batch_size": 4, "evaluations": 1, "learning_rate": 0.01, **values.pop("optim", {})}
    return parse({
        "name": ATTACK, "base_model": str(model), "data": {"dataset_id": dataset, "holdout": 0}, "quant": {"bits": 32},
        "lora": {"rank": 2}, "optim": optim, **values,
    })  # fmt: skip


def carried_out(service: Service, config: RunConfig, state: str = "finished") -> Run:
    run = service.submit(config)
    ended = wait_for(lambda: now if (now := service.run(run.id)).is_at_rest else None, 120)
    assert ended.state == state, ended.error
    return ended


def visit(page: Page, url: str) -> None:
    page.goto(url)
    expect(page.locator("h1").first).to_be_visible(timeout=60_000)
    expect(page.locator("#machine")).to_contain_text("free")


def is_text(place: Locator, text: str = ATTACK) -> None:
    """It is shown as it was typed, and nothing in the place was made of it."""
    expect(place).to_contain_text(text, timeout=30_000)
    assert place.locator("img, svg[onload], script, iframe, a[href^='javascript']").count() == 0


def test_the_trap_is_sprung_by_markup_that_is_taken_for_markup(shared_app: App, context: BrowserContext) -> None:
    """What the other tests rely on: the page's policy does not stop such a handler, and the trap notices it."""
    laid = Trap()
    laid.lay(context)
    page = context.new_page()
    visit(page, shared_app.url)
    page.evaluate("(html) => document.body.insertAdjacentHTML('beforeend', html)", ATTACK)
    wait_for(lambda: page.wait_for_timeout(10) is None and laid.sprung and laid.asked)
    assert laid.sprung == ["p"]


def test_a_files_name_and_cells_are_text(app: App, page: Page, trap: Trap, tmp_path: Path) -> None:
    steps.open_train(page, app.url)
    steps.upload(page, attack_rows(tmp_path / "files"))
    preview = page.locator("#dataset-preview")
    is_text(preview)
    is_text(preview, MORE)
    expect(page.locator("#dataset-status")).to_contain_text("8 conversations")
    page.locator("#dataset-choice input").click()
    is_text(page.locator("ul[role=listbox], .options").first, "onerror")
    page.keyboard.press("Escape")
    page.locator("#command button").first.click()
    expect(page.locator("#command")).to_contain_text("onerror")


def test_a_refusals_words_are_text(shared_app: App, page: Page, trap: Trap, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    files = {
        f"columns {ATTACK}.csv": f"{ATTACK},{MARKDOWN.replace(',', ' ')}\n1,2\n",
        f"roles {ATTACK}.jsonl": json.dumps({"messages": [{"role": ATTACK, "content": MORE}]}) + "\n",
        f"broken {ATTACK}.jsonl": f'{{"prompt": {ATTACK}\n',
        f"keys {ATTACK}.json": json.dumps([{ATTACK: MORE}]),
    }
    steps.open_train(page, shared_app.url)
    before, banner = "", page.locator("#dataset-status .banner")
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
        steps.upload(page, folder / name)
        expect(banner).not_to_have_text(before, timeout=30_000)
        is_text(banner, "onerror")
        before = banner.inner_text()


def test_what_is_typed_into_the_form_is_text(shared_app: App, page: Page, trap: Trap) -> None:
    steps.open_train(page, shared_app.url)
    page.locator("#example-captain").click()
    steps.wait_for_launch(page)
    page.locator("#run-name input, #run-name textarea").first.fill(ATTACK)
    page.locator("#model-kind").get_by_text("Model folder", exact=True).click()
    for typed in (f"/{MARKDOWN}", f"/{ATTACK}", MORE):
        box = page.locator("#model-ref textarea, #model-ref input").first
        box.fill(typed)
        box.press("Tab")
        is_text(page.locator("#model-status .banner"), typed.split("http")[0].lstrip("/*")[:20])
    page.locator("#model-kind").get_by_text("SmolLM2 135M", exact=True).click()
    steps.wait_for_launch(page)
    page.locator("#advanced button").first.click()
    page.locator("#variants button").first.click()
    boxes = page.locator("#card-lora textarea:visible, #card-lora input[type=text]:visible")
    expect(boxes.nth(3)).to_be_visible()
    for box in boxes.all():
        for typed in (ATTACK, MARKDOWN):
            if box.is_enabled() and box.get_attribute("readonly") is None and box.get_attribute("role") is None:
                box.fill(typed)
                box.press("Tab")
                page.wait_for_timeout(250)  # a look ahead at the form; what it says is not known beforehand
        box.fill("")


def test_what_an_address_asks_for_is_text(app: App, page: Page, trap: Trap) -> None:
    for path in ("/?from=", "/?base=", "/runs?run=", "/playground?adapters=", "/playground?base="):
        for text in (ATTACK, MARKDOWN, MORE):
            visit(page, f"{app.url}{path}{quote(text)}")
            if "playground" not in path:
                is_text(page.locator("#banner .banner"), text[:20])
    for path in ("/workbench/adapters/", "/workbench/", "/login?next=/"):
        page.goto(f"{app.url}{path}{quote(ATTACK, safe='')}.zip")


def test_a_runs_name_model_log_and_end_are_text(
    app: App, page: Page, trap: Trap, service: Service, tmp_path: Path
) -> None:
    model = write_tiny_model(tmp_path / "files" / ATTACK)
    gone = write_tiny_model(tmp_path / "files" / f"{ATTACK} gone")
    dataset = service.data.add(attack_rows(tmp_path / "files"))
    first = service.submit(attack_config(dataset.id, model, optim={"steps": 400}))
    second = service.submit(attack_config(dataset.id, gone))
    shutil.rmtree(gone)
    done = wait_for(lambda: now if (now := service.run(first.id)).is_at_rest else None, 120)
    failed = wait_for(lambda: now if (now := service.run(second.id)).is_at_rest else None, 120)
    assert (done.state, failed.state) == ("finished", "failed")
    for run in (done, failed):
        with (app.home / "runs" / run.id / "worker.log").open("a") as log:
            log.write(f"{MORE}\n{MARKDOWN}\n")

    visit(page, f"{app.url}/runs")
    is_text(page.locator("#run-list"))
    for run in (done, failed):
        visit(page, f"{app.url}/runs?run={run.id}")
        is_text(page.locator("#run-head"))
        for fold in ("settings", "timeline", "log"):
            page.locator(f"#run-{fold} button").first.click()
        is_text(page.locator("#run-log"), MORE)
        is_text(page.locator("#run-settings"))
    is_text(page.locator("#run-progress .banner"), "gone")
    visit(page, f"{app.url}/?from={done.id}")
    is_text(page.locator("#dataset-preview"))
    visit(page, f"{app.url}/library")
    is_text(page.locator("#adapter-list"))
    page.locator(".rename").first.click()
    page.locator("#rename-name input, #rename-name textarea").first.fill(MARKDOWN[:80])
    page.locator("#rename-save").click()
    is_text(page.locator("#adapter-list"), MARKDOWN[:40])
    visit(page, app.url)


def test_a_chat_is_text_whoever_speaks(app: App, page: Page, trap: Trap, service: Service, tmp_path: Path) -> None:
    """A model that has learned its markup by heart says it; a person says some too."""
    dataset = service.data.add(attack_rows(tmp_path / "files"))
    model = write_tiny_model(tmp_path / "files" / ATTACK)
    parrot = carried_out(service, attack_config(dataset.id, model, method="full", optim={"steps": 300}))
    visit(page, f"{app.url}/playground?base={parrot.adapter_id}")
    is_text(page.locator("#pane-0 header"))
    page.locator("#chat-settings button").first.click()
    page.locator("#chat-system textarea").fill(MARKDOWN)
    page.locator("#chat-system textarea").fill("")
    (answer,) = steps.ask(page, MORE, panes=1, seconds=120)
    assert answer.strip() == ATTACK, "the model was to say the markup itself"
    is_text(page.locator("#pane-0 .bubble.user").first, MORE)
    is_text(page.locator("#pane-0 .bubble.assistant").first)
    page.locator("#prompt textarea").fill(MARKDOWN)
    page.locator("#send").click()
    is_text(page.locator("#pane-0 .bubble.user").nth(1), MARKDOWN)
    for path in PATHS:
        visit(page, app.url + path)
