"""A hub of our own on this machine: it answers the real client's requests as the Hugging Face hub would."""

from __future__ import annotations

import base64
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
    """Its `models` by name; `asked` are the paths that were asked for, `wait` is set where answers may go out. Who has
    a `token` of `writers`, by the account that it is for, may make models there and write to them.
    """

    def __init__(self) -> None:
        self.models: dict[str, Model] = {}
        self.asked: list[str] = []
        self.tokens: list[str | None] = []
        self.writers: dict[str, str] = {}
        self.stored: dict[str, bytes] = {}  # by SHA-256, what was uploaded and not committed yet
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

            def do_POST(self) -> None:
                hub.asked.append(self.path)
                hub.tokens.append(self.headers["authorization"])
                path, body = self.path.partition("?")[0].strip("/").split("/"), self._body()
                account = hub.writers.get((self.headers["authorization"] or "").removeprefix("Bearer "))
                if account is None:
                    self._send(401, b"{}")
                elif path == ["api", "repos", "create"]:
                    self._create(json.loads(body), account)
                elif path == ["api", "validate-yaml"]:
                    self._tell({"warnings": [], "errors": []})
                elif (path[2] if path[0] == "api" else path[0]) != account:
                    self._send(403, b"{}")
                elif path[-2] == "preupload":
                    files = json.loads(body)["files"]
                    self._tell({"files": [self._mode(file["path"]) for file in files]})
                elif path[-3:] == ["lfs", "objects", "batch"]:
                    self._tell({"objects": [self._place(each) for each in json.loads(body)["objects"]]})
                elif path[-2] == "commit":
                    self._commit("/".join(path[2:4]), body)

            def do_PUT(self) -> None:
                hub.stored[self.path.rpartition("/")[2]] = self._body()
                self._tell({})

            def _create(self, wanted: dict[str, Any], account: str) -> None:
                name = f"{wanted['organization'] or account}/{wanted['name']}"
                if wanted["organization"] not in (None, account):
                    self._send(403, b"{}")
                elif name in hub.models:
                    self._send(409, json.dumps({"error": "there already", "url": f"{hub.url}/{name}"}).encode())
                else:
                    hub.models[name] = Model(about={"private": wanted.get("visibility") == "private"})
                    self._tell({"url": f"{hub.url}/{name}", "name": name})

            def _mode(self, path: str) -> dict[str, Any]:
                is_large = path.endswith((".safetensors", ".gguf"))
                return {"path": path, "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False}

            def _place(self, wanted: dict[str, Any]) -> dict[str, Any]:
                place = {"href": f"{hub.url}/stored/{wanted['oid']}"}
                return {"oid": wanted["oid"], "size": wanted["size"], "actions": {"upload": place}}

            def _commit(self, name: str, body: bytes) -> None:
                model = hub.models[name]
                for line in map(json.loads, body.splitlines()):
                    value = line["value"]
                    if line["key"] == "file":
                        model.files[value["path"]] = base64.b64decode(value["content"])
                    elif line["key"] == "lfsFile":
                        model.files[value["path"]] = hub.stored[value["oid"]]
                self._tell({"commitUrl": f"{hub.url}/{name}/commit/{COMMIT}", "commitOid": COMMIT})

            def _body(self) -> bytes:
                if "chunked" not in (self.headers["transfer-encoding"] or ""):
                    return self.rfile.read(int(self.headers["content-length"] or 0))
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)

            def _tell(self, value: dict[str, Any]) -> None:
                self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

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
