"""A page of the real app in a real browser, watched for what a person would not see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request

from tests.browser.driver import App


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    running = App(home=tmp_path)
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def shared_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """One app for those tests of a file that leave nothing which another would trip over."""
    running = App(home=tmp_path_factory.mktemp("home"))
    running.start()
    yield running
    running.stop()


@dataclass
class Watch:
    """What a page did that a person would not see: requests to elsewhere, and errors in its console."""

    foreign: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def follow(self, page: Page) -> None:
        page.on("request", self._note_request)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _note_request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and parts.hostname != "127.0.0.1":
            self.foreign.append(request.url)


@pytest.fixture
def watch() -> Iterator[Watch]:
    """Follows every page that is given to it; at the end nothing may have left the machine or failed."""
    watching = Watch()
    yield watching
    assert watching.foreign == []
    assert watching.errors == []


@pytest.fixture
def context(browser: Browser, watch: Watch) -> Iterator[BrowserContext]:
    instance = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    instance.set_default_timeout(30_000)
    instance.on("page", watch.follow)
    yield instance
    instance.close()


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.new_page()
