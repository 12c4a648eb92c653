"""The real server on a free port: what it refuses, what it adds, and what it serves beside Gradio."""

from __future__ import annotations

import http.client
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from core.errors import ConfigError
from jobs.service import Service
from ui import addresses, app

ROOT = Path(__file__).parents[2]
OUTSIDE = re.compile(rb"https?://(?!127\.0\.0\.1|localhost)[\w.-]+")


@dataclass
class Server:
    port: int
    home: Path

    def answers(self) -> bool:
        try:
            return self.ask("/workbench/icon.svg")[0] == 200
        except ConnectionError:
            return False

    def ask(
        self, path: str, method: str = "GET", body: bytes = b"", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.putrequest(method, path, skip_host=True)
        given = {"Host": f"127.0.0.1:{self.port}", **headers}
        for name, value in given.items():
            connection.putheader(name, value)
        if body:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body or None)
        response = connection.getresponse()
        answer = response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
        connection.close()
        return answer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """In a process of its own, as Gradio leaves sockets and event loops behind in the one it runs in."""
    home = tmp_path_factory.mktemp("home")
    running = Server(app.free_port("127.0.0.1", 0), home)
    command = [sys.executable, "app.py", "ui", "--port", str(running.port), "--home", str(home)]
    with (home / "app.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    try:
        while not running.answers():
            assert process.poll() is None, (home / "app.log").read_text()
            time.sleep(0.1)
        yield running
    finally:
        process.terminate()
        assert process.wait(30) == 0
    assert "is at http://127.0.0.1" in (home / "app.log").read_text()


@pytest.mark.parametrize("path", ["/", "/runs", "/playground", "/library"])
def test_every_page_is_there_with_our_title_and_without_a_foreign_address(server: Server, path: str) -> None:
    status, headers, body = server.ask(path)
    assert status == 200
    assert b'"title":"LoRA Workbench"' in body
    head = body.split(b"<script>window.gradio_config")[0]
    assert OUTSIDE.findall(head) == []
    assert int(headers["content-length"]) == len(body)


def test_a_second_app_on_the_same_home_is_refused_and_told_who_has_it(server: Server) -> None:
    command = [sys.executable, "app.py", "ui", "--port", str(app.free_port("127.0.0.1", 0)), "--home", str(server.home)]
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 3 and second.stdout == ""
    (sentence,) = [line for line in second.stderr.splitlines() if "Another LoRA Workbench" in line]
    assert f"at http://127.0.0.1:{server.port}, since" in sentence and "--home" in sentence
    assert server.ask("/runs")[0] == 200


def test_a_foreign_host_is_refused(server: Server) -> None:
    for host in ("evil.example", f"evil.example:{server.port}", "127.0.0.1", f"127.0.0.1.evil.example:{server.port}"):
        assert server.ask("/", Host=host)[0] == 403


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://127.0.0.1", "http://127.0.0.1:1", "file://"]
)
def test_a_foreign_origin_runs_no_handler_and_stores_no_file(server: Server, origin: str) -> None:
    for path in ("/gradio_api/run/predict", "/gradio_api/queue/join", "/gradio_api/upload"):
        status, headers, _ = server.ask(path, "POST", b"{}", Origin=origin)
        assert status == 403
        assert headers["x-frame-options"] == "DENY"


def test_our_own_origin_passes(server: Server) -> None:
    for name in ("127.0.0.1", "localhost"):
        own = f"{name}:{server.port}"
        assert server.ask("/config", Host=own, Origin=f"http://{own}")[0] == 200


@pytest.mark.parametrize("path", ["/", "/config", "/workbench/style.css", "/nothing-here"])
def test_every_answer_says_what_it_may_load_and_that_it_may_not_be_framed(server: Server, path: str) -> None:
    _, headers, _ = server.ask(path)
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy and "http" not in policy
    assert headers["x-content-type-options"] == "nosniff"


def test_our_own_files_are_served(server: Server) -> None:
    for name, kind in (("style.css", "text/css"), ("client.js", "javascript"), ("icon.svg", "image/svg+xml")):
        status, headers, body = server.ask(addresses.static(name))
        assert status == 200 and body and kind in headers["content-type"]
    assert server.ask("/workbench/plotly.js")[2].startswith(b"/**")


@pytest.mark.parametrize(
    "path",
    [
        "..%2Fapp.py",
        "../app.py",
        "adapters/../../x.zip",
        "adapters/nope.zip",
        "adapters/.zip",
        "runs/nope.csv",
        "runs/../../workbench.json",
        "runs/.csv",
        "runs/nope.zip",
    ],
)
def test_nothing_else_is_served_from_there(server: Server, path: str) -> None:
    status, _, body = server.ask(f"/workbench/{path}")
    assert status == 404 and b"def " not in body


def test_the_style_sheet_names_no_other_host() -> None:
    for path in addresses.ICON.parent.iterdir():
        foreign = [address for address in OUTSIDE.findall(path.read_bytes()) if address != b"http://www.w3.org"]
        assert foreign == [], path


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "workbench.example"])
def test_without_users_only_this_machine_is_served(host: str, tmp_path: Path) -> None:
    service = Service(tmp_path)
    with pytest.raises(ConfigError, match=r"no users yet.*users add"):
        app.serve(service, host, 7860)
    service.close()


def test_a_taken_port_is_said_to_be_taken(server: Server) -> None:
    with pytest.raises(ConfigError, match=f"Port {server.port} cannot be used"):
        app.free_port("127.0.0.1", server.port)
