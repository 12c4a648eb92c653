"""Turns of every shape become messages, or one sentence on what is wrong with them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from core.data.formats.detection import Mapping, to_record
from core.data.records import Conversation, Message
from core.data.rows import BadRow, Row

USER = {"role": "user", "content": "Tide?"}
ANSWER = {"role": "assistant", "content": "At five."}
CALL = {"name": "tide", "arguments": {"place": "Ems"}}
KEPT = [{"type": "function", "function": CALL}]


def read(turns: Any, **more: Any) -> Conversation:
    columns = {"messages": "turns", **{key: key for key in more}}
    record = to_record(Row(number=4, values={"turns": turns, **more}), Mapping(format="messages", columns=columns))
    assert isinstance(record, Conversation)
    return record


def calls(message: Message) -> Any:
    return json.loads(message.tool_calls or "null")


@pytest.mark.parametrize(
    "turn",
    [
        {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": CALL}]},
        {"role": "assistant", "tool_calls": [{"function": {**CALL, "arguments": json.dumps(CALL["arguments"])}}]},
        {"role": "assistant", "content": "", "tool_calls": json.dumps([CALL])},
        {"role": "assistant", "content": "", "tool_calls": [{"name": "tide", "parameters": CALL["arguments"]}]},
        {"role": "assistant", "content": None, "function_call": {**CALL, "arguments": '{"place": "Ems"}'}},
        {"role": "assistant", "content": [{"type": "tool_use", "name": "tide", "input": CALL["arguments"]}]},
        {"role": "assistant", "content": [{"type": "tool_call", "value": json.dumps(CALL)}]},
        {"from": "function_call", "value": json.dumps(CALL)},
        {"from": "function_call", "value": json.dumps([CALL])},
    ],
)
def test_a_call_is_kept_alike_however_it_is_written(turn: dict[str, Any]) -> None:
    called = read([USER, turn, ANSWER]).messages[1]
    assert (called.role, called.content, calls(called)) == ("assistant", "", KEPT)


def test_a_call_at_the_end_is_learned_and_text_beside_it_is_kept() -> None:
    (_, called) = read([USER, {"role": "assistant", "content": "Wait.", "tool_calls": [CALL]}]).messages
    assert (called.content, calls(called)) == ("Wait.", KEPT)


@pytest.mark.parametrize(
    ("content", "kept"),
    [("16:40", "16:40"), ({"time": "16:40"}, '{"time":"16:40"}'), ([1, 2], "[1,2]"), ("", ""),
     ([{"type": "text", "text": "16:40"}], "16:40")],
)  # fmt: skip
def test_what_a_tool_says_may_be_anything(content: Any, kept: str) -> None:
    messages = read([USER, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": content}, ANSWER])
    assert messages.messages[2] == Message(role="tool", content=kept)


@pytest.mark.parametrize(
    ("tools", "kept"),
    [
        ([{"type": "function", "function": {"name": "tide"}}], [{"type": "function", "function": {"name": "tide"}}]),
        ([{"name": "tide"}], [{"type": "function", "function": {"name": "tide"}}]),
        (json.dumps([{"name": "tide"}]), [{"type": "function", "function": {"name": "tide"}}]),
        ([json.dumps({"name": "tide"})], [{"type": "function", "function": {"name": "tide"}}]),
        ([{"name": "tide", "strict": None}], [{"type": "function", "function": {"name": "tide"}}]),
        ([], None),
        ("[]", None),
        ("", None),
        (None, None),
    ],
)
def test_tools_are_kept_alike_however_they_are_written(tools: Any, kept: Any) -> None:
    found = read([USER, ANSWER], tools=tools).tools
    assert (None if found is None else json.loads(found)) == kept


def test_a_message_of_weight_0_is_kept_and_what_follows_the_last_that_is_learned_is_not() -> None:
    unlearned = {**ANSWER, "weight": 0}
    record = read([USER, unlearned, USER, ANSWER, USER, unlearned])
    assert [(turn.role, turn.weight) for turn in record.messages] == [
        ("user", 1), ("assistant", 0), ("user", 1), ("assistant", 1),
    ]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), [("weight", 0), ("weight", 0.0), ("loss_weight", 0), ("train", False)])
def test_a_weight_goes_by_several_names(key: str, value: Any) -> None:
    record = read([USER, {**ANSWER, key: value}, USER, {**ANSWER, key: 1}])
    assert [turn.weight for turn in record.messages] == [1, 0, 1, 1]


@pytest.mark.parametrize(
    ("turns", "sentence"),
    [
        ([USER, {**ANSWER, "weight": 0}], "has assistant messages of weight 0 alone"),
        ([USER, {**ANSWER, "weight": 0.5}], "has a message of the weight 0.5"),
        ([USER, {**ANSWER, "weight": "none"}], "has a message of the weight 'none'"),
        ([USER, {"role": "assistant", "tool_calls": ["tide"]}], "has a tool call that is no object"),
        ([USER, {"role": "assistant", "tool_calls": [{"arguments": {}}]}], "has a tool call's name that is null"),
        ([USER, {"from": "function_call", "value": "tide()"}], "has a function call that is not JSON"),
        ([USER, {"role": "assistant", "tool_calls": [{"name": "a", "arguments": {"n": 10**40}}]}], "cannot be written"),
        ([{"role": "user", "content": {"text": "Hi"}}, ANSWER], "has a user message that is an object, not text"),
        ([{"role": ["user"], "content": "Hi"}, ANSWER], "has a message without a role"),
        ([{"human": "Hi", "assistant": 5}], "has an assistant message that is a number"),
    ],
)
def test_turns_that_cannot_be_learned_say_why(turns: Any, sentence: str) -> None:
    with pytest.raises(BadRow, match=sentence):
        read(turns)


def test_tools_that_are_no_list_are_refused() -> None:
    for tools in ("tide", 5, ["tide"]):
        with pytest.raises(BadRow, match="has tools that are no list of objects"):
            read([USER, ANSWER], tools=tools)


def test_thoughts_go_before_the_answer_and_an_answer_stays_as_it_is() -> None:
    parts = [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Five."}]
    record = read([USER, {"role": "assistant", "content": parts}, USER, {**ANSWER, "reasoning_content": None}])
    assert [turn.content for turn in record.messages[1::2]] == ["<think>\nHm.\n</think>\n\nFive.", "At five."]


def test_the_system_column_gives_way_to_a_system_message() -> None:
    own = {"role": "system", "content": "Mine"}
    assert [turn.content for turn in read([own, USER, ANSWER], system="Theirs").messages][0] == "Mine"
    assert [turn.content for turn in read([USER, ANSWER], system="Theirs").messages][0] == "Theirs"
