"""What a person waits for on the first day, measured through the real page in a real browser.

    python app.py bench first_light

- *page ready*: from the start of the process until the page's form can be used (median of `STARTS` starts);
- *app memory*: the app's resident memory with a page open and a run going;
- *first loss*: from pressing Launch until the first point is on the chart;
- *persona run*: from pressing Launch until the persona example has ended, default settings.

Machines differ and are shared; the limits named beside each figure are what the project promises on two CPU cores.
The figures go to `benchmarks/results/first_light.json`.
"""

from __future__ import annotations

import json
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Page, sync_playwright

from tests.browser import steps
from tests.browser.driver import ARGUMENTS, App, chromium

RESULTS = Path(__file__).parent / "results" / "first_light.json"
STARTS = 3
LIMITS = {"page_ready_seconds": 5, "app_memory_mb": 400, "first_loss_seconds": 20, "persona_run_seconds": 180}


def page_ready_seconds(page: Page, home: Path) -> float:
    """One start of the app, from its process's first moment to a usable form."""
    app = App(home=home)
    begin = time.monotonic()
    app.start()
    try:
        steps.open_train(page, app.url)
        return time.monotonic() - begin
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
        starts = [page_ready_seconds(page, home) for home in homes[:STARTS]]
        figures = {"page_ready_seconds": statistics.median(starts), **persona_run(page, homes[-1])}
        browser.close()
    return figures


def main() -> None:
    """Measure, print, keep."""
    figures = measure()
    report: dict[str, Any] = {
        "machine": {"processor": platform.processor() or platform.machine(), "cores": psutil.cpu_count(logical=False)},
        "figures": {name: round(value, 2) for name, value in figures.items()},
        "promised": LIMITS,
    }
    for name, limit in LIMITS.items():
        print(f"{name:24} {figures[name]:8.1f}   promised: at most {limit}")
    RESULTS.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
