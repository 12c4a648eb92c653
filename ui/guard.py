"""Who may talk to the workbench, and what its pages may load: an ASGI middleware in front of Gradio.

A server on 127.0.0.1 is not private by itself: any web page can send requests to it, and a foreign name can be made
to resolve to it (DNS rebinding). Measured on Gradio 6.31, such requests run handlers and store uploads. So a request
passes only if its Host, and its Origin where it has one, is in a fixed list; `Origin: null`, which sandboxed frames
send, is not. No sub-string and no pattern is compared.

Gradio's page needs inline scripts and `Function` for its templates, so the content policy allows these; it allows
nothing from any other host. The tags of Gradio's page that point elsewhere are taken out as well.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, TypeAlias

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers: TypeAlias = list[tuple[bytes, bytes]]

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")

CONTENT_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' blob: data:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
SECURITY_HEADERS: Headers = [
    (b"content-security-policy", CONTENT_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
_SECURED = frozenset(name for name, _ in SECURITY_HEADERS)

# Previews for other sites' link cards, and a manifest that Gradio answers with 404.
_FOREIGN_TAGS = re.compile(rb'<meta\s+(?:property="og:|name="twitter:)[^>]*>|<link\s+rel="manifest"[^>]*>', re.DOTALL)


class Guard:
    """Refuses foreign requests with 403 and adds the security headers to every answer.

    Args:
        others: names and addresses of this machine beside its own address, where it listens on a network.
        public: names by which a server before this one may speak for it, on the usual ports of HTTP and HTTPS.
    """

    def __init__(self, app: App, port: int, others: Sequence[str] = (), public: Sequence[str] = ()) -> None:
        self.app = app
        known = [*LOOPBACK_NAMES, *(name.lower() for name in (*others, *public))]
        outside = [name.lower() for name in public]
        names = [f"{name}:{port}" for name in known] + (known if port == 80 else outside)
        self.hosts = frozenset(names)
        self.origins = frozenset([*(f"http://{name}" for name in names), *(f"https://{name}" for name in outside)])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is not HTTP, refuse what is foreign, and complete the answers to the rest."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif not self.is_ours(scope["headers"]):
            await _refuse(scope, send)
        else:
            await self.app(scope, receive, _Completed(send))

    def is_ours(self, headers: Headers) -> bool:
        """Whether exactly one Host is given and allowed, and every Origin is."""
        hosts = [value.decode("latin-1").lower() for name, value in headers if name == b"host"]
        origins = [value.decode("latin-1").lower() for name, value in headers if name == b"origin"]
        return len(hosts) == 1 and hosts[0] in self.hosts and all(origin in self.origins for origin in origins)


class _Completed:
    """A `send` that adds the security headers, and holds an HTML page back until it is whole to clean it."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self.held: Message | None = None
        self.body = bytearray()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._start(message)
        elif message["type"] == "http.response.body" and self.held is not None:
            await self._hold(self.held, message)
        else:
            await self.send(message)

    async def _start(self, message: Message) -> None:
        kept = [pair for pair in message.get("headers", []) if pair[0].lower() not in _SECURED]
        message["headers"] = kept + SECURITY_HEADERS
        if _is_page(kept):
            self.held = message
        else:
            await self.send(message)

    async def _hold(self, start: Message, message: Message) -> None:
        self.body += message.get("body", b"")
        if message.get("more_body"):
            return
        page = _FOREIGN_TAGS.sub(b"", bytes(self.body))
        others = [pair for pair in start["headers"] if pair[0].lower() != b"content-length"]
        start["headers"] = [*others, (b"content-length", str(len(page)).encode())]
        await self.send(start)
        await self.send({"type": "http.response.body", "body": page})


def _is_page(headers: Headers) -> bool:
    values = {name.lower(): value for name, value in headers}
    return values.get(b"content-type", b"").startswith(b"text/html") and b"content-encoding" not in values


async def _refuse(scope: Scope, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    body = (
        b"LoRA Workbench answers only to this machine's own address. "
        b"Open it as http://127.0.0.1 with its port; through a tunnel, forward the same port number.\n"
    )
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 403, "headers": headers + SECURITY_HEADERS})
    await send({"type": "http.response.body", "body": body})
