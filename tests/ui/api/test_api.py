"""OpenAI's addresses over a service that answers with what it was asked."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from core.errors import AdapterError, ConfigError, RunError
from jobs.service import Served
from tests.ui.api.stand_in import CAPTAIN, StandInService
from ui.api import routes
from ui.api.answering import LARGEST_BODY
from ui.api.app import Api, ServedApi
from ui.guard import Receive, Scope, Send
from ui.login import FREE_TRIES

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
KEY = "lw-right"


async def page(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("the page")(scope, receive, send)


def client_of(service: StandInService, is_public: bool = False) -> TestClient:
    served = ServedApi(service, is_public=is_public)  # type: ignore[arg-type]
    return TestClient(Api(page, served), raise_server_exceptions=False)


@pytest.fixture
def service() -> StandInService:
    return StandInService()


@pytest.fixture
def client(service: StandInService) -> TestClient:
    return client_of(service)


def chat(text: Any = "Ahoy there matey", **others: Any) -> dict[str, Any]:
    return {"model": "captain", "messages": [{"role": "user", "content": text}], **others}


def completion(prompt: Any = "Once upon a time", **others: Any) -> dict[str, Any]:
    return {"model": "starter", "prompt": prompt, **others}


def events(text: str) -> list[Any]:
    lines = [line for line in text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    return [json.loads(line[6:]) if line != "data: [DONE]" else "DONE" for line in lines]


def error_of(answer: Any) -> dict[str, Any]:
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


# -- answers ---------------------------------------------------------------------------------------------------------


def test_a_chat_is_answered_in_openais_shape(client: TestClient, service: StandInService) -> None:
    answer = client.post(
        CHAT, json=chat(max_tokens=7, temperature=0, seed=3, stop="\n", user="me", metadata={"a": "b"})
    )
    said = answer.json()
    assert answer.status_code == 200 and said["object"] == "chat.completion" and said["id"].startswith("chatcmpl-")
    assert (said["model"], said["system_fingerprint"]) == ("captain", CAPTAIN.fingerprint)
    (choice,) = said["choices"]
    assert choice["message"]["content"] == "Ahoy there matey" and choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] == "stop"
    assert said["usage"] == {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
    ((served, (asked,)),) = service.serving.asked
    assert served is CAPTAIN and asked.stop == ("\n",)
    assert (asked.sampling.max_new_tokens, asked.sampling.temperature, asked.sampling.seed) == (7, 0, 3)


def test_what_is_not_said_is_as_openai_has_it(client: TestClient, service: StandInService) -> None:
    for _ in range(2):
        client.post(CHAT, json=chat(max_tokens=None, stop=None, n=None, seed=None))
    client.post(TEXT, json=completion())
    (_, (first,)), (_, (second,)), (_, (text,)) = service.serving.asked
    assert (first.sampling.temperature, first.sampling.top_p, first.stop) == (1.0, 1.0, ())
    assert first.sampling.seed != second.sampling.seed
    assert (first.sampling.max_new_tokens, text.sampling.max_new_tokens) == (1024, 16)


def test_what_other_servers_take_beside_is_taken_where_we_have_it(client: TestClient, service: StandInService) -> None:
    for fields in ({"top_k": 40, "repetition_penalty": 1.3}, {"top_k": -1, "min_p": 0}):
        assert client.post(CHAT, json=chat(**fields)).status_code == 200
    found = [(asked.sampling.top_k, asked.sampling.repetition_penalty) for _, (asked,) in service.serving.asked]
    assert found == [(40, 1.3), (0, 1.0)]


def test_several_choices_are_drawn_apart_and_again_alike_for_a_seed(
    client: TestClient, service: StandInService
) -> None:
    said = client.post(CHAT, json=chat(n=3, seed=5)).json()
    assert [choice["index"] for choice in said["choices"]] == [0, 1, 2]
    assert said["usage"] == {"prompt_tokens": 10, "completion_tokens": 9, "total_tokens": 19}
    client.post(CHAT, json=chat(n=3, seed=5))
    (_, first), (_, second) = service.serving.asked
    assert [one.sampling.seed for one in first] == [one.sampling.seed for one in second] == [5, 6, 7]


def test_a_chat_streams_piece_by_piece(client: TestClient) -> None:
    answer = client.post(CHAT, json=chat("Ahoy there", stream=True, stream_options={"include_usage": True}))
    assert answer.headers["content-type"].startswith("text/event-stream")
    *pieces, usage, done = events(answer.text)
    assert done == "DONE" and usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
    deltas = [piece["choices"][0]["delta"] for piece in pieces]
    assert deltas == [{"role": "assistant", "content": ""}, {"content": "Ahoy "}, {"content": "there"}, {}]
    assert [piece["choices"][0]["finish_reason"] for piece in pieces] == [None, None, None, "stop"]
    assert {piece["object"] for piece in pieces} == {"chat.completion.chunk"} and len({p["id"] for p in pieces}) == 1


def test_several_choices_stream_together_and_usage_is_told_only_when_asked_for(client: TestClient) -> None:
    *pieces, done = events(client.post(CHAT, json=chat("one two", stream=True, n=2)).text)
    assert done == "DONE" and not any("usage" in piece for piece in pieces)
    choices = [piece["choices"][0] for piece in pieces]
    for index, reason in ((0, "stop"), (1, "length")):
        mine = [choice for choice in choices if choice["index"] == index]
        assert "".join(choice["delta"].get("content", "") for choice in mine) == "one two"
        assert mine[-1]["finish_reason"] == reason


def test_texts_are_gone_on_with_and_each_prompts_tokens_count_once(client: TestClient, service: StandInService) -> None:
    said = client.post(TEXT, json=completion(["a b", "c"], n=2)).json()
    assert said["object"] == "text_completion" and said["id"].startswith("cmpl-")
    assert [choice["text"] for choice in said["choices"]] == ["a b", "a b", "c", "c"]
    assert said["usage"] == {"prompt_tokens": 10 + 12, "completion_tokens": 6, "total_tokens": 28}
    ((served, asked),) = service.serving.asked
    assert served.adapter_id is None and [one.text for one in asked] == ["a b", "a b", "c", "c"]
    assert all(one.messages == () for one in asked)


def test_a_text_streams(client: TestClient) -> None:
    *pieces, done = events(client.post(TEXT, json=completion("a b", stream=True)).text)
    assert done == "DONE" and [piece["choices"][0]["text"] for piece in pieces] == ["a ", "b", ""]
    assert {piece["object"] for piece in pieces} == {"text_completion"}


def test_contents_in_parts_are_one_text_and_developers_speak_as_the_system(
    client: TestClient, service: StandInService
) -> None:
    parts = [{"type": "text", "text": "Ahoy "}, {"type": "text", "text": "there"}]
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts, "name": "x"}]
    assert client.post(CHAT, json={"model": "captain", "messages": messages}).status_code == 200
    ((_, (asked,)),) = service.serving.asked
    assert [(message.role, message.content) for message in asked.messages] == [
        ("system", "Be brief."), ("user", "Ahoy there"),
    ]  # fmt: skip


def test_models_are_listed_and_shown_by_either_name(client: TestClient) -> None:
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list" and [model["id"] for model in listed["data"]] == ["starter", "captain"]
    assert all(model["object"] == "model" and model["owned_by"] for model in listed["data"])
    for name in ("captain", "captain%230a1b2c3d"):
        assert client.get(f"/v1/models/{name}").json()["id"] == "captain"


def test_no_folder_of_this_machine_is_told() -> None:
    there = Served(id="tiny", base_model="/somewhere/of/mine/tiny")
    assert routes._model(there)["base_model"] == "tiny"
    assert routes._model(Served(id="x", base_model="owner/x"))["base_model"] == "owner/x"


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("messages", [], "messages"),
        ("messages", "hello", "messages"),
        ("messages", [{"role": "tool", "content": "x"}], "messages.0.role"),
        ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "messages.0.content"),
        ("messages", [{"role": "user", "content": None}], "messages.0.content"),
        ("max_tokens", 0, "max_tokens"),
        ("max_tokens", "many", "max_tokens"),
        ("temperature", 2.1, "temperature"),
        ("temperature", -1, "temperature"),
        ("top_p", 0, "top_p"),
        ("n", 9, "n"),
        ("seed", 2**70, "seed"),
        ("stop", ["a"] * 5, "at most 4"),
        ("stop", [""], "stop"),
        ("frequency_penalty", 0.5, "frequency_penalty is not supported"),
        ("presence_penalty", 1, "presence_penalty is not supported"),
        ("logit_bias", {"5": 3}, "logit_bias is not supported"),
        ("logprobs", True, "logprobs is not supported"),
        ("tools", [{"type": "function"}], "tools is not supported"),
        ("response_format", {"type": "json_object"}, "response_format is not supported"),
        ("min_p", 0.1, "min_p is not supported"),
        ("repetition_penalty", 0, "repetition_penalty"),
        ("stream_options", {"include_usage": True}, "stream"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_sentence(
    client: TestClient, service: StandInService, field: str, value: Any, said: str
) -> None:
    answer = client.post(CHAT, json=chat(**{field: value}) if field != "messages" else {**chat(), field: value})
    error = error_of(answer)
    assert answer.status_code == 400 and error["type"] == "invalid_request_error"
    assert said in error["message"] and error["message"].endswith(".") and "\n" not in error["message"]
    assert service.serving.asked == []


@pytest.mark.parametrize(
    "harmless",
    [
        {"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "logprobs": False, "tools": []},
        {"response_format": {"type": "text"}, "tool_choice": "auto", "store": True, "service_tier": "auto"},
        {"parallel_tool_calls": True, "reasoning_effort": "low", "something_of_tomorrow": [1, {"a": 2}]},
    ],
)
def test_what_asks_for_nothing_is_taken(client: TestClient, harmless: dict[str, Any]) -> None:
    assert client.post(CHAT, json=chat(**harmless)).status_code == 200


@pytest.mark.parametrize("prompt", [[1, 2, 3], [[1, 2]], [], None, ["a"] * 17])
def test_prompts_that_are_no_texts_or_too_many_are_refused(client: TestClient, prompt: Any) -> None:
    assert client.post(TEXT, json=completion(prompt)).status_code == 400


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"model": "captain"}', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_request_is_refused(client: TestClient, body: bytes) -> None:
    answer = client.post(CHAT, content=body)
    assert answer.status_code == 400 and error_of(answer)["message"]


def test_a_letter_that_is_none_is_refused_or_answered(client: TestClient) -> None:
    answer = client.post(CHAT, content=b'{"model": "captain", "messages": [{"role": "user", "content": "\\ud800"}]}')
    assert answer.status_code == 400


def test_a_request_beyond_all_size_is_refused(client: TestClient) -> None:
    answer = client.post(CHAT, json=chat("x" * LARGEST_BODY))
    assert answer.status_code == 413 and error_of(answer)["message"]


def test_a_model_that_is_not_there_is_404(client: TestClient) -> None:
    for answer in (client.post(CHAT, json=chat(model="zebra")), client.get("/v1/models/zebra")):
        assert answer.status_code == 404
        assert error_of(answer)["code"] == "model_not_found" and "zebra" in error_of(answer)["message"]


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (ConfigError("There is no message to answer", hint="Type one"), 400, "invalid_request_error"),
        (AdapterError("It is broken", "layer 3"), 400, "invalid_request_error"),
        (RunError("The chat process died", "signal 9"), 503, "server_error"),
        (ZeroDivisionError("secret place"), 500, "server_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_goes_wrong_before_the_first_token_has_a_status_of_its_own(
    client: TestClient, service: StandInService, error: Exception, status: int, kind: str, stream: bool
) -> None:
    service.serving.fails_after = (0, error)
    answer = client.post(CHAT, json=chat(stream=stream))
    assert answer.status_code == status and error_of(answer)["type"] == kind
    assert "secret" not in answer.text and "Traceback" not in answer.text
    assert service.serving.closed == 1


def test_what_goes_wrong_later_is_the_last_piece_of_a_stream(client: TestClient, service: StandInService) -> None:
    service.serving.fails_after = (2, RunError("The chat process died"))
    *_, last = events(client.post(CHAT, json=chat(stream=True)).text)
    assert last["error"]["message"].startswith("The chat process died") and service.serving.closed == 1
    assert client.post(CHAT, json=chat()).status_code == 503


def test_addresses_that_are_none_and_other_methods_are_told_alike(client: TestClient) -> None:
    for method, path, status in (("GET", "/v1", 404), ("GET", "/v1/x", 404), ("GET", CHAT, 405), ("PUT", TEXT, 405)):
        answer = client.request(method, path)
        assert answer.status_code == status and error_of(answer)["code"] == "not_found"
    assert client.get("/v2/models").text == client.get("/v1x").text == "the page"


# -- keys ------------------------------------------------------------------------------------------------------------


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_without_keys_this_machine_needs_none_and_any_will_do(client: TestClient) -> None:
    assert client.get("/v1/models").status_code == 200
    assert client.get("/v1/models", headers=bearer("sk-anything")).status_code == 200


@pytest.mark.parametrize("is_public", [False, True])
def test_as_soon_as_there_is_a_key_it_is_demanded(is_public: bool) -> None:
    client = client_of(StandInService({KEY: "mine"}), is_public)
    wrong = ["", "Bearer", "Bearer ", f"Basic {KEY}", f"Bearer {KEY}x", f"Bearer {'x' * 9999}", KEY]
    for header in wrong:
        answer = client.get("/v1/models", headers={"Authorization": header})
        assert answer.status_code == 401 and error_of(answer)["code"] == "invalid_api_key", header
        assert answer.headers["www-authenticate"] == "Bearer" and KEY not in answer.text
    assert client.post(CHAT, json=chat(), headers=bearer(KEY)).status_code == 200


def test_others_need_a_key_even_where_there_is_none() -> None:
    client = client_of(StandInService(), is_public=True)
    for path in ("/v1/models", "/v1/x", "/v1"):
        answer = client.get(path, headers=bearer("any"))
        assert answer.status_code == 401 and "keys add" in error_of(answer)["message"]


def test_who_tries_many_keys_has_to_wait_and_a_right_one_is_let_in_all_the_same() -> None:
    client = client_of(StandInService({KEY: "mine"}))
    tried = [client.get("/v1/models", headers=bearer(f"lw-{number}")) for number in range(FREE_TRIES + 2)]
    assert [answer.status_code for answer in tried] == [401] * FREE_TRIES + [429] * 2
    assert int(tried[-1].headers["retry-after"]) > 0 and error_of(tried[-1])["type"] == "rate_limit_error"
    assert client.get("/v1/models", headers=bearer(KEY)).status_code == 200
