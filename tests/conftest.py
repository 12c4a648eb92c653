"""What all tests share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What ran: of each folder how many tests passed, and the seconds that they took together."""
    passed, seconds = Counter[str](), Counter[str]()
    for report in (report for reports in terminalreporter.stats.values() for report in reports):
        if isinstance(report, pytest.TestReport):
            folder = "/".join(report.nodeid.split("::")[0].split("/")[:2])
            passed[folder] += report.when == "call" and report.passed
            seconds[folder] += report.duration
    terminalreporter.section("what ran")
    for folder in sorted(passed):
        terminalreporter.line(f"{folder:<32}{passed[folder]:>6,} passed {seconds[folder]:>8.1f} s")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium for all that look at pages: Playwright runs once in a process."""
    from playwright.sync_api import sync_playwright

    from tests.browser.driver import ARGUMENTS, chromium

    with sync_playwright() as playwright:
        instance = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        yield instance
        instance.close()


@pytest.fixture(scope="session")
def starter_folder() -> Path:
    """The starter model in transformers' format; made on first use."""
    from core.models.catalogue import default_models_root
    from core.models.starter import ensure_starter

    return ensure_starter(default_models_root(), lambda _: None)


@pytest.fixture(scope="session")
def tiny_folder(starter_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Llama in fp32 with the starter's tokenizer: small enough to train in a blink."""
    from transformers import AutoTokenizer

    from tests.core.tiny import tiny_llama

    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_llama().save_pretrained(folder)
    AutoTokenizer.from_pretrained(starter_folder).save_pretrained(folder)
    return folder
