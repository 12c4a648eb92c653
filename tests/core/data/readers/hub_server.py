"""A server that answers as the hub does about datasets: what one consists of, and its files."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]


@dataclass
class HubRepository:
    """A dataset as the server has it: files by revision, its card, and who may have it."""

    files: dict[str, Files]
    card: dict[str, Any] = field(default_factory=dict)
    gated: str | bool = False
    breaks_off: bool = False


@dataclass
class Hub:
    """A running server: what it holds, and what it was asked."""

    address: str
    repositories: dict[str, HubRepository]
    asked: list[str] = field(default_factory=list)


def sha_of(revision: str) -> str:
    """The commit that a revision stands for."""
    return revision if len(revision) == 40 else hashlib.sha1(revision.encode()).hexdigest()


@contextmanager
def serve(repositories: dict[str, HubRepository]) -> Iterator[Hub]:
    """The hub, on a port of its own, as long as the context lasts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    hub = Hub(address=f"http://127.0.0.1:{server.server_port}", repositories=repositories)
    server.hub = hub  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self) -> None:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        path = unquote(urlsplit(self.path).path)
        hub.asked.append(f"{self.command} {path}")
        is_about = path.startswith("/api/datasets/")
        hub_id = "/".join(path.removeprefix("/api").removeprefix("/datasets/").split("/")[:2])
        repository = hub.repositories.get(hub_id)
        if repository is None:
            self._send(401 if hub_id.startswith("hidden/") else 404, headers={"X-Error-Code": "RepoNotFound"})
        elif hub_id.startswith("broken/"):
            self._send(501)
        elif is_about:
            self._describe(repository, hub_id, path.partition("/revision/")[2] or "main")
        else:
            self._give(repository, *path.partition("/resolve/")[2].split("/", 1))

    def _describe(self, repository: HubRepository, hub_id: str, revision: str) -> None:
        files = _files(repository, revision)
        if files is None:
            self._send(404, headers={"X-Error-Code": "RevisionNotFound"})
            return
        siblings = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
        described = {"id": hub_id, "sha": sha_of(revision), "gated": repository.gated, "siblings": siblings}
        self._send(200, json.dumps(described | {"cardData": repository.card}).encode())

    def _give(self, repository: HubRepository, revision: str, name: str) -> None:
        content = (_files(repository, revision) or {}).get(name)
        if repository.gated:
            self._send(403, headers={"X-Error-Code": "GatedRepo"})
        elif content is None:
            self._send(404, headers={"X-Error-Code": "EntryNotFound"})
        else:
            etag = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": sha_of(revision)}
            self._send(200, content, etag, breaks_off=repository.breaks_off and self.command == "GET")

    def _send(
        self, status: int, content: bytes = b"", headers: dict[str, str] | None = None, breaks_off: bool = False
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if breaks_off else content)
        if breaks_off:
            self.close_connection = True


def _files(repository: HubRepository, revision: str) -> Files | None:
    return next((files for name, files in repository.files.items() if revision in (name, sha_of(name))), None)
