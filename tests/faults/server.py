"""The app in a process of its own on an address of one's choice, asked over bare HTTP."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

from jobs.home import PROJECT
from tests.browser.driver import free_port
from ui.login import LOGIN

NAME, PASSWORD = "ada", "a long password"
BOUNDARY = "limit"
START_SECONDS = 60.0


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Server:
    """The app in a process of its own, with its uploads in a folder of their own."""

    home: Path
    options: tuple[str, ...] = ()
    program: tuple[str, ...] = ("app.py",)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def uploads(self) -> Path:
        return self.home / "uploads"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.uploads.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, *self.program, "ui", "--port", str(self.port), "--home", str(self.home)]
        with (self.home / "app.log").open("ab") as log:
            environment = {**os.environ, "GRADIO_TEMP_DIR": str(self.uploads)}
            self.process = subprocess.Popen(
                [*command, *self.options], cwd=PROJECT, env=environment, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            assert self.process.poll() is None and time.monotonic() < deadline, (self.home / "app.log").read_text()
            time.sleep(0.1)

    def answers(self) -> bool:
        try:
            return self.ask("/").status in (200, 401)
        except ConnectionError:
            return False

    def ask(self, path: str, method: str = "GET", body: bytes = b"", **headers: str) -> Answer:
        """What is answered; a stream's beginning where it has no end."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.putrequest(method, path, skip_host=True)
            for name, value in {"Host": f"127.0.0.1:{self.port}", **headers}.items():
                connection.putheader(name.replace("_", "-"), value)
            if body:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body or None)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            content = b"" if found.get("content-type", "").startswith("text/event-stream") else response.read()
            return Answer(response.status, found, content)
        finally:
            connection.close()

    def log_in(self, password: str = PASSWORD, name: str = NAME) -> Answer:
        form = urlencode({"name": name, "password": password, "next": "/runs"}).encode()
        return self.ask(LOGIN, "POST", form, Content_Type="application/x-www-form-urlencoded")

    def stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(30) == 0


def add_user(home: Path) -> None:
    command = [sys.executable, "app.py", "users", "add", NAME, "--home", str(home)]
    subprocess.run(command, cwd=PROJECT, input=f"{PASSWORD}\n", text=True, capture_output=True, check=True)


def upload(content: bytes = b'{"prompt": "a", "completion": "b"}\n', name: str = "rows.jsonl") -> bytes:
    head = f'Content-Disposition: form-data; name="files"; filename="{name}"\r\nContent-Type: text/plain'
    return f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()


MULTIPART = f"multipart/form-data; boundary={BOUNDARY}"


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())
