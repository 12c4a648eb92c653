"""A hub of our own on this machine: it answers the real client's requests as the Hugging Face hub would."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0" * 40


@dataclass
class Model:
    """A repository: what the hub says of it, and how it answers."""

    files: dict[str, bytes] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    status: int = 200
    code: str = ""
    access: int = 200

    def json(self, name: str) -> dict[str, Any]:
        siblings = [{"rfilename": file, "size": len(content)} for file, content in self.files.items()]
        return {"id": name, "sha": COMMIT, "private": False, "gated": False, "siblings": siblings} | self.about

    def tree(self) -> list[dict[str, Any]]:
        return [{"type": "file", "path": file, "size": len(self.files[file]), "oid": COMMIT} for file in self.files]


class Hub:
    """Its `models` by name; `asked` are the paths that were asked for, `wait` is set where answers may go out."""

    def __init__(self) -> None:
        self.models: dict[str, Model] = {}
        self.asked: list[str] = []
        self.tokens: list[str | None] = []
        self.wait = threading.Event()
        self.wait.set()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def _handler(hub) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - `self` is the request's
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.asked.append(self.path)
                hub.tokens.append(self.headers["authorization"])
                hub.wait.wait(60)
                self._answer(self.path.partition("?")[0].strip("/").split("/"))

            do_HEAD = do_GET

            def _answer(self, path: list[str]) -> None:
                is_api = path[:2] == ["api", "models"]
                name = "/".join(path[2:4] if is_api else path[:2])
                model = hub.models.get(name)
                if model is None:
                    self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
                elif is_api and path[-1] == "auth-check":
                    self._send(model.access, b"{}", {"X-Error-Code": "GatedRepo"} if model.access != 200 else {})
                elif is_api and model.status != 200:
                    self._send(model.status, b"{}", {"X-Error-Code": model.code} if model.code else {})
                elif is_api and "tree" in path:
                    self._send(200, json.dumps(model.tree()).encode())
                elif is_api:
                    self._send(200, json.dumps(model.json(name)).encode())
                elif model.access != 200:
                    self._send(model.access, b"{}", {"X-Error-Code": "GatedRepo"})
                else:
                    file = "/".join(path[4:])
                    self._send(200, model.files[file], {"ETag": f'"{file}"', "X-Repo-Commit": COMMIT})

            def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
                self.send_response(status)
                for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Nothing."""

        return Handler


@contextmanager
def hub() -> Iterator[Hub]:
    """A hub that answers until the block ends."""
    made = Hub()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.wait.set()
        made.server.shutdown()
        made.server.server_close()
        thread.join()
