"""Fifty browsers at once, for minutes, against an app with a run going and a chat streaming.

    python -m tests.load --clients 50 --seconds 300 [--seed N]

The app is the real one, in a process of its own on a fresh home; the run and the chat are real, of the tiny model. Each
client is a person who goes from page to page, each page a tab with a session of its own (`tests.tab`): looks at the
runs or at one, fills the form in, drops a file with a broken row, asks the Playground, is about to rename an adapter.
At the end these promises are looked at:

- nothing failed: every answer is 200 and no error banner, no stream ended early, no traceback is in the app's log;
- of every kind of answer, 95 % came within a second;
- the app's memory does not grow. Before it is measured, as many pages were opened as the app keeps sessions of, and the
  run has as many steps as its curves keep points;
- nothing of one client is seen by another. Each has a word of its own, which it types wherever a session holds what is
  typed: no answer to anybody else may hold it, and its own answers must. A page of one run never shows another's id,
  the adapter that is renamed is the one that was asked for, the file that is tried again is the one that was dropped;
- the run went on, and the chat gave the same answer every time, whoever else asked it something.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from unittest.mock import patch

import httpx
import psutil

from core.config import RunConfig, parse
from core.events import StepDone
from jobs.service import Run, Service
from tests.browser.driver import App
from tests.jobs.tiny_model import write_tiny_model
from tests.jobs.waiting import wait_for
from tests.load_sheet import Outcome, Sheet, word_of
from tests.loops import Loop
from tests.tab import Tab, Wrong, browser, opened
from ui.app import SESSIONS
from ui.story import Curve

PAUSE_SECONDS = (4.0, 16.0)  # for which a person looks at a page
NEW_BROWSER = 0.1  # the share of visits with nothing in the browser's cache
ANSWER_TOKENS, CHAT_TOKENS = 16, 300
FILLING_AT_ONCE = 6  # pages
WARM_UP_SECONDS = 10.0  # in which everybody comes
QUESTION = "Count the stars, and name them one by one."

_ANSWER = re.compile(r'<div class="bubble assistant[^"]*">(.*?)</div>', re.DOTALL)


class Scene:
    """The app with two adapters of the tiny model, a run that is over and one that goes on."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.home.mkdir()
        self.app = App(home=self.home)
        self.service = Service(self.home, folder / "models")
        self.model = write_tiny_model(folder / "model")
        self.uploads = folder / "uploads"

    def start(self) -> None:
        """Start the app, and all that goes on in it but the chat."""
        with patch.dict(os.environ, GRADIO_TEMP_DIR=str(self.uploads)):
            self.app.start()
        over = [self.service.submit(self.config(name, steps=4)) for name in ("first", "second")]
        self.over = [wait_for(lambda run=run: self._ended(run), 120) for run in over]
        self.going = self.service.submit(self.config("going", steps=10_000_000))
        least = Curve().limit
        events = self.service._home.run(self.going.id).events
        wait_for(lambda: events.exists() and events.read_bytes().count(b"\n") > least, 240)

    def _ended(self, run: Run) -> Run | None:
        now = self.service.run(run.id)
        assert now.state not in ("failed", "interrupted"), now.error
        return now if now.has_ended else None

    def adapter(self, index: int) -> str:
        """The id of one of the two adapters."""
        found = self.over[index].adapter_id
        assert found
        return found

    def steps(self) -> int:
        """How many the run has made that goes on."""
        return max(event.step for event in self.service.events(self.going.id)[0] if isinstance(event, StepDone))

    def close(self) -> None:
        """End everything."""
        with suppress(AttributeError):
            self.service.cancel_run(self.going.id)
            wait_for(lambda: self.service.run(self.going.id).is_at_rest, 30)
        self.app.stop()
        self.service.close()

    def config(self, name: str, steps: int) -> RunConfig:
        """A run of the tiny model."""
        rows = [{"prompt": f"What is {number}?", "completion": f"It is {number}, matey."} for number in range(12)]
        file = self.home / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return parse({
            "name": name, "base_model": str(self.model), "quant": {"bits": 32},
            "data": {"dataset_id": self.service.data.add(file).id, "holdout": 0.25},
            "optim": {"steps": steps, "evaluations": 2, "batch_size": 4},
        })  # fmt: skip


class Client:
    """A person with a browser, who listens to all that comes back to it."""

    def __init__(self, number: int, scene: Scene, sheet: Sheet, seed: int) -> None:
        self.number, self.scene, self.sheet = number, scene, sheet
        self.random = random.Random(seed * 1000 + number)
        self.word = word_of(self.random)
        self.http = browser(scene.app.url)
        self.has_dropped = number % 5 > 0  # every fifth drops a file
        self.is_new = True

    # -- listening -----------------------------------------------------------------------------------------------------

    def took(self, kind: str, seconds: float) -> None:
        """An answer came after that long."""
        if self.sheet.is_warm:
            self.sheet.seconds[kind].append(seconds)

    def read(self, tab: Tab, what: str, text: str) -> None:
        """That was in it; is it of somebody else?"""
        self.sheet.look_for_others(f"{what} of {tab.path}", text, self.word)
        if what in ("open", "look"):
            self.sheet.look_for_foreign(f"{what} of {tab.path}", text, tab.foreign)

    def failed(self, what: str, error: Exception) -> None:
        """An answer did not come, or was not one."""
        self.sheet.failures[f"{what}: {type(error).__name__} {error}"] += 1

    # -- acting --------------------------------------------------------------------------------------------------------

    async def visit(self) -> None:
        """One page, from opening to leaving it."""
        visits: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (7, self.watch_run), (2, self.look_at_old_run), (2, self.look_at_runs), (5, self.fill_form_in),
            (2, self.ask), (2, self.rename),
        ]  # fmt: skip
        (visit,) = self.random.choices([each for _, each in visits], [weight for weight, _ in visits])
        try:
            await visit()
        except (Wrong, httpx.HTTPError, TimeoutError) as error:
            self.failed(visit.__name__, error)

    def tab(self, path: str, others: Iterable[Run] = ()) -> AbstractAsyncContextManager[Tab]:
        """A new tab, which is not to show the `others`; sometimes it is somebody else's browser."""
        has_files = not self.is_new and self.random.random() > NEW_BROWSER
        self.is_new = False
        return opened(self.http, path, self, has_files=has_files, foreign=frozenset(run.id for run in others))

    async def pause(self, share: float = 1.0) -> None:
        """Look at the page for a while."""
        await asyncio.sleep(self.random.uniform(*PAUSE_SECONDS) * share)

    async def watch_run(self) -> None:
        """The run that goes on, live."""
        await self._look_at(self.scene.going, self.scene.over)

    async def look_at_old_run(self) -> None:
        """One that is over."""
        run = self.random.choice(self.scene.over)
        await self._look_at(run, [each for each in (*self.scene.over, self.scene.going) if each is not run])

    async def look_at_runs(self) -> None:
        """The list, live."""
        async with self.tab("/runs") as tab:
            self._expect(self.scene.going.id in tab.value("run-list"), "the list lacks the run that goes on")
            await self.pause()

    async def fill_form_in(self) -> None:
        """The Train page: a name, a rank, perhaps a file."""
        async with self.tab("/") as tab:
            await self.pause(0.2)
            for end in (4, 8, len(self.word)):
                tab.type("run-name", self.word[:end])
                await tab.fire("run-name", "change", self.word[:end], "typing")
            await self.pause(0.2)
            tab.type("setting-lora-rank", self.random.choice((4, 16, 32)))
            await tab.fire("setting-lora-rank", "change", None, "typing")
            command = next(props["value"] for props in tab.props.values() if "command-text" in str(props.get("value")))
            self._expect(self.word in command, "the command lacks the run's name")
            if not self.has_dropped:
                await self._drop(tab)
            await self.pause(0.6)

    async def ask(self) -> None:
        """The Playground: an adapter beside the base, and a question with the word in it."""
        async with self.tab(f"/playground?adapters={self.scene.adapter(self.number % 2)}") as tab:
            await self.pause(0.2)
            await self.send(tab, f"What is {self.word}?", ANSWER_TOKENS)
            for pane in ("pane-0", "pane-1"):
                self._expect(self.word in tab.value(pane), "a pane lacks the question")
            await self.pause(0.5)

    async def rename(self) -> None:
        """The Library: rename one of the two to what it is called already."""
        index = self.random.randrange(2)
        name = ("first", "second")[index]
        async with self.tab("/library") as tab:
            await tab.fire("adapter-list", "rename", {"id": self.scene.adapter(index)})
            self._expect(tab.value("rename-name") == name, f"{tab.value('rename-name')} is to be renamed, not {name}")
            await self.pause(0.5)
            await tab.fire("rename-save" if self.random.random() < 0.5 else "rename-leave", "click")
            await self.pause(0.5)

    async def send(self, tab: Tab, question: str, tokens: int) -> None:
        """Ask all panes, and read until their answers are over."""
        tab.type("prompt", question)
        tab.type("chat-max-tokens", tokens)
        tab.type("chat-temperature", 1)  # the likeliest token of random weights is half a letter for ever
        await tab.fire("send", "click")

    async def _look_at(self, run: Run, others: list[Run]) -> None:
        async with self.tab(f"/runs?run={run.id}", others) as tab:
            self._expect(run.id in str(tab.value("chart-loss")), "the charts are not those of the run")
            await self.pause()

    async def _drop(self, tab: Tab) -> None:
        """A file with a broken row, then once more without it: as many rows as were this client's."""
        self.has_dropped = True
        rows = self.number + 3
        good = "".join(json.dumps({"prompt": f"{row}?", "completion": f"{row}!"}) + "\n" for row in range(rows))
        await tab.upload("dataset-upload", f"{rows}.jsonl", (good + '{"prompt": "and?"}\n').encode())
        await tab.until(lambda: bool(tab.shown("skip-bad-rows")))
        await tab.fire("skip-bad-rows", "click")
        self._expect(
            f"</span>{rows} " in tab.value("dataset-status"), f"not {rows} rows: {tab.value('dataset-status')}"
        )

    def _expect(self, holds: bool, words: str) -> None:
        if not holds:
            self.sheet.leaks[words] += 1


class Chatter(Client):
    """Who has the chat stream all the time; `heard` are the answers of both panes, and how often each came."""

    def __init__(self, scene: Scene, sheet: Sheet, seed: int) -> None:
        super().__init__(-1, scene, sheet, seed)
        self.heard: Counter[str] = Counter()

    async def visit(self) -> None:
        """One tab in the Playground, until something breaks it."""
        try:
            async with self.tab(f"/playground?adapters={self.scene.adapter(0)}") as tab:
                while True:
                    await self.send(tab, QUESTION, CHAT_TOKENS)
                    answers = [_ANSWER.findall(tab.value(pane)) for pane in ("pane-0", "pane-1")]
                    if not all(map(any, answers)):
                        raise Wrong("a pane gave no answer")
                    self.heard[json.dumps(answers)] += 1
                    await tab.fire("clear", "click")
        except (Wrong, httpx.HTTPError, TimeoutError) as error:
            self.failed("the chat that streams", error)


def carry_out(clients: int, seconds: float, seed: int = 0) -> Outcome:
    """Load a fresh app."""
    with tempfile.TemporaryDirectory() as name:
        scene = Scene(Path(name))
        try:
            scene.start()
            with Loop() as loop:
                return loop.run(_load(scene, clients, seconds, seed))
        except BaseException as error:
            error.add_note(_traceback_in(scene) or "the app's log has no traceback")
            raise
        finally:
            scene.close()


async def _load(scene: Scene, clients: int, seconds: float, seed: int) -> Outcome:
    assert scene.app.process is not None
    app, us, sheet = psutil.Process(scene.app.process.pid), psutil.Process(), Sheet()
    people = [Client(number, scene, sheet, seed) for number in range(clients)]
    chatter = Chatter(scene, sheet, seed)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_come_back(each)) for each in (chatter, *people)]
        await _warm_up(scene, people)
        sheet.is_warm = True
        before, chats, begun = scene.steps(), chatter.heard.total(), time.monotonic()
        busy = [_cpu(app), _cpu(us)]
        while time.monotonic() - begun < seconds:
            sheet.resident.append(app.memory_info().rss)
            await asyncio.sleep(min(1.0, seconds / 20))
        passed = time.monotonic() - begun
        cores = {"app": (_cpu(app) - busy[0]) / passed, "clients": (_cpu(us) - busy[1]) / passed}
        for task in tasks:
            task.cancel()
    steps, chats = scene.steps() - before, chatter.heard.total() - chats
    broken = [*sheet.broken(), *_broken_beside(scene, chatter, steps, chats)]
    return Outcome(sheet=sheet, steps=steps, chats=chats, busy=cores, broken=broken)


async def _come_back(client: Client) -> None:
    """Visit after visit, for ever."""
    async with client.http:
        await asyncio.sleep(client.random.uniform(0, WARM_UP_SECONDS))
        while True:
            await client.visit()


async def _warm_up(scene: Scene, people: list[Client]) -> None:
    """Until everybody came, the app keeps as many sessions as it ever will, and the chat's model is loaded and the
    tokenizer by which rows are shown.
    """
    due = time.monotonic() + 1.5 * WARM_UP_SECONDS
    waiting = iter(range(SESSIONS))

    async def fill(client: Client) -> None:
        for _ in waiting:
            async with opened(client.http, f"/runs?run={scene.going.id}", client):
                pass

    await asyncio.sleep(0)  # until they have begun to come
    async with people[0].tab("/") as tab:
        await tab.upload("dataset-upload", "tokens.jsonl", b'{"prompt": "?", "completion": "!"}\n' * 3)
        await tab.until(lambda: "3 conversations" in tab.value("dataset-status"))
        await asyncio.sleep(WARM_UP_SECONDS)
    async with asyncio.TaskGroup() as group:
        for client in people[:FILLING_AT_ONCE]:
            group.create_task(fill(client))
    await asyncio.sleep(max(0.0, due - time.monotonic()))


def _cpu(process: psutil.Process) -> float:
    """The seconds of processor time that it has used."""
    times = process.cpu_times()
    return float(times.user + times.system)


def _broken_beside(scene: Scene, chatter: Chatter, steps: int, chats: int) -> list[str]:
    """The promises that run, chat and log did not keep."""
    broken = []
    if (state := scene.service.run(scene.going.id).state) != "running" or not steps:
        broken.append(f"the run is {state}, and made {steps} steps meanwhile")
    if not chats:
        broken.append("the chat gave no answer")
    if len(chatter.heard) > 1:
        broken.append(f"the same question had {len(chatter.heard)} different answers: {dict(chatter.heard)}")
    if traceback := _traceback_in(scene):
        broken.append(traceback)
    return broken


def _traceback_in(scene: Scene) -> str:
    """The first traceback of the app's log, in a sentence; empty where there is none."""
    log = (scene.home / "app.log").read_text()
    return f"the app's log says: {log[log.index('Traceback') :][:4000]}" if "Traceback" in log else ""


def main() -> int:
    """Carry out the command line; 1 where a promise was broken."""
    parser = argparse.ArgumentParser(prog="tests.load")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    outcome = carry_out(given.clients, given.seconds, given.seed)
    print(outcome.words(), flush=True)
    return 1 if outcome.broken else 0


if __name__ == "__main__":
    sys.exit(main())
