"""What a person waits for on the first day, measured through the real page in a real browser.

    python app.py bench first_light

- *page answers*: from the start of the process until the page is served (median of `STARTS` starts);
- *page ready*: until its form can be used in the browser, on the same port each time, as a person would (median);
- *app memory*: the app's resident memory with a page open and a run going;
- *first loss*: from pressing Launch until the first point is on the chart;
- *persona run*: from pressing Launch until the persona example has ended, default settings.

Machines differ and are shared; the limits named beside each figure are what the project promises on two CPU cores.
The figures go to `benchmarks/results/first_light.json`.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import psutil
from playwright.sync_api import Page, sync_playwright

from benchmarks.results import keep, note_machine
from tests.browser import steps
from tests.browser.driver import ARGUMENTS, App, chromium, free_port

STARTS = 3
LIMITS = {"page_ready_seconds": 5, "app_memory_mb": 400, "first_loss_seconds": 20, "persona_run_seconds": 180}


def start_seconds(page: Page, home: Path, port: int) -> tuple[float, float]:
    """One start of the app, from its process's first moment to a served page and to a usable form."""
    app = App(home=home, port=port)
    begin = time.monotonic()
    app.start()
    try:
        served = time.monotonic() - begin
        steps.open_train(page, app.url)
        return served, time.monotonic() - begin
    finally:
        app.stop()


def persona_run(page: Page, home: Path) -> dict[str, float]:
    """The persona example from Launch to its end."""
    app = App(home=home)
    app.start()
    try:
        steps.open_train(page, app.url)
        page.locator("#example-captain").click()
        steps.wait_for_launch(page)
        begin = time.monotonic()
        steps.launch(page)
        steps.wait_for_points(page, 0, seconds=600)
        first = time.monotonic() - begin
        assert app.process is not None
        memory = psutil.Process(app.process.pid).memory_info().rss / 1e6
        steps.expect_state(page, "finished", seconds=1800)
        return {
            "first_loss_seconds": first,
            "app_memory_mb": memory,
            "persona_run_seconds": time.monotonic() - begin,
        }
    finally:
        app.stop()


def measure() -> dict[str, float]:
    """All figures."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        page = browser.new_page()
        homes = [Path(folder) / str(index) for index in range(STARTS + 1)]
        for home in homes:
            home.mkdir()
        port = free_port()
        served, ready = zip(*(start_seconds(page, home, port) for home in homes[:STARTS]), strict=True)
        figures = {
            "page_answers_seconds": statistics.median(served),
            "page_ready_seconds": statistics.median(ready),
            "page_ready_first_time_seconds": ready[0],
            **persona_run(page, homes[-1]),
        }
        browser.close()
    return figures


def main() -> None:
    """Measure, print, keep."""
    note_machine()
    figures = measure()
    for name, value in figures.items():
        promise = f"   promised: at most {LIMITS[name]}" if name in LIMITS else ""
        print(f"{name:32} {value:8.1f}{promise}")
    rounded = {name: round(value, 2) for name, value in figures.items()}
    keep("first_light", {"figures": rounded, "promised": LIMITS})


if __name__ == "__main__":
    main()
