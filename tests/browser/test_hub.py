"""Base models and datasets by their ids, from hubs of our own: what the page says of them, and that they come."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser import steps
from tests.browser.driver import App
from tests.core.data.readers.hub_server import HubRepository, serve
from tests.core.models.hub_stand_in import Model, hub
from tests.jobs.tiny_model import write_tiny_model

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
SECOND = 1000


@contextmanager
def app_at(home: Path, hub_address: str, **more: str) -> Iterator[App]:
    """The app, whose hub is the one at that address, with nothing fetched yet."""
    home.mkdir()
    cache = {"HF_HOME": str(home / "hf"), "HF_TOKEN": "", "HF_HUB_OFFLINE": "0"}
    app = App(home=home, environment={"HF_ENDPOINT": hub_address, **cache, **more})
    app.start()
    try:
        yield app
    finally:
        app.stop()


def test_a_model_of_the_hub_tells_its_size_and_licence_and_is_fetched_by_the_run(page: Page, tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    about = {"cardData": {"license": "apache-2.0"}, "config": {"architectures": ["LlamaForCausalLM"]}}
    with hub() as there, app_at(tmp_path / "home", there.url, LORA_WORKBENCH_MODELS=str(tmp_path / "models")) as app:
        there.models["owner/tiny"] = Model(files=files, about=about)
        there.models["owner/gated"] = Model(files=files, about={"gated": "manual"}, access=403)
        page.goto(app.url)
        page.locator("#model-kind").get_by_text("Hugging Face id").click()
        facts = page.locator("#model-facts")
        for name, words in (("owner/nobody", "owner/nobody"), ("owner/gated", "gated"), ("owner/tiny", "apache-2.0")):
            page.locator("#model-ref textarea, #model-ref input").first.fill(name)
            page.locator("#model-ref textarea, #model-ref input").first.press("Enter")
            expect(facts).to_contain_text(words, timeout=30 * SECOND)
        expect(facts).to_contain_text("kB to download")
        page.locator("#example-captain").click()
        page.locator("#advanced > button").click()
        page.locator("#setting-optim-steps input, #setting-optim-steps textarea").first.fill("2")
        steps.launch(page)
        steps.expect_state(page, "finished", 120)


def test_a_dataset_of_the_hub_is_read_by_its_id_and_what_it_will_not_give_is_explained(
    page: Page, tmp_path: Path
) -> None:
    rows = "".join(json.dumps({"prompt": f"Is it {row}?", "completion": f"It is {row}."}) + "\n" for row in range(30))
    files = {"main": {"train.jsonl": rows.encode(), "README.md": b"# Letters"}}
    repositories = {
        "owner/letters": HubRepository(files),
        "owner/closed": HubRepository(files, gated="manual"),
        "owner/halves": HubRepository({"main": {"a.jsonl": rows.encode(), "b.csv": b"x,y\n1,2\n"}}),
    }
    with serve(repositories) as there, app_at(tmp_path / "home", there.address) as app:
        steps.open_train(page, app.url)
        page.locator("#dataset-elsewhere > button").click()
        status = page.locator("#dataset-status")
        for name, words in (("owner/nobody", "owner/nobody"), ("owner/closed", "gated"), ("owner/letters", "30 conv")):
            page.locator("#dataset-place input, #dataset-place textarea").first.fill(name)
            page.locator("#dataset-fetch").click()
            expect(status).to_contain_text(words, timeout=30 * SECOND)
        expect(page.locator("#dataset-choice input")).to_have_value("owner/letters · 30 rows")
        steps.wait_for_launch(page)
