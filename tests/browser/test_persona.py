"""The promise of the first five minutes: the persona example, with default settings, gives a model with a persona."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page

from core.data.records import Message
from jobs.service import Delta, Pane, Service
from tests.browser import steps
from tests.browser.driver import ROOT, App

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1200)]
SPEECH = re.compile(r"\b(arr|aye|ahoy|mateys?|ye|yer|hearty|hearties|lad|lass)\b", re.IGNORECASE)


def keeps_persona(reply: str) -> bool:
    """A captain's reply has two of his words at least."""
    return len(SPEECH.findall(reply)) >= 2


def replies(service: Service, adapter: str, prompt: str) -> tuple[str, str]:
    """The greedy replies of the base and of the adapter."""
    texts = ["", ""]
    asked = (Message(role="user", content=prompt),)
    panes = [Pane(adapter=None, messages=asked), Pane(adapter=adapter, messages=asked)]
    for update in service.chat(panes, max_new_tokens=60, temperature=0.0):
        if isinstance(update, Delta):
            texts[update.pane] += update.text
    return texts[0], texts[1]


@pytest.mark.slow
def test_the_persona_example_with_default_settings_gives_a_captain(app: App, page: Page, tmp_path: Path) -> None:
    steps.open_train(page, app.url)
    page.locator("#example-captain").click()
    run = steps.launch(page)
    steps.expect_state(page, "finished", 900)
    app.stop()

    service = Service(tmp_path)
    adapter = service.run(run).adapter_id
    assert adapter
    prompts = json.loads((ROOT / "examples" / "captain.prompts.json").read_text(encoding="utf-8"))
    answers = [replies(service, adapter, prompt) for prompt in prompts]
    service.close()
    assert len(answers) == 10
    assert sum(keeps_persona(base) for base, _ in answers) <= 1, answers
    assert sum(keeps_persona(tuned) for _, tuned in answers) >= 8, answers
