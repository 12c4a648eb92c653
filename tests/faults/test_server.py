"""The real app on a network address: what it refuses to whom, and what it lets through.

Every route is tried, as FastAPI's own table names them, so that one that a new Gradio brings is tried too.
"""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Page, expect

from jobs.home import PROJECT
from tests.browser.conftest import Watch
from tests.browser.driver import free_port
from tests.faults.server import MULTIPART, NAME, PASSWORD, Answer, Server, add_user, files, upload
from ui import addresses
from ui.app import own_names
from ui.login import COOKIE, FREE_TRIES, LOGIN, LOGOUT, OPEN

WHOLE_LIMIT = "1mb"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
NO_KEYS = "There are no API keys yet"
OPEN_TO_ALL = {LOGIN, LOGOUT, *OPEN}
SMALL_UPLOADS = (
    "import sys, ui.app\n"
    f"ui.app.LARGEST_UPLOAD = {WHOLE_LIMIT!r}\n"
    "import app\n"
    "sys.exit(app.main())"
)  # fmt: skip


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """Every route's methods and an address that it answers to, with our own that stand before FastAPI's."""
    command = [sys.executable, "-m", "tests.faults.routes", str(tmp_path_factory.mktemp("routes"))]
    said = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120, check=True).stdout
    table = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    found = [(method, re.sub(r"\{[^}]*\}", "x", route["path"])) for route in table for method in route["methods"]]
    own = [addresses.static("style.css"), "/workbench/plotly.js", "/workbench/adapters/x.zip", "/nothing/is/here"]
    assert {("POST", "/v1/chat/completions"), ("POST", "/v1/completions"), ("GET", "/v1/models")} <= set(found)
    assert ("POST", "/gradio_api/upload") in found and ("GET", "/gradio_api/file=x") in found and len(found) > 60
    return sorted({*found, *(("GET", path) for path in own)})


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An app that listens to a network, and knows one user."""
    home = tmp_path_factory.mktemp("home")
    add_user(home)
    server = Server(home, ("--host", "0.0.0.0"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def session(guarded: Server) -> str:
    """The cookie of somebody who has logged in."""
    answer = guarded.log_in()
    assert (answer.status, answer.headers["location"]) == (303, "/runs")
    return answer.headers["set-cookie"].split(";")[0]


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An app as it starts by default, with small uploads."""
    server = Server(tmp_path_factory.mktemp("home"), program=("-c", SMALL_UPLOADS))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Server]:
    """As `guarded`, but nobody has used it yet."""
    add_user(tmp_path)
    server = Server(tmp_path, ("--host", "0.0.0.0"))
    server.start()
    yield server
    server.stop()


# -- who may listen --------------------------------------------------------------------------------------------------


def test_a_network_address_without_a_user_is_refused_in_a_sentence(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "app.py", "ui", "--host", "0.0.0.0", "--port", str(port), "--home", str(tmp_path)]
    refused = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 2 and refused.stdout == "" and "Traceback" not in refused.stderr
    assert "no users yet" in refused.stderr and "users add" in refused.stderr
    with pytest.raises(ConnectionRefusedError):
        http.client.HTTPConnection("127.0.0.1", port, timeout=5).connect()


def test_the_default_is_this_machine_alone(private: Server) -> None:
    assert listens_at(private) == {"127.0.0.1"}


def test_a_network_address_is_listened_to_for_real(guarded: Server) -> None:
    assert listens_at(guarded) == {"0.0.0.0"}


def listens_at(server: Server) -> set[str]:
    assert server.process is not None
    open_ports = psutil.Process(server.process.pid).net_connections("inet")
    return {each.laddr.ip for each in open_ports if each.status == psutil.CONN_LISTEN}


# -- who is let in ---------------------------------------------------------------------------------------------------


def test_every_route_is_refused_to_who_is_not_logged_in(guarded: Server, routes: list[tuple[str, str]]) -> None:
    for method, path in routes:
        if path not in OPEN_TO_ALL:
            answer = guarded.ask(path, method, b"{}" if method == "POST" else b"", Content_Type="application/json")
            assert is_refused(answer, path, method), (method, path, answer.status, answer.body)


def is_refused(answer: Answer, path: str, method: str = "GET") -> bool:
    """401 and not a word more: to a page by the login, to a program by the keys."""
    if path.startswith("/v1/"):
        return answer.status == 401 and (method == "HEAD" or NO_KEYS in json.loads(answer.body)["error"]["message"])
    return answer.status == 401 and answer.body == (b"" if method == "HEAD" else b"Log in first.\n")


def test_no_method_goes_past_the_login(guarded: Server) -> None:
    for path in ("/", "/config", "/gradio_api/upload", "/gradio_api/queue/join", "/workbench/style.css"):
        for method in METHODS:
            answer = guarded.ask(path, method)
            assert answer.status == 401 and answer.body in (b"", b"Log in first.\n"), (method, path)
    for path in ("/v1", "/v1/", "/v1/models", "/v1/x", "/v1/../config", "/v1/%2e%2e/config", "/v1//config"):
        for method in METHODS:
            assert guarded.ask(path, method).status == 401, (method, path)
    for path in ("/login/../config", "//config", "/login/x", "/login%2f..%2fconfig", "/LOGIN", "/gradio_api/./upload"):
        assert guarded.ask(path).status == 401, path


def test_what_is_open_to_all_says_nothing(guarded: Server) -> None:
    page = guarded.ask(LOGIN)
    assert page.status == 200 and b"Password" in page.body and b"gradio" not in page.body.lower()
    assert guarded.ask(LOGOUT).status == 405 and guarded.ask(LOGOUT, "POST").status == 303
    (path,) = OPEN
    assert guarded.ask(path).body in (b"true", b"false")


def test_who_is_not_logged_in_stores_no_file_and_runs_nothing(guarded: Server) -> None:
    before = files(guarded.home)
    for path in ("/gradio_api/upload", "/gradio_api/upload/", "/gradio_api/upload?upload_id=x"):
        assert guarded.ask(path, "POST", upload(), Content_Type=MULTIPART).status == 401
    event = json.dumps({"data": [], "fn_index": 0, "session_hash": "x"}).encode()
    for path in ("/gradio_api/queue/join", "/gradio_api/run/predict", "/gradio_api/component_server"):
        assert guarded.ask(path, "POST", event, Content_Type="application/json").status == 401
    assert guarded.ask(f"/gradio_api/file={PROJECT / 'app.py'}").status == 401
    assert guarded.ask("/gradio_api/queue/data?session_hash=x").status == 401
    assert files(guarded.home) == before and files(guarded.uploads) == []


@pytest.mark.parametrize("cookie", ["", f"{COOKIE}=", f"{COOKIE}=x", f"{COOKIE}={'a' * 43}", "access-token=x"])
def test_a_made_up_cookie_is_none(guarded: Server, cookie: str) -> None:
    assert guarded.ask("/config", Cookie=cookie).status == 401


def test_who_is_logged_in_has_all_of_it(guarded: Server, session: str) -> None:
    for path in ("/", "/runs", "/playground", "/library", "/config", addresses.static("style.css"), "/theme.css"):
        assert guarded.ask(path, Cookie=session).status == 200, path
    stored = guarded.ask("/gradio_api/upload", "POST", upload(), Content_Type=MULTIPART, Cookie=session)
    (path,) = json.loads(stored.body)
    assert stored.status == 200 and files(guarded.uploads) == ["rows.jsonl"]
    assert guarded.ask(f"/gradio_api/file={path}", Cookie=session).body.startswith(b'{"prompt"')
    joined = guarded.ask(
        "/gradio_api/queue/join", "POST", queued(guarded, session), Content_Type="application/json", Cookie=session
    )
    assert joined.status == 200 and "event_id" in json.loads(joined.body)


def queued(server: Server, session: str) -> bytes:
    """A request for a handler that goes through the queue."""
    config = json.loads(server.ask("/config", Cookie=session).body)
    (handler,) = [each for each in config["dependencies"] if each["queue"] is not False and each["backend_fn"]][:1]
    event = {"data": [None] * len(handler["inputs"]), "fn_index": handler["id"], "session_hash": "x"}
    return json.dumps({**event, "trigger_id": None}).encode()


def test_who_is_logged_in_reads_no_file_but_what_was_uploaded(guarded: Server, session: str) -> None:
    (guarded.home / "secret.txt").write_text("canary")
    for path in (guarded.home / "secret.txt", guarded.home / "workbench.db", "/etc/passwd", PROJECT / "app.py"):
        for written in (str(path), f"{guarded.uploads}/..{path}", str(path).replace("/", "%2F"), f"file://{path}"):
            answer = guarded.ask(f"/gradio_api/file={written}", Cookie=session)
            assert answer.status in (403, 404) and b"canary" not in answer.body, written
    assert guarded.ask("/gradio_api/proxy=http://127.0.0.1:9/x", Cookie=session).status >= 400


def test_a_restart_ends_every_session(fresh: Server) -> None:
    cookie = fresh.log_in().headers["set-cookie"].split(";")[0]
    assert fresh.ask("/config", Cookie=cookie).status == 200
    assert fresh.process is not None
    fresh.process.kill()
    fresh.process.wait()
    fresh.start()
    assert fresh.ask("/config", Cookie=cookie).status == 401


def test_who_guesses_has_to_wait_in_the_running_app(fresh: Server) -> None:
    for _ in range(FREE_TRIES):
        assert fresh.log_in("wrong").status == 401
    begin = time.monotonic()
    refused = fresh.log_in()
    assert refused.status == 429 and b"try again in" in refused.body and "set-cookie" not in refused.headers
    assert fresh.log_in("wrong", "somebody else").status == 429  # from the same address
    assert time.monotonic() - begin < 2, "who waits costs nothing"
    assert PASSWORD not in (fresh.home / "app.log").read_text()


@pytest.mark.browser
def test_a_person_logs_in_works_and_logs_out(guarded: Server, page: Page, watch: Watch) -> None:
    page.goto(f"{guarded.url}/runs")
    expect(page).to_have_url(f"{guarded.url}/login?next=/runs")
    page.get_by_label("Name").fill(NAME)
    page.get_by_label("Password").fill("not the password")
    page.get_by_role("button").click()
    expect(page.get_by_role("alert")).to_contain_text("do not go together")
    page.get_by_label("Name").fill(NAME)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button").click()
    expect(page.locator("h1").first).to_have_text("Runs", timeout=60_000)
    page.goto(guarded.url)
    page.locator("#example-captain").click()
    expect(page.locator("#dataset-status")).to_contain_text("conversations", timeout=60_000)
    assert page.evaluate("document.cookie").find(COOKIE) == -1
    assert page.evaluate(f"fetch('{LOGOUT}', {{method: 'POST'}}).then((answer) => answer.url)").endswith(LOGIN)
    page.goto(guarded.url)
    expect(page).to_have_url(f"{guarded.url}/login?next=/")


# -- whose pages may ask ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["private", "guarded"])
@pytest.mark.parametrize("foreign", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}])
def test_every_route_is_refused_to_a_foreign_page(
    which: str, foreign: dict[str, str], routes: list[tuple[str, str]], request: pytest.FixtureRequest
) -> None:
    """By rebinding (a foreign Host) and across sites (a foreign Origin), with the session that a browser would send."""
    server: Server = request.getfixturevalue(which)
    cookie = request.getfixturevalue("session") if which == "guarded" else ""
    for method, path in [*routes, ("GET", LOGIN), ("POST", LOGIN), ("POST", LOGOUT)]:
        body = b"{}" if method == "POST" else b""
        answer = server.ask(path, method, body, Content_Type="application/json", Cookie=cookie, **foreign)
        assert answer.status == 403, (method, path, answer.status)
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("which", ["private", "guarded"])
def test_a_foreign_page_that_asks_for_permission_gets_none(which: str, request: pytest.FixtureRequest) -> None:
    server: Server = request.getfixturevalue(which)
    name = "localhost" if which == "private" else own_names("0.0.0.0")[-1]
    asked = {"Origin": "http://evil.example", "Access_Control_Request_Method": "POST", "Host": f"{name}:{server.port}"}
    for path in ("/gradio_api/upload", "/gradio_api/queue/join", "/config"):
        answer = server.ask(path, "OPTIONS", **asked)
        assert "access-control-allow-origin" not in answer.headers and answer.status in (401, 403)


def test_every_route_says_that_it_may_not_be_framed_and_is_what_it_says(
    guarded: Server, session: str, routes: list[tuple[str, str]]
) -> None:
    for method, path in [each for each in routes if each[0] in ("GET", "HEAD") and "/stream/" not in each[1]]:
        for cookie in (session, ""):
            headers = guarded.ask(path, method, Cookie=cookie).headers
            assert headers["x-content-type-options"] == "nosniff", (method, path)
            assert headers["x-frame-options"] == "DENY", (method, path)
            assert "frame-ancestors 'none'" in headers["content-security-policy"], (method, path)


@pytest.mark.browser
def test_a_foreign_site_in_a_real_browser_gets_nothing(private: Server, page: Page, watch: Watch) -> None:
    """Another origin on this machine: it cannot read our page, show it in a frame, or post a file to it."""
    evil = f"http://127.0.0.1:{free_port()}/"
    page.route(evil, lambda route: route.fulfill(body="<h1>evil</h1>", content_type="text/html"))
    page.goto(evil)
    assert page.evaluate(f"fetch('{private.url}/config').then(() => 'read', () => 'refused')") == "refused"
    sent = page.evaluate(
        """async (url) => {
            const form = new FormData();
            form.append('files', new Blob(['{}']), 'evil.jsonl');
            const event = JSON.stringify({data: [], fn_index: 0, session_hash: 'evil'});
            for (const [path, body] of [['upload', form], ['queue/join', event]]) {
                const post = {method: 'POST', mode: 'no-cors', credentials: 'include', body};
                await fetch(`${url}/gradio_api/${path}`, post).catch(() => {});
            }
            const frame = document.createElement('iframe');
            frame.src = url;
            const shown = new Promise((done) => { frame.onload = done; });
            document.body.append(frame);
            await shown;
            return frames.length;
        }""",
        private.url,
    )
    assert sent == 1 and files(private.uploads) == []
    assert "LoRA Workbench" not in page.frames[1].content()


# -- how much --------------------------------------------------------------------------------------------------------


def test_a_file_larger_than_is_allowed_is_refused_and_nothing_is_left(private: Server) -> None:
    answer = private.ask("/gradio_api/upload", "POST", upload(bytes(3 * 2**20)), Content_Type=MULTIPART)
    assert answer.status == 413 and files(private.uploads) == []
    assert private.ask("/gradio_api/upload", "POST", upload(), Content_Type=MULTIPART).status == 200


@pytest.mark.parametrize("name", ["../../evil.jsonl", "/tmp/evil.jsonl", "..\\evil.jsonl", "a\x00b", "x" * 300])
def test_an_uploads_name_is_no_path(private: Server, name: str) -> None:
    outside = files(private.home.parent)
    stored = private.ask("/gradio_api/upload", "POST", upload(name=name), Content_Type=MULTIPART)
    if stored.status == 200:
        (path,) = json.loads(stored.body)
        assert Path(path).resolve().is_relative_to(private.uploads.resolve())
    new = set(files(private.home.parent)) - set(outside)
    assert new <= {path.name for path in private.uploads.rglob("*")} and not Path("/tmp/evil.jsonl").exists()
