"""What all tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser


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
