"""In the Library, a person finds the lines by which a program asks an adapter, and they work."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Watch
from tests.browser.driver import App
from tests.jobs.adapters_on_tiny import put_adapters
from tests.jobs.tiny_model import write_tiny_model

pytestmark = pytest.mark.browser


@pytest.fixture
def served(tmp_path: Path) -> Iterator[App]:
    model = write_tiny_model(tmp_path / "models" / "tiny")
    home = tmp_path / "home"
    put_adapters(home, model, {"captain": 2, "json": 4})
    running = App(home=home, environment={"LORA_WORKBENCH_MODELS": str(model.parent), "OMP_NUM_THREADS": "1"})
    running.start()
    yield running
    running.stop()


def test_the_lines_in_the_library_are_a_program_that_gets_an_answer(
    served: App, page: Page, watch: Watch, tmp_path: Path
) -> None:
    page.goto(f"{served.url}/library")
    card = page.locator(".adapter", has_text="captain")
    expect(card.locator(".serving pre")).to_be_hidden()
    card.get_by_text("Use from your program").focus()
    page.keyboard.press("Enter")
    lines = card.locator(".serving pre")
    expect(lines).to_contain_text(f'base_url="{served.url}/v1"')
    program = tmp_path / "program.py"
    program.write_text(lines.inner_text().replace("messages=", "max_tokens=8, messages="))
    answer = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=120, check=False)
    assert answer.returncode == 0, answer.stderr
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
    card.get_by_role("button", name="Copy").click()
    expect(card.get_by_role("button", name="Copied")).to_be_visible()
