"""A login in front of everything, for a workbench that listens on a network: an ASGI middleware.

Without a session every address answers 401, or leads to the login where a browser asks for a page; nothing of Gradio's
or ours is reached before. Sessions live in this process's memory: a restart ends all of them. The cookie is for this
site alone, and no script can read it.

Who guesses is slowed down: after `FREE_TRIES` wrong passwords an address, and an address with that name, has to wait,
twice as long each time. A try is counted before the password is looked at, so many at once gain nothing; and no more
than `CHECKS_AT_ONCE` are looked at, since that takes memory on purpose. A name alone is never made to wait: else
anybody could keep its owner out.

A session ends when it is not used, when it is old, and when its user's password changes or the user is removed.

One address is open: Gradio asks its own server to begin, which starts what it has in the background and answers `true`.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any
from urllib.parse import parse_qs, quote

import anyio
import anyio.to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

from ui.guard import App, Receive, Scope, Send

COOKIE, LOGIN, LOGOUT = "workbench_session", "/login", "/logout"
OPEN = frozenset({"/gradio_api/startup-events"})
SESSION_SECONDS, OLDEST_SESSION = 12 * 3600.0, 7 * 24 * 3600.0  # since it was last used, and since it began
LOOK_SECONDS = 30.0  # after which it is asked again who the users are
CHECKS_AT_ONCE = 2
FREE_TRIES, FIRST_WAIT, LONGEST_WAIT = 5, 30.0, 900.0  # seconds
REMEMBERED = 10_000  # addresses with wrong passwords
LARGEST_FORM = 8192  # bytes

Check = Callable[[str, str], bool]
Stamps = Callable[[], Mapping[str, str]]


class Login:
    """Lets in who has a session, and gives one to whom `check(name, password)` knows. What it remembers is handed to
    it, since Starlette may make middleware anew.
    """

    def __init__(self, app: App, check: Check, sessions: Sessions, throttle: Throttle) -> None:
        self.app = app
        self.check = check
        self.sessions = sessions
        self.throttle = throttle
        self._checking = anyio.CapacityLimiter(CHECKS_AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the login itself, pass on who is logged in, refuse all others."""
        if scope["type"] == "lifespan" or scope["path"] in OPEN:
            await self.app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # nothing here speaks it
            return
        request = Request(scope, receive)
        if scope["path"] in (LOGIN, LOGOUT):
            response = await (self._login if scope["path"] == LOGIN else self._logout)(request)
        elif self.sessions.user(request.cookies.get(COOKIE, "")) is not None:
            await self.app(scope, receive, send)
            return
        else:
            response = _refused(request)
        await response(scope, receive, send)

    async def _login(self, request: Request) -> Response:
        if request.method != "POST":
            return _page(_next(request))
        body = await _body(request)
        if body is None:
            return _page("/", "That is too long to be a name and a password.", 413)
        form = parse_qs(body.decode("utf-8", "replace"))
        name, password, target = (form.get(field, [""])[0] for field in ("name", "password", "next"))
        address = request.client.host if request.client else ""
        keys = address, f"{address} {name}"
        if (seconds := self.throttle.begin(keys)) > 0:
            return _page(target, f"Too many wrong passwords: try again in {seconds:.0f} seconds.", 429)
        if not await anyio.to_thread.run_sync(self.check, name, password, limiter=self._checking):
            return _page(target, "This name and this password do not go together.", 401)
        self.throttle.succeed(keys)
        response = RedirectResponse(_safe(target), 303)
        is_secure = request.headers.get("origin", "").startswith("https://")
        token = self.sessions.begin(name)
        response.set_cookie(COOKIE, token, httponly=True, samesite="strict", path="/", secure=is_secure)
        return response

    async def _logout(self, request: Request) -> Response:
        if request.method != "POST":
            return PlainTextResponse("Logging out is a POST.\n", 405)
        self.sessions.end(request.cookies.get(COOKIE, ""))
        response = RedirectResponse(LOGIN, 303)
        response.delete_cookie(COOKIE, path="/")
        return response


@dataclass(slots=True)
class _Session:
    name: str
    stamp: str
    begun: float
    used: float


class Sessions:
    """Who is logged in. Tokens are kept as hashes: who reads our memory's dump cannot use them.

    Args:
        stamps: by user's name, what changes with the password.
    """

    def __init__(self, stamps: Stamps, clock: Callable[[], float] = time.monotonic) -> None:
        self._stamps, self._clock = stamps, clock
        self._current, self._looked = stamps(), clock()
        self._sessions: dict[str, _Session] = {}
        self._lock = threading.Lock()

    def begin(self, name: str) -> str:
        """A new session's token."""
        token = secrets.token_urlsafe(32)
        with self._lock:
            self._look()
            self._sessions = {key: each for key, each in self._sessions.items() if not self._is_over(each)}
            now = self._clock()
            self._sessions[_digest(token)] = _Session(name, self._current.get(name, ""), now, now)
        return token

    def user(self, token: str) -> str | None:
        """Whose session that is, if it is one; it lasts on from now."""
        with self._lock:
            if self._clock() - self._looked > LOOK_SECONDS:
                self._look()
            session = self._sessions.get(_digest(token))
            if session is None or self._is_over(session):
                return None
            session.used = self._clock()
            return session.name

    def end(self, token: str) -> None:
        """Forget it."""
        with self._lock:
            self._sessions.pop(_digest(token), None)

    def _look(self) -> None:
        self._current, self._looked = self._stamps(), self._clock()

    def _is_over(self, session: _Session) -> bool:
        now = self._clock()
        is_old = now - session.used > SESSION_SECONDS or now - session.begun > OLDEST_SESSION
        return is_old or self._current.get(session.name) != session.stamp


class Throttle:
    """How long who has to wait after wrong passwords."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()  # how many, and until when to wait
        self._lock = threading.Lock()

    def begin(self, keys: tuple[str, ...]) -> float:
        """Seconds until any of `keys` may try again. Where that is now, the try counts as a wrong one until it is seen
        to be right.
        """
        keys = tuple(map(_digest, keys))  # what somebody types may be long
        with self._lock:
            seconds = max(0.0, *(self._failures.get(key, (0, 0.0))[1] - self._clock() for key in keys))
            if seconds == 0.0:
                self._count(keys)
            return seconds

    def _count(self, keys: tuple[str, ...]) -> None:
        for key in keys:
            count = self._failures.pop(key, (0, 0.0))[0] + 1
            over = count - FREE_TRIES
            seconds = min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(over, 16)) if over >= 0 else 0.0
            self._failures[key] = count, self._clock() + seconds
        while len(self._failures) > REMEMBERED:
            self._failures.popitem(last=False)

    def succeed(self, keys: tuple[str, ...]) -> None:
        """What was wrong before is forgiven."""
        with self._lock:
            for key in map(_digest, keys):
                self._failures.pop(key, None)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


async def _body(request: Request) -> bytes | None:
    """What was sent; None where it is too long, whatever its headers say."""
    body = bytearray()
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > LARGEST_FORM:
                return None
    except ClientDisconnect:  # nobody is there to be answered
        return None
    return bytes(body)


def _refused(request: Request) -> Response:
    """The way to the login for a browser that asks for a page, 401 for all else."""
    if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
        return RedirectResponse(f"{LOGIN}?next={quote(request.url.path)}", 303)
    return PlainTextResponse("Log in first.\n", 401)


def _next(request: Request) -> str:
    return _safe(request.query_params.get("next", "/"))


def _safe(target: str) -> str:
    """`target` where it is a page of ours, else the first page."""
    is_ours = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if is_ours and target not in (LOGIN, LOGOUT) else "/"


def _page(target: str, problem: str = "", status: int = 200) -> Response:
    words: dict[str, Any] = {"next": escape(_safe(target)), "problem": escape(problem)}
    return HTMLResponse(_HTML.format(**words), status, headers={"cache-control": "no-store"})


_HTML = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Log in · LoRA Workbench</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; display: grid; place-items: center; min-height: 100vh; margin: 0; }}
form {{ display: grid; gap: 12px; width: min(320px, 86vw); }}
h1 {{ font-size: 20px; margin: 0 0 8px; }}
label {{ display: grid; gap: 4px; font-size: 14px; }}
input, button {{ font: inherit; padding: 9px 12px; border-radius: 8px; border: 1px solid #8888; }}
button {{ background: #4f46e5; color: white; border: 0; cursor: pointer; }}
[role=alert] {{ color: light-dark(#b42318, #ff9a8f); margin: 0; min-height: 1.5em; font-size: 14px; }}
</style></head><body>
<form method="post" action="/login">
<h1>LoRA Workbench</h1>
<label>Name <input name="name" autocomplete="username" required autofocus></label>
<label>Password <input name="password" type="password" autocomplete="current-password" required></label>
<input type="hidden" name="next" value="{next}">
<button>Log in</button>
<p role="alert">{problem}</p>
</form></body></html>
"""
