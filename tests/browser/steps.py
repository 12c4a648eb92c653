"""What a person does on the pages, as functions."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import Page, expect

RUN_ID = re.compile(r"/runs\?run=(\w+)")
LOADED_MILLISECONDS = 60_000


def open_train(page: Page, url: str) -> None:
    page.goto(url)
    expect(page.locator("#model-status")).to_contain_text("parameters", timeout=LOADED_MILLISECONDS)


def upload(page: Page, path: Path) -> None:
    page.locator("#dataset-upload input[type=file]").first.set_input_files(path)


def choose_bits(page: Page, bits: int) -> None:
    page.locator("#setting-quant-bits").get_by_text(f"{bits}-bit", exact=True).click()


def wait_for_launch(page: Page) -> None:
    """Until nothing is missing any more and Launch can be pressed."""
    button = page.locator("#launch")
    expect(button).to_be_enabled(timeout=LOADED_MILLISECONDS)
    expect(button).to_have_text("Launch")


def launch(page: Page) -> str:
    """Press Launch; the run's id, once its page is open."""
    wait_for_launch(page)
    page.locator("#launch").click()
    page.wait_for_url(RUN_ID, timeout=LOADED_MILLISECONDS)
    found = RUN_ID.search(page.url)
    assert found
    return found[1]


def state(page: Page) -> str:
    return str(page.locator("#run-state").get_attribute("data-state", timeout=LOADED_MILLISECONDS))


def expect_state(page: Page, word: str, seconds: float) -> None:
    expect(page.locator("#run-state")).to_have_attribute("data-state", word, timeout=seconds * 1000)


def points(page: Page) -> int:
    """How many points of the training loss are on the chart now."""
    return int(
        page.evaluate(
            """() => {
                const plot = document.querySelector('#chart-loss .js-plotly-plot');
                const trace = plot && plot.data && plot.data.find((one) => /train/i.test(one.name));
                if (!trace) return 0;
                return trace.x.length ?? Object.values(trace.x.bdata ?? {}).length;
            }"""
        )
    )


def wait_for_points(page: Page, more_than: int, seconds: float) -> int:
    page.wait_for_function(
        """(least) => {
            const plot = document.querySelector('#chart-loss .js-plotly-plot');
            const trace = plot && plot.data && plot.data.find((one) => /train/i.test(one.name));
            return trace && trace.x.length > least;
        }""",
        arg=more_than,
        timeout=seconds * 1000,
    )
    return points(page)


def ask(page: Page, prompt: str, panes: int, seconds: float) -> list[str]:
    """Send a prompt; every pane's answer once all have ended."""
    page.locator("#prompt textarea").fill(prompt)
    page.locator("#send").click()
    answers = []
    for index in range(panes):
        pane = page.locator(f"#pane-{index}")
        expect(pane.locator("footer")).to_contain_text("token", timeout=seconds * 1000)
        expect(pane.locator(".growing")).to_have_count(0, timeout=seconds * 1000)
        answers.append(pane.locator(".bubble.assistant").last.inner_text())
    return answers
