"""A tab of a browser without the browser: it loads what a page loads, holds the widgets' values and speaks Gradio's
protocol. Fifty of them cost less than the app that answers them.

What is sent was read off Chromium in front of Gradio 6.31: the page with its config in it; scripts and styles once a
browser; a heartbeat for as long as the tab is open; `run/predict` for events that are not queued, those of page load
and timers among them; `queue/join` with the stream `queue/data` for those that are. Events that follow others
(`.then`) follow here as well, and a timer leaves a beat out while its last one is unanswered. No JavaScript runs.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Protocol, TypeAlias

import httpx
import orjson
from gradio_client.utils import apply_diff

Json: TypeAlias = Any

API = "/gradio_api"
CONNECTIONS = 6  # to one host, as in browsers
IDLE_SECONDS = 2.0  # after which a connection is not used again: the app closes its end after five
TIMEOUT = httpx.Timeout(30.0, read=60.0)  # a heartbeat comes every 15 seconds
PATIENCE = 300.0  # seconds; an answer of the chat waits for its turn

_CONFIG = re.compile(r"window\.gradio_config = (\{.*?\});</script>", re.DOTALL)
_LINK = re.compile(r'(?:src|href)="\.?(/[^"#]+\.(?:js|css|svg)[^"]*)"')
_NOTHING: frozenset[str] = frozenset()
_JSON = {"content-type": "application/json"}
_PARTS = re.compile(r'"\./([\w.-]+\.(?:js|css))"')


class Wrong(Exception):
    """The app did not answer as it should."""


class Listener(Protocol):
    """Who is told of everything that comes back."""

    def took(self, kind: str, seconds: float) -> None:
        """An answer came after that long."""

    def read(self, tab: Tab, what: str, text: str) -> None:
        """That was in it; `what` is the event's name, or the page's path."""

    def failed(self, what: str, error: Exception) -> None:
        """An answer did not come, or was not one."""


def browser(url: str) -> httpx.AsyncClient:
    """What the tabs of one browser share: its connections."""
    limits = httpx.Limits(
        max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS, keepalive_expiry=IDLE_SECONDS
    )
    headers = {"accept-encoding": "gzip, deflate, br, zstd", "origin": url}
    return httpx.AsyncClient(base_url=url, limits=limits, timeout=TIMEOUT, headers=headers, trust_env=False)


@asynccontextmanager
async def opened(
    http: httpx.AsyncClient,
    path: str,
    listener: Listener,
    *,
    has_files: bool = True,
    foreign: frozenset[str] = _NOTHING,
) -> AsyncIterator[Tab]:
    """The page at `path` with its timers running, until the context ends and the tab is closed.

    Args:
        has_files: whether the browser knows scripts and styles already.
        foreign: words that no answer to the page's own events may hold.

    Raises:
        Wrong: the page, or one of its first events, failed.
    """
    tab = Tab(http, path, listener, foreign)
    try:
        await tab.load(has_files)
        yield tab
    finally:
        await tab.close()


class Tab:
    """One page with a session of its own. `props` are the components' properties as they are now, by id; `foreign` is
    for the listener.
    """

    def __init__(self, http: httpx.AsyncClient, path: str, listener: Listener, foreign: frozenset[str]) -> None:
        self.http, self.path, self.listener, self.foreign = http, path, listener, foreign
        self.session = uuid.uuid4().hex[:11]
        self.types: dict[int, str] = {}
        self.props: dict[int, dict[str, Json]] = {}
        self.ids: dict[str, int] = {}
        self.events: dict[int, dict[str, Json]] = {}
        self._query = f"?{path.partition('?')[2]}" if "?" in path else ""
        self._tasks: set[asyncio.Task[None]] = set()

    def value(self, elem_id: str) -> Json:
        """What the widget shows."""
        return self.props[self.ids[elem_id]].get("value")

    def shown(self, elem_id: str) -> bool:
        """Whether the widget is in sight."""
        return bool(self.props[self.ids[elem_id]].get("visible", True))

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until what the page's timers bring makes that true.

        Raises:
            Wrong: it never does.
        """
        deadline = time.perf_counter() + PATIENCE
        while not holds():
            if time.perf_counter() > deadline:
                raise Wrong(f"{self.path} never came to show what was waited for")
            await asyncio.sleep(0.1)

    def type(self, elem_id: str, value: Json) -> None:
        """Change a widget's value, without its event."""
        self.props[self.ids[elem_id]]["value"] = value

    async def load(self, has_files: bool) -> None:
        """Fetch the page and what belongs to it, then its first events; timers run from then on."""
        html = (await self._get(f"page {self.path.partition('?')[0]}", self.path)).text
        self.listener.read(self, self.path, html)
        if (found := _CONFIG.search(html)) is None:
            raise Wrong(f"{self.path} holds no config")
        self._read_config(json.loads(found[1]))
        self._begin(self._beat)
        if not has_files:
            await self._load_files(html)
        await asyncio.gather(*(self._call(number, 0, "load") for number in self._listening(0, "load")))
        for timer in [component for component, kind in self.types.items() if kind == "timer"]:
            self._begin(partial(self._tick, timer))

    async def fire(self, elem_id: str, event: str, event_data: Json = None, kind: str = "click") -> None:
        """Let the event happen to that widget, and wait until it is answered, with all that follows on it.

        Raises:
            Wrong: the answer is not one.
        """
        component = self.ids[elem_id]
        numbers = self._listening(component, event)
        assert numbers, f"nobody listens to {event} of {elem_id}"
        await asyncio.gather(*(self._call(number, component, kind, event_data) for number in numbers))

    async def upload(self, elem_id: str, name: str, content: bytes) -> None:
        """Drop a file onto that widget.

        Raises:
            Wrong: it was not taken.
        """
        response = await self._timed(
            "upload", self.http.post(f"{API}/upload", files={"files": (name, content)}, params={"upload_id": "0"})
        )
        (path,) = response.json()
        file = {"path": path, "orig_name": name, "size": len(content), "meta": {"_type": "gradio.FileData"}}
        self.type(elem_id, file)
        await self.fire(elem_id, "upload")

    async def close(self) -> None:
        """Close the tab: what is under way is cut off, as by a browser."""
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- the page ------------------------------------------------------------------------------------------------------

    def _read_config(self, config: Json) -> None:
        for component in config["components"]:
            self.types[component["id"]] = component["type"]
            self.props[component["id"]] = component["props"]
            if elem_id := component["props"].get("elem_id"):
                self.ids[elem_id] = component["id"]
        self.events = {event["id"]: event for event in config["dependencies"] if event["backend_fn"]}

    async def _load_files(self, html: str) -> None:
        """Scripts and styles: those that the page names, and those that the first script names."""
        links = dict.fromkeys(_LINK.findall(html))
        await asyncio.gather(*(self._get("file", link) for link in links if not link.startswith("/assets/")))
        for link in [link for link in links if link.startswith("/assets/")]:
            script = await self._get("file", link)
            parts = set(_PARTS.findall(script.text)) if link.endswith(".js") else ()
            await asyncio.gather(*(self._get("file", f"/assets/{part}") for part in parts))

    def _listening(self, component: int, event: str) -> list[int]:
        return [number for number, each in self.events.items() if [component, event] in each["targets"]]

    def _begin(self, work: Callable[[], Awaitable[None]]) -> None:
        self._tasks.add(asyncio.create_task(self._watched(work)))

    async def _watched(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except (Wrong, httpx.HTTPError) as error:
            self.listener.failed(f"in the background of {self.path}", error)

    async def _beat(self) -> None:
        """The stream that tells the app that the tab is open."""
        begun = time.perf_counter()
        async with self.http.stream("GET", f"{API}/heartbeat/{self.session}") as response:
            is_first = True
            async for _ in response.aiter_raw():
                if is_first:
                    self.listener.took("heartbeat", time.perf_counter() - begun)
                is_first = False
        raise Wrong("the heartbeat's stream ended")

    async def _tick(self, timer: int) -> None:
        loop, props = asyncio.get_running_loop(), self.props[timer]
        due = loop.time()
        while True:
            due = max(due + props["value"], loop.time())
            await asyncio.sleep(due - loop.time())
            if props["active"]:
                await asyncio.gather(*(self._call(each, timer, "tick") for each in self._listening(timer, "tick")))

    # -- events --------------------------------------------------------------------------------------------------------

    async def _call(self, number: int, trigger: int, kind: str, event_data: Json = None) -> None:
        event = self.events[number]
        body = {
            "data": [self._sent(component) for component in event["inputs"]],
            "event_data": event_data, "fn_index": number, "trigger_id": trigger, "session_hash": self.session,
        }  # fmt: skip
        name = self._name(event)
        if event["queue"]:
            await asyncio.wait_for(self._ask(event, body), PATIENCE)
        else:
            what = f"{kind} {name}"
            posted = self.http.post(f"{API}/run/predict{self._query}", content=orjson.dumps(body), headers=_JSON)
            response = await self._timed(what, posted)
            self.listener.read(self, name, response.text)
            self._show(event, orjson.loads(response.content)["data"])
        followers = [each for each, event in self.events.items() if event["trigger_after"] == number]
        await asyncio.gather(*(self._call(each, trigger, "then") for each in followers))

    def _sent(self, component: int) -> Json:
        """A widget's value as a browser sends it; what a session holds stays with the app."""
        return None if self.types[component] == "state" else self.props[component].get("value")

    def _name(self, event: dict[str, Json]) -> str:
        """What an event is called: by its handler, without the number that makes it unique. Every page has one that
        looks at the machine.
        """
        is_machine = self.ids["machine"] in event["outputs"]
        return "machine" if is_machine else re.sub(r"_\d+$", "", event["api_name"])

    async def _ask(self, event: dict[str, Json], body: Json) -> None:
        """A queued event: join, then read the stream until the event is over."""
        begun = time.perf_counter()
        posted = self.http.post(f"{API}/queue/join{self._query}", content=orjson.dumps(body), headers=_JSON)
        mine = (await self._timed("queue/join", posted)).json()["event_id"]
        shown: list[Json] = []
        async with self.http.stream("GET", f"{API}/queue/data", params={"session_hash": self.session}) as response:
            _check(response)
            async for line in response.aiter_lines():
                if not line.startswith("data:"):
                    continue
                message = orjson.loads(line[5:])
                if message["msg"] in ("unexpected_error", "server_stopped"):
                    raise Wrong(f"the queue says {message}")
                if message.get("event_id") != mine or not message["msg"].startswith("process_"):
                    continue
                if message["msg"] == "process_starts":
                    continue
                if not message["success"]:
                    raise Wrong(f"{self._name(event)} failed: {message['output']}")
                self.listener.took("chat's news", time.perf_counter() - begun)
                begun = time.perf_counter()
                self.listener.read(self, self._name(event), line)
                shown = self._grow(event, shown, message)
                if message["msg"] == "process_completed":
                    return
        raise Wrong("the queue's stream ended before its event")

    def _grow(self, event: dict[str, Json], shown: list[Json], message: Json) -> list[Json]:
        """Take the first answer as it is; those after it are changes to the one before, and the last is whole."""
        data = message["output"]["data"]
        if shown and message["msg"] == "process_generating":
            data = [apply_diff(before, change) for before, change in zip(shown, data, strict=True)]
        self._show(event, data)
        return data

    def _show(self, event: dict[str, Json], data: list[Json]) -> None:
        for component, news in zip(event["outputs"], data, strict=True):
            if isinstance(news, dict) and news.get("__type__") == "update":
                self.props[component].update((name, value) for name, value in news.items() if name != "__type__")
            elif self.types[component] != "state":
                self.props[component]["value"] = news
        if 'role="alert"' in str(self.props[self.ids["banner"]].get("value")):
            raise Wrong(f"the page shows an error: {self.value('banner')}")

    async def _get(self, kind: str, address: str) -> httpx.Response:
        return await self._timed(kind, self.http.get(address))

    async def _timed(self, kind: str, request: Awaitable[httpx.Response]) -> httpx.Response:
        begun = time.perf_counter()
        response = await request
        self.listener.took(kind, time.perf_counter() - begun)
        _check(response)
        return response


def _check(response: httpx.Response) -> None:
    if response.status_code != httpx.codes.OK:
        raise Wrong(f"{response.request.method} {response.request.url.path} answered {response.status_code}")
