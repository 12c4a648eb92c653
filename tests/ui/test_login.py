"""The login in front of an app that would answer anything."""

from __future__ import annotations

import asyncio
import time

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from tests.loops import Loop
from ui.guard import Receive, Scope, Send
from ui.login import (
    COOKIE,
    FIRST_WAIT,
    FREE_TRIES,
    LONGEST_WAIT,
    LOOK_SECONDS,
    OLDEST_SESSION,
    REMEMBERED,
    SESSION_SECONDS,
    Login,
    Sessions,
    Throttle,
)

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
def stamps() -> dict[str, str]:
    return {"ada": "her first password"}


@pytest.fixture
def client(clock: Clock, stamps: dict[str, str]) -> TestClient:
    sessions = Sessions(lambda: dict(stamps), clock)
    login = Login(everything, lambda name, password: (name, password) == ("ada", "right"), sessions, Throttle(clock))
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
        clock.now += throttle.begin(("ada",))
    throttle.begin(("ada",))
    assert throttle.begin(("ada",)) == LONGEST_WAIT
    for number in range(REMEMBERED + 5):
        throttle.begin((str(number),))
    assert len(throttle._failures) == REMEMBERED


def test_a_name_that_others_guess_at_lets_its_owner_in(clock: Clock, stamps: dict[str, str]) -> None:
    sessions = Sessions(lambda: stamps, clock)
    login = Login(everything, lambda name, password: password == "right", sessions, Throttle(clock))
    guessing, owner = (TestClient(login, follow_redirects=False, client=(host, 1)) for host in ("10.0.0.9", "10.0.0.5"))
    for _ in range(FREE_TRIES):
        log_in(guessing, "wrong")
    assert log_in(guessing)[0] == 429 and log_in(owner)[0] == 303


def test_many_tries_at_once_are_no_more_than_one_after_the_other(stamps: dict[str, str]) -> None:
    asked: list[str] = []

    def check(name: str, password: str) -> bool:
        asked.append(password)
        time.sleep(0.05)
        return False

    async def burst() -> list[int]:
        transport = httpx.ASGITransport(Login(everything, check, Sessions(lambda: stamps), Throttle()))
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            forms = [{"name": "ada", "password": str(number)} for number in range(20)]
            answers = await asyncio.gather(*(client.post("/login", data=form) for form in forms))
        return [answer.status_code for answer in answers]

    with Loop() as loop:
        found = loop.run(burst())
    assert len(asked) == found.count(401) == FREE_TRIES and found.count(429) == 20 - FREE_TRIES


def test_a_session_is_over_after_a_week_however_much_it_is_used(client: TestClient, clock: Clock) -> None:
    log_in(client)
    while clock.now < OLDEST_SESSION:
        assert client.get("/").status_code == 200
        clock.now += SESSION_SECONDS / 2
    clock.now += 1
    assert client.get("/").status_code == 401


@pytest.mark.parametrize("change", [{"ada": "another password"}, {}])
def test_a_new_password_and_a_removal_end_the_sessions(
    client: TestClient, clock: Clock, stamps: dict[str, str], change: dict[str, str]
) -> None:
    log_in(client)
    stamps.clear()
    stamps.update(change)
    clock.now += LOOK_SECONDS + 1
    assert client.get("/").status_code == 401


def test_a_form_too_large_is_not_read(client: TestClient) -> None:
    assert log_in(client, "x" * 10_000)[0] == 413
    pieces = (b"x" * 4096 for _ in range(1000))  # without saying how long it will be
    assert client.post("/login", content=pieces).status_code == 413 and next(pieces, None) is None


def test_behind_https_the_cookie_is_for_https(client: TestClient) -> None:
    answer = client.post(
        "/login", data={"name": "ada", "password": "right"}, headers={"origin": "https://models.example"}
    )
    assert "secure" in answer.headers["set-cookie"].lower()


def test_gradios_own_beginning_is_open_and_nothing_beside_it(client: TestClient) -> None:
    assert client.get("/gradio_api/startup-events").status_code == 200
    assert client.get("/gradio_api/startup-events/").status_code == 401
