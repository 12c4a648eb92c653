"""The login in front of an app that would answer anything."""

from __future__ import annotations

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from ui.guard import Receive, Scope, Send
from ui.login import COOKIE, FIRST_WAIT, FREE_TRIES, LONGEST_WAIT, REMEMBERED, SESSION_SECONDS, Login, Throttle

PAGE = {"accept": "text/html,*/*"}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def everything(scope: Scope, receive: Receive, send: Send) -> None:
    request = Request(scope, receive)
    await PlainTextResponse(f"secret at {request.url.path}")(scope, receive, send)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def client(clock: Clock) -> TestClient:
    login = Login(everything, lambda name, password: (name, password) == ("ada", "right"), clock)
    return TestClient(login, follow_redirects=False)


def log_in(client: TestClient, password: str = "right", target: str = "/", name: str = "ada") -> tuple[int, str]:
    answer = client.post("/login", data={"name": name, "password": password, "next": target})
    return answer.status_code, answer.headers.get("location", answer.text)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"])
@pytest.mark.parametrize(
    "path", ["/", "/runs", "/config", "/gradio_api/upload", "/workbench/style.css", "/login/", "//login"]
)
def test_nothing_is_reached_without_a_session(client: TestClient, method: str, path: str) -> None:
    answer = client.request(method, path)
    assert answer.status_code == 401 and "secret" not in answer.text


def test_a_browser_is_led_to_the_login_and_from_there_where_it_wanted_to_go(client: TestClient) -> None:
    answer = client.get("/runs", headers=PAGE)
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=/runs")
    page = client.get(answer.headers["location"])
    assert page.status_code == 200 and 'value="/runs"' in page.text
    assert log_in(client, target="/runs") == (303, "/runs")
    assert client.get("/runs", headers=PAGE).text == "secret at /runs"


def test_the_cookie_is_for_this_site_alone_and_for_no_script(client: TestClient) -> None:
    answer = client.post("/login", data={"name": "ada", "password": "right"})
    cookie = answer.headers["set-cookie"].lower()
    assert cookie.startswith(COOKIE) and "httponly" in cookie and "samesite=strict" in cookie and "path=/" in cookie


@pytest.mark.parametrize("token", ["", "x", "a" * 43, "../", "\x7f"])
def test_a_made_up_session_is_none(client: TestClient, token: str) -> None:
    assert client.get("/", headers={"cookie": f"{COOKIE}={token}"}).status_code == 401


def test_logging_out_ends_the_session_and_takes_a_post(client: TestClient) -> None:
    log_in(client)
    assert client.get("/logout").status_code == 405 and client.get("/").status_code == 200
    before = client.cookies[COOKIE]
    assert client.post("/logout").headers["location"] == "/login"
    assert client.get("/", headers={"cookie": f"{COOKIE}={before}"}).status_code == 401


def test_a_session_that_is_not_used_ends(client: TestClient, clock: Clock) -> None:
    log_in(client)
    clock.now += SESSION_SECONDS - 1
    assert client.get("/").status_code == 200
    clock.now += SESSION_SECONDS - 1
    assert client.get("/").status_code == 200
    clock.now += SESSION_SECONDS + 1
    assert client.get("/").status_code == 401


@pytest.mark.parametrize(
    "target", ["//evil.example", "/\\evil.example", "https://evil.example", "javascript:x", "/\nx", ""]
)
def test_nobody_is_sent_elsewhere(client: TestClient, target: str) -> None:
    assert log_in(client, target=target) == (303, "/")


def test_what_is_typed_is_shown_as_text(client: TestClient) -> None:
    page = client.get("/login", params={"next": '/"><script>'}).text
    assert "<script>" not in page
    assert "<script>" not in log_in(client, "wrong", target='/"><script>')[1]


def test_a_wrong_password_says_so_and_lets_nobody_in(client: TestClient) -> None:
    status, text = log_in(client, "wrong")
    assert status == 401 and "do not go together" in text and client.get("/").status_code == 401


def test_who_guesses_waits_longer_each_time_and_then_the_right_one_is_let_in(client: TestClient, clock: Clock) -> None:
    for _ in range(FREE_TRIES):
        assert log_in(client, "wrong")[0] == 401
    wait = FIRST_WAIT
    for _ in range(3):
        status, text = log_in(client)
        assert status == 429 and f"{wait:.0f} seconds" in text
        clock.now += wait
        assert log_in(client, "wrong")[0] == 401
        wait *= 2
    clock.now += wait
    assert log_in(client)[0] == 303 and log_in(client, "wrong")[0] == 401


def test_an_address_that_guesses_many_names_waits_too(client: TestClient) -> None:
    for number in range(FREE_TRIES):
        log_in(client, "wrong", name=f"name {number}")
    assert log_in(client)[0] == 429


def test_nobody_waits_for_ever_and_little_is_remembered() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    for _ in range(100):
        throttle.fail(("ada",))
    assert throttle.wait(("ada",)) == LONGEST_WAIT
    for number in range(REMEMBERED + 5):
        throttle.fail((str(number),))
    assert len(throttle._failures) == REMEMBERED


def test_a_form_too_large_is_not_read(client: TestClient) -> None:
    assert log_in(client, "x" * 10_000)[0] == 413


def test_gradios_own_beginning_is_open_and_nothing_beside_it(client: TestClient) -> None:
    assert client.get("/gradio_api/startup-events").status_code == 200
    assert client.get("/gradio_api/startup-events/").status_code == 401
