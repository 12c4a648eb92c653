"""The official client against the running app: a tiny model with four adapters."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletion
from tokenizers import Tokenizer

from jobs.home import PROJECT
from tests.browser.driver import App
from tests.jobs.adapters_on_tiny import put_adapters
from tests.jobs.tiny_model import write_tiny_model
from tests.jobs.waiting import wait_for

RANKS = {"captain": 2, "json": 4, "poet": 8, "brief": 16}
LONG = 300


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[App]:
    home = tmp_path_factory.mktemp("home")
    put_adapters(home, model, RANKS)
    environment = {"LORA_WORKBENCH_MODELS": str(model.parent), "OMP_NUM_THREADS": "1"}
    running = App(home=home, environment=environment)
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def client(app: App) -> Iterator[OpenAI]:
    with client_of(app, "whatever") as client:
        yield client


def client_of(app: App, key: str) -> OpenAI:
    return OpenAI(base_url=f"{app.url}/v1", api_key=key, max_retries=0, timeout=120)


def requests() -> list[dict[str, Any]]:
    """Sixteen for four adapters, of other lengths; every third is drawn with a seed."""
    return [
        {
            "model": name,
            "messages": [{"role": "user", "content": f"{name} {turn}: " + "tell me more, " * (3 * turn)}],
            "max_tokens": 24 + 5 * turn,
            "temperature": 0.8 if (turn + len(name)) % 3 == 0 else 0,
            "seed": turn,
        }
        for turn in range(4)
        for name in RANKS
    ]


def ask(client: OpenAI, request: dict[str, Any]) -> str:
    answer: ChatCompletion = client.chat.completions.create(**request)
    return answer.choices[0].message.content or ""


def ask_streaming(client: OpenAI, request: dict[str, Any]) -> str:
    return "".join(
        chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**request, stream=True)
    )


@pytest.mark.parametrize("way", [ask, ask_streaming])
def test_sixteen_requests_at_once_for_four_adapters_are_answered_as_each_alone(
    client: OpenAI, way: Callable[[OpenAI, dict[str, Any]], str]
) -> None:
    alone = [ask(client, request) for request in requests()]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda request: way(client, request), requests()))
    assert together == alone
    assert len(set(alone)) > 12 and sum(map(len, alone)) > 200


def test_models_are_listed_with_what_they_stand_on(client: OpenAI, model: Path) -> None:
    listed = client.models.list().data
    assert [each.id for each in listed] == ["tiny", *reversed(RANKS)]
    assert client.models.retrieve("poet#00000002").id == "poet"
    with pytest.raises(openai.NotFoundError, match="no model zebra"):
        client.models.retrieve("zebra")


def test_an_answer_says_what_it_took_and_who_it_is(client: OpenAI, model: Path) -> None:
    text = "What is a star?"
    answer = client.chat.completions.create(
        model="captain", messages=[{"role": "user", "content": text}], max_completion_tokens=9, temperature=0
    )
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    rendered = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(tokenizer.encode(rendered).ids)
    assert answer.usage.completion_tokens == 9 and answer.choices[0].finish_reason == "length"
    assert answer.system_fingerprint == "00000000" and answer.model == "captain"
    *_, last = client.chat.completions.create(
        model="captain", messages=[{"role": "user", "content": text}], max_completion_tokens=9, temperature=0,
        stream=True, stream_options={"include_usage": True},
    )  # fmt: skip
    assert last.usage == answer.usage and last.choices == []


def test_an_answer_ends_before_a_stop_whole_and_streaming(client: OpenAI) -> None:
    request = {**requests()[1], "temperature": 0, "max_tokens": 40}
    whole = ask(client, request)
    stops = [whole[12:15], "never said"]
    cut = whole[: whole.find(stops[0])]
    answer = client.chat.completions.create(**request, stop=stops)
    assert answer.choices[0].message.content == cut and answer.choices[0].finish_reason == "stop"
    assert ask_streaming(client, {**request, "stop": stops}) == cut


def test_a_text_is_gone_on_with_by_the_base_and_by_an_adapter(client: OpenAI) -> None:
    said = [
        [
            choice.text
            for choice in client.completions.create(model=name, prompt=["Once", "upon"], temperature=0).choices
        ]
        for name in ("tiny", "poet")
    ]
    assert len(said[0]) == len(said[1]) == 2 and said[0] != said[1]
    streamed = client.completions.create(model="poet", prompt="Once", temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == said[1][0]


def test_several_choices_differ_and_come_again_for_a_seed(client: OpenAI) -> None:
    request = {**requests()[0], "temperature": 1.0, "n": 4, "seed": 11}
    first, second = (
        [choice.message.content for choice in client.chat.completions.create(**request).choices] for _ in range(2)
    )
    assert first == second and len(set(first)) == 4


def chat_process(app: App) -> psutil.Process:
    assert app.process is not None
    children = psutil.Process(app.process.pid).children(recursive=True)
    (found,) = [child for child in children if "jobs.chat" in child.cmdline()]
    return found


def test_a_stream_that_is_closed_is_written_no_further(app: App, client: OpenAI) -> None:
    """Neither one that is read from nor one whose answer has not begun: the process comes to rest long before."""
    request = {**requests()[0], "temperature": 0, "max_tokens": 1900}
    streams = [client.chat.completions.create(**request, stream=True) for _ in range(16)]
    for stream in streams:
        next(iter(stream))
    for stream in streams:
        stream.close()
    with pytest.raises(openai.APITimeoutError):
        ask(client.with_options(timeout=0.3), request)
    process = chat_process(app)
    wait_for(lambda: process.cpu_percent(0.2) < 20)
    steps = sum(process.cpu_times()[:2])
    assert ask(client, {**request, "max_tokens": LONG})
    assert sum(process.cpu_times()[:2]) > steps


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"model": "zebra"}, openai.NotFoundError, "no model zebra"),
        ({"temperature": 9}, openai.BadRequestError, "temperature"),
        ({"frequency_penalty": 1.0}, openai.BadRequestError, "frequency_penalty is not supported"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, openai.BadRequestError, "no message to answer"),
        ({"messages": [{"role": "user", "content": "x" * 5000}]}, openai.BadRequestError, "the model reads 2048"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_refusals_reach_the_client_as_its_own_errors(
    client: OpenAI, change: dict[str, Any], error: type[Exception], said: str, stream: bool
) -> None:
    with pytest.raises(error, match=said):
        client.chat.completions.create(**{**requests()[0], **change}, stream=stream)


def keys(app: App, *words: str) -> str:
    command = [sys.executable, "app.py", "keys", *words, "--home", str(app.home)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=True).stdout


def test_a_key_is_demanded_from_when_it_is_made_until_it_is_revoked(app: App, client: OpenAI) -> None:
    key = keys(app, "add", "laptop").strip()
    try:
        assert re.fullmatch(r"lw-[\w-]{43}", key)
        for wrong in ("whatever", key[:-1], key.upper()):
            with client_of(app, wrong) as stranger, pytest.raises(openai.AuthenticationError, match="no such API key"):
                stranger.models.list()
        with client_of(app, key) as owner:
            assert ask(owner, requests()[0])
        listed = keys(app, "list")
        assert "laptop" in listed and key[-4:] in listed and key not in listed and "never" not in listed
    finally:
        keys(app, "revoke", "laptop")
    assert client.models.list().data
    for file in app.home.rglob("*"):
        assert not file.is_file() or key.encode() not in file.read_bytes(), file
