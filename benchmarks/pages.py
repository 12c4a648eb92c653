"""What a person waits for on the Runs page: a run of 100,000 steps, and 500 runs in a list.

    python app.py bench pages
    python app.py bench pages --quick    a short history and few runs, without a browser; nothing is kept

A run's events are read from its file as the page reads them, in blocks, and beside that line by line; in turns, and the
quicker of `ROUNDS` rounds counts on either side. The page's own work is what its handlers take from a visitor's arrival
until all of the page is told: of a run whose story nobody has asked for yet, as after a start of the app; at a look
later, when one more step is there; of the list of runs with and without their summaries on the disk.

In a browser (where there is one) the clock runs from the address until the chart is drawn to its last step, or until
the runs stand there, the app's own page and Gradio's scripts included. What a long history or many runs cost is the
difference to a run of `SHORT_STEPS` steps and to a list of one run.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.instruments.past_runs import SECONDS, TOKENS, add_past_runs
from benchmarks.results import keep, note_machine
from core.events import StepDone
from jobs.history import Told, one_step, read_history
from jobs.home import Home
from jobs.journal import EventWriter, read_events
from jobs.service import Service
from ui.pages.runs import RunsPage, Seen
from ui.story import Stories, Story

ROUNDS = 5
STEPS, QUICK_STEPS, SHORT_STEPS = 100_000, 1000, 60
RUNS, QUICK_RUNS = 500, 20
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


class _Widgets:
    """Widgets by their names, as handlers answer for them."""

    def __getattr__(self, name: str) -> Any:
        return name


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def in_blocks(path: Path) -> Story:
    """The story as the page makes it."""
    return _told(read_history(path)[0])


def line_by_line(path: Path) -> Story:
    """The same, with an event for each line."""
    events = read_events(path)[0]
    return _told(tuple(one_step(event) if isinstance(event, StepDone) else event for event in events))


def _told(told: tuple[Told, ...]) -> Story:
    story = Story()
    for each in told:
        story.take(each)
    return story


def reading(path: Path) -> dict[str, float]:
    """Both ways through one history."""
    rounds = [(seconds(lambda: in_blocks(path)), seconds(lambda: line_by_line(path))) for _ in range(ROUNDS)]
    assert in_blocks(path) == line_by_line(path)
    quick, slow = (min(times) for times in zip(*rounds, strict=True))
    return {"blocks_seconds": quick, "line_by_line_seconds": slow, "line_by_line_over_blocks": slow / quick}


def run_page(home: Path, run_id: str, steps: int) -> dict[str, float]:
    """A run's page as its handlers make it."""
    service = Service(home)
    try:
        arrivals, looks = [], []
        with EventWriter(Home(home).run(run_id).events) as writer:
            for number in range(steps + 1, steps + 1 + ROUNDS):
                page = RunsPage(service, Stories(service), _Widgets())  # type: ignore[arg-type]
                begin = time.perf_counter()
                news = page.open(SimpleNamespace(query_params={"run": run_id}))  # type: ignore[arg-type]
                arrivals.append(time.perf_counter() - begin)
                writer.write(_step(number))
                looks.append(seconds(lambda page=page, seen=news["seen"]: page.look(seen)))  # type: ignore[misc]
        sent = sum(len(value) for value in news.values() if isinstance(value, str))
        return {"opened_seconds": statistics.median(arrivals), "look_seconds": statistics.median(looks),
                "sent_megabytes": sent / 1e6}  # fmt: skip
    finally:
        service.close()


def _step(number: int) -> StepDone:
    return StepDone(
        step=number, epoch=number / 900, loss=1.0, learning_rate=1e-9, grad_norm=1.0, tokens=TOKENS * number,
        seconds=SECONDS * number, rss_bytes=1_500_000_000,
    )  # fmt: skip


def run_list(home: Path) -> dict[str, float]:
    """The list as its handlers make it: at first from the runs' events, then from their summaries, then once more."""
    first, _, _, service = _visit(home)
    service.close()
    opened, page, seen, service = _visit(home)
    try:
        return {
            "from_events_seconds": first,
            "opened_seconds": opened,
            "look_seconds": statistics.median(seconds(lambda: page.look(seen)) for _ in range(ROUNDS)),
            "search_seconds": seconds(lambda: page.search(seen, "captain style 4")),
        }
    finally:
        service.close()


def _visit(home: Path) -> tuple[float, RunsPage, Seen, Service]:
    """How long a visitor of the list waits after a start of the app, and what they have before them then."""
    service = Service(home)
    page = RunsPage(service, Stories(service), _Widgets())  # type: ignore[arg-type]
    begin = time.perf_counter()
    news = page.open(SimpleNamespace(query_params={}))  # type: ignore[arg-type]
    return time.perf_counter() - begin, page, news["seen"], service


def in_browser(homes: dict[str, Path], runs: dict[str, str]) -> dict[str, float]:
    """Seconds from an address until what it is about can be seen; the median of `ROUNDS` visits each."""
    from playwright.sync_api import sync_playwright

    from tests.browser.driver import ARGUMENTS, App, chromium

    is_drawn = """(last) => {
        const plot = document.querySelector('#chart-loss .js-plotly-plot');
        return plot && plot.data && plot.data[0].x.at(-1) >= last;
    }"""
    figures = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        page = browser.new_page()
        for name, home in homes.items():
            app = App(home=home)
            app.start()
            try:
                page.goto(f"{app.url}/runs")  # the browser has the scripts from here on
                page.wait_for_selector(".run-list .run-item")
                for about, last in ((f"{name}_list", None), (f"{name}_run", STEPS if name == "long" else SHORT_STEPS)):
                    times = []
                    for _ in range(ROUNDS):
                        begin = time.perf_counter()
                        page.goto(f"{app.url}/runs" + ("" if last is None else f"?run={runs[name]}"))
                        if last is None:
                            page.wait_for_selector(".run-list .run-item")
                        else:
                            page.wait_for_function(is_drawn, arg=last)
                        times.append(time.perf_counter() - begin)
                    figures[f"{about}_seconds"] = statistics.median(times)
            finally:
                app.stop()
        browser.close()
    return figures


def measure(folder: Path, *, is_quick: bool) -> dict[str, Any]:
    """All figures."""
    steps, count = (QUICK_STEPS, QUICK_RUNS) if is_quick else (STEPS, RUNS)
    homes = {"long": folder / "long", "short": folder / "short"}
    # Paused, so that nothing starts them and the page goes on looking.
    runs = {"short": add_past_runs(homes["short"], 1, steps=SHORT_STEPS, state="paused")[0]}
    runs["long"] = add_past_runs(homes["long"], 1, steps=steps, state="paused")[0]
    many = folder / "many"
    add_past_runs(many, count, steps=SHORT_STEPS)
    figures: dict[str, Any] = {
        "steps": steps, "runs": count,
        "history": reading(Home(homes["long"]).run(runs["long"]).events),
        "list": run_list(many),
    }  # fmt: skip
    if not is_quick and any(map(shutil.which, BROWSERS)):
        seen = in_browser(homes, runs)
        crowded = in_browser({"many": many}, {"many": Service(many).runs()[0].id})
        figures["browser"] = seen | {"many_list_seconds": crowded["many_list_seconds"]}
        figures["browser"]["long_over_short_seconds"] = seen["long_run_seconds"] - seen["short_run_seconds"]
        figures["browser"]["many_over_one_seconds"] = crowded["many_list_seconds"] - seen["short_list_seconds"]
    figures["page"] = run_page(homes["long"], runs["long"], steps)
    return figures


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="in small; nothing is kept")
    is_quick = parser.parse_args().quick
    note_machine()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), is_quick=is_quick)
    for part in ("history", "page", "list", "browser"):
        for name, value in figures.get(part, {}).items():
            print(f"{part:8} {name:28} {value:10.4f}")
    if not is_quick:
        keep("pages", figures)


if __name__ == "__main__":
    main()
