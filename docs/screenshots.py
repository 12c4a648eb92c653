"""Takes the pictures of every page from the real app: `python -m docs.screenshots`.

It opens the workbench on a home folder of its own, trains two small adapters on the examples (minutes on a CPU), and
photographs each page as it is then, wide and narrow, light and dark. `--home DIR` keeps that folder, and takes the
pictures from what it holds already if two adapters are there.
"""

from __future__ import annotations

import argparse
import io
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).parents[1]
PICTURES = Path(__file__).with_name("screenshots")
SIZES = ((1280, 900), (390, 844))
EXAMPLES = (("captain", "The Captain"), ("to_json", "To JSON"))
PROMPT = "What is a star?"
VOTED_ON = ("What is rain?", "What is a door?", "What is music?")
MINUTE = 60_000
SCROLL = """(part) => {  // below the bar, which stays on top
  window.scrollTo(0, document.querySelector(part).getBoundingClientRect().top + window.scrollY - 76);
}"""
POINTS_ON_THE_CHART = """() => {
  const plot = document.querySelector('#chart-loss .js-plotly-plot');
  return plot && plot.data[0].x.length > 30;
}"""


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, help="a home folder to keep; by default one that is thrown away")
    home = parser.parse_args().home
    with tempfile.TemporaryDirectory() as throwaway, workbench(home or Path(throwaway)) as url, chromium() as page:
        take_all(page, url)


def take_all(page: Page, url: str) -> None:
    """Train what is missing, then photograph page after page."""
    page.goto(f"{url}/library")
    expect(page.locator(".adapter, .empty").first).to_be_visible(timeout=MINUTE)
    if page.locator(".adapter").count() < len(EXAMPLES):
        train(page, url, *EXAMPLES[0])
        wait_until_finished(page)
        train(page, url, *EXAMPLES[1])
        page.wait_for_function(POINTS_ON_THE_CHART, timeout=15 * MINUTE)
        photograph(page, "run")
        wait_until_finished(page)
    photograph_train(page, url)
    photograph_library(page, url)
    photograph_runs(page, url)
    photograph_playground(page, url)


def train(page: Page, url: str, key: str, title: str) -> None:
    """Launch a run on an example with the settings as they are."""
    page.goto(url)
    expect(page.locator("#model-status")).to_contain_text("parameters", timeout=MINUTE)
    page.locator(f"#example-{key}").click()
    expect(page.locator("#ready")).to_contain_text(title, timeout=MINUTE)
    page.locator("#launch").click()
    page.wait_for_url("**/runs?run=*", timeout=MINUTE)


def wait_until_finished(page: Page) -> None:
    """Until the run on the page has ended well."""
    expect(page.locator("#run-state")).to_have_attribute("data-state", "finished", timeout=30 * MINUTE)


def photograph_train(page: Page, url: str) -> None:
    """The Train page with a dataset chosen."""
    page.goto(url)
    expect(page.locator("#launch")).to_have_text("Launch", timeout=MINUTE)
    photograph(page, "train")


def photograph_library(page: Page, url: str) -> None:
    """The Library."""
    page.goto(f"{url}/library")
    expect(page.locator(".adapter")).not_to_have_count(0, timeout=MINUTE)
    photograph(page, "library")


def photograph_runs(page: Page, url: str) -> None:
    """The list of runs, the newest of them, and two compared."""
    page.goto(f"{url}/runs")
    expect(page.locator(".run-list a")).not_to_have_count(0, timeout=MINUTE)
    photograph(page, "runs")
    ids = [str(box.get_attribute("value")) for box in page.locator(".pick").all()][:2]
    page.locator(".run-list a").first.click()
    expect(page.locator("#chart-loss .js-plotly-plot")).to_be_visible(timeout=MINUTE)
    photograph(page, "run-finished")
    expect(page.locator("#run-learned h3").first).to_be_visible(timeout=MINUTE)
    photograph(page, "run-learned", "#run-learned")
    page.goto(f"{url}/runs?compare={','.join(ids)}")
    expect(page.locator("#compared-evaluation .js-plotly-plot")).to_be_visible(timeout=MINUTE)
    photograph(page, "runs-compared")


def photograph_playground(page: Page, url: str) -> None:
    """The base and two adapters answering one prompt."""
    page.goto(f"{url}/library")
    expect(page.locator(".adapter")).not_to_have_count(0, timeout=MINUTE)
    ids = [item.get_attribute("data-id") for item in page.locator(".adapter").all()][:2]
    page.goto(f"{url}/playground?adapters={','.join(map(str, ids))}")
    expect(page.locator("#pane-2 .pane")).to_be_visible(timeout=MINUTE)
    ask(page, PROMPT)
    photograph(page, "playground")
    page.locator("#blind input").check()
    for number, prompt in enumerate(VOTED_ON):
        ask(page, prompt)
        expect(page.locator("[data-best]").first).to_be_visible(timeout=MINUTE)
        if number == 0:
            photograph(page, "playground-blind")
        page.locator("[data-best]").nth(number % 2).click()
        expect(page.locator("#votes")).to_contain_text("Voted", timeout=MINUTE)
    page.locator("#who-wins > button").click()
    expect(page.locator("#ranking")).to_contain_text("votes", timeout=MINUTE)
    photograph(page, "playground-votes", "#who-wins")


def ask(page: Page, prompt: str) -> None:
    """Put a question to all panes and wait for their answers."""
    page.locator("#prompt textarea").fill(prompt)
    page.locator("#send").click()
    expect(page.locator("#stop-reply")).to_be_visible(timeout=MINUTE)
    expect(page.locator("#send")).to_be_visible(timeout=10 * MINUTE)


def photograph(page: Page, name: str, part: str = "body") -> None:
    """The page as it is, from `part` on, in both sizes and both lights, as small PNG files."""
    for width, height in SIZES:
        page.set_viewport_size({"width": width, "height": height})
        for light in ("light", "dark"):
            page.evaluate("(dark) => document.body.classList.toggle('dark', dark)", light == "dark")
            page.evaluate(SCROLL, part)
            page.mouse.move(0, 0)
            page.wait_for_timeout(700)
            picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            in_few_colors(picture).save(PICTURES / f"{name}-{width}-{light}.png", optimize=True)
    page.set_viewport_size({"width": SIZES[0][0], "height": SIZES[0][1]})


def in_few_colors(picture: Image.Image) -> Image.Image:
    """The picture in its own 256 most frequent colors: all surfaces stay exact, and only edges of letters give way.

    Pillow's own quantizers shift flat colors by a shade, which shows where a card lies on a ground of nearly its color.
    """
    pixels = np.asarray(picture).reshape(-1, 3)
    colors, which, counts = np.unique(pixels, axis=0, return_inverse=True, return_counts=True)
    palette = colors[np.argsort(counts)[::-1][:256]]
    distances = ((colors[:, None, :].astype(int) - palette[None, :, :].astype(int)) ** 2).sum(axis=2)
    indices = distances.argmin(axis=1).astype(np.uint8)[which.reshape(-1)]
    small = Image.frombytes("P", picture.size, indices.tobytes())
    small.putpalette(palette.tobytes())
    return small


@contextmanager
def workbench(home: Path) -> Iterator[str]:
    """The app in a process of its own; its address."""
    PICTURES.mkdir(exist_ok=True)
    home.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "app.py", "ui", "--port", str(port), "--home", str(home)]
    with (home / "app.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    try:
        wait_for_answer(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def wait_for_answer(url: str, process: subprocess.Popen[bytes]) -> None:
    """Until the app answers.

    Raises:
        RuntimeError: it ended, or took longer than a minute.
    """
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise RuntimeError(f"the app did not answer; it ended with {process.poll()}")


@contextmanager
def chromium() -> Iterator[Page]:
    """A page in the system's Chromium."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        raise RuntimeError("no Chromium is installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": SIZES[0][0], "height": SIZES[0][1]})
        browser.close()


if __name__ == "__main__":
    main()
