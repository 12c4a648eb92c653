"""From the turns that a file holds to messages, whatever the file calls who speaks and what is said.

    {"role": "user", "content": "Hi"}              OpenAI; content may be a list of {"type": "text", "text": "Hi"}
    {"from": "human", "value": "Hi"}               ShareGPT
    {"human": "Hi", "assistant": "Ahoy"}           both in one
    ["Hi", "Ahoy"], [["Hi", "Ahoy"]]               plain turns, the person first
    "\\n\\nHuman: Hi\\n\\nAssistant: Ahoy"             a transcript

Calls of tools may be a message's `tool_calls`, a turn of their own (`function_call`) or a part of typed content; tools
answer as `tool`, `function` or `observation`. What a model thinks before it speaks, where a file keeps it apart, is put
before the answer between `<think>` and `</think>`, as models that think write it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from types import MappingProxyType
from typing import Any, cast

from core.data.formats.cells import decoded, empty, is_nothing, json_text, sound_text, with_article
from core.data.formats.tool_calls import calls_of
from core.data.records import Conversation, Message, Role
from core.data.rows import BadRow, kind_of

CALL = "call"  # a turn that is nothing but a call of tools
SPEAKERS = MappingProxyType({
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "model": "assistant", "chatgpt": "assistant",
    "ai": "assistant", "bard": "assistant", "bing": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "ipython": "tool", "tool_response": "tool",
    "function_response": "tool",
    "function_call": CALL, "tool_call": CALL,
})  # fmt: skip
ROLE_KEYS = ("role", "from", "speaker", "author", "sender")
CONTENT_KEYS = ("content", "value", "text", "message", "utterance")
_BOTH_KEYS = MappingProxyType({
    **dict.fromkeys(("system",), "system"),
    **dict.fromkeys(("human", "user", "input", "question", "prompt", "instruction"), "user"),
    **dict.fromkeys(("assistant", "output", "answer", "response", "completion", "gpt", "bot", "ai"), "assistant"),
})  # fmt: skip
_WEIGHTS = ("weight", "loss_weight", "train", "training")
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
_TEXT_PARTS = ("text", "input_text", "output_text")
_CALL_PARTS = ("tool_call", "tool_use", "function_call")
_SPOKEN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):[ ]?")


def conversation(messages: Sequence[Message], number: int, tools: str | None = None) -> Conversation:
    """The messages up to the last of the assistant that is learned: nothing behind it is.

    Raises:
        BadRow: there is none, or a message says nothing.
    """
    end = len(messages)
    while end and not (messages[end - 1].role == "assistant" and messages[end - 1].weight):
        end -= 1
    if not end:
        raise _without_answer(messages)
    for message in messages[:end]:
        text = message.content
        if (not text or text.isspace()) and message.role in ("user", "assistant") and message.tool_calls is None:
            raise empty(f"{message.role} message", "empty" if message.role == "user" else "missing_answers")
    return Conversation(messages=tuple(messages[:end]), source_row=number, tools=tools)


def _without_answer(messages: Sequence[Message]) -> BadRow:
    if any(message.role == "assistant" for message in messages):
        what, hint = "has assistant messages of weight 0 alone", "Give one the weight 1 or remove the row"
    else:
        what, hint = "has no assistant message", "Add one or remove the row"
    return BadRow(what, hint, "missing_answers")


def messages_of(cell: Any, what: str) -> list[Message]:
    """The messages of a cell that holds turns, a single one, or either as JSON text.

    Raises:
        BadRow: it holds something else, or a turn cannot be read.
    """
    turns = cell if type(cell) is list else decoded(cell)
    if isinstance(turns, dict):
        turns = [turns]
    if not isinstance(turns, list):
        raise BadRow(f"has {what} that are {kind_of(cell)}, not a list of messages", "Correct or remove the row")
    messages = []
    for turn in turns:  # the two shapes that nearly all turns have come first, since there are millions of them
        if type(turn) is dict and len(turn) == 2:
            role, content = turn.get("role"), turn.get("content")
            if role is None:
                role, content = turn.get("from"), turn.get("value")
            if type(role) is str and type(content) is str and role in SPEAKERS and SPEAKERS[role] is not CALL:
                known: Role = SPEAKERS[role]  # type: ignore[assignment]
                messages.append(Message(role=known, content=sound_text(content, f"{known} message")))
                continue
        messages += _messages_of_turn(turn)
    return messages


def said(cell: Any, what: str, role: Role) -> list[Message]:
    """The messages of a cell that may also be plain text, which is then said by `role`.

    Raises:
        BadRow: it holds neither.
    """
    found = talk_in(cell)
    return [Message(role=role, content=sound_text(cell, what))] if found is None else messages_of(found, what)


def talk_in(cell: Any) -> Any:
    """The turns of a cell; None where it holds something else. JSON text counts where all of it is turns of speakers
    that are known: an answer may well be JSON, and is learned as it stands.
    """
    if not isinstance(cell, str):
        return cell if is_talk(cell) else None
    turns = decoded(cell) if cell.startswith("[{") else None
    is_sure = isinstance(turns, list) and all(is_talk(turn) and SPEAKERS.get(_role(turn)) for turn in turns)
    return turns if is_sure else None


def is_talk(value: Any) -> bool:
    """Whether `value` is a turn, or a list of them."""
    first = next((turn for turn in value), None) if isinstance(value, list) else value
    if not isinstance(first, dict):
        return False
    speaks = any(key in first for key in ROLE_KEYS) and any(key in first for key in (*CONTENT_KEYS, "tool_calls"))
    roles = {_BOTH_KEYS.get(str(key).lower()) for key in first}
    return speaks or {"user", "assistant"} <= roles


def plain_turns(cell: Any, what: str) -> list[Message]:
    """The messages of a list of texts, or of pairs of texts, the person's first.

    Raises:
        BadRow: it is no such list.
    """
    turns = decoded(cell)
    if not isinstance(turns, list):
        raise BadRow(f"has {what} that are {kind_of(cell)}, not a list of texts", "Correct or remove the row")
    texts = [text for turn in turns for text in (turn if isinstance(turn, list) else [turn])]
    if any(isinstance(turn, list) and len(turn) != 2 for turn in turns):
        raise BadRow(f"has {what} that are neither texts nor pairs of texts", "Correct or remove the row")
    roles: tuple[Role, Role] = ("user", "assistant")
    return [
        Message(role=roles[at % 2], content=sound_text(text, f"{roles[at % 2]} message"))
        for at, text in enumerate(texts)
    ]


def transcript(text: Any) -> list[Message]:
    """The messages of `\\n\\nHuman: …\\n\\nAssistant: …`; none where `text` is something else."""
    if not isinstance(text, str) or not _SPOKEN.match(text):
        return []
    _, *parts = _SPOKEN.split(sound_text(text, "transcript"))
    roles: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}
    messages = [Message(role=roles[who], content=what) for who, what in zip(parts[::2], parts[1::2], strict=True)]
    return messages if messages[-1].content.strip() else messages[:-1]


def _messages_of_turn(turn: Any) -> Iterator[Message]:
    if not isinstance(turn, dict):
        raise BadRow(f"has a message that is {kind_of(turn)}, not an object", "Correct or remove the row")
    role = _role(turn)
    if role is None and (both := _of_both(turn)):
        yield from both
        return
    if not isinstance(role, str):
        raise BadRow("has a message without a role", "Add role or from to it, or remove the row")
    known = SPEAKERS.get(role) or SPEAKERS.get(role.strip().lower())
    if known is None:
        raise BadRow(f"has a message of the role {role!r}", "Use system, user and assistant, or remove the row")
    content = next((turn[key] for key in CONTENT_KEYS if turn.get(key) is not None), None)
    yield _called(content, turn) if known == CALL else _message(cast(Role, known), content, turn)


def _role(turn: dict[str, Any]) -> Any:
    return next((turn[key] for key in ROLE_KEYS if turn.get(key) is not None), None)


def _of_both(turn: dict[str, Any]) -> list[Message]:
    """The messages of a turn that holds a question and its answer; none where it is something else."""
    roles = {key: _BOTH_KEYS[str(key).lower()] for key in turn if str(key).lower() in _BOTH_KEYS}
    if not {"user", "assistant"} <= set(roles.values()):
        return []
    return [
        Message(role=cast(Role, role), content=sound_text(turn[key], f"{role} message"))
        for key, role in roles.items()
        if role != "system" or not is_nothing(turn[key])
    ]


def _called(content: object, turn: dict[str, Any]) -> Message:
    calls = decoded(content)
    if not isinstance(calls, (list, dict)):
        raise BadRow("has a function call that is not JSON", "Correct or remove the row")
    return Message(role="assistant", content="", weight=_weight(turn), tool_calls=calls_of(calls))


def _message(role: Role, content: Any, turn: dict[str, Any]) -> Message:
    what = f"{role} message"
    calls, thoughts = None, ""
    if role == "assistant":
        listed = next((turn[key] for key in ("tool_calls", "function_call") if not is_nothing(turn.get(key))), None)
        thoughts = next((turn[key] for key in _THOUGHTS if not is_nothing(turn.get(key))), "")
        if isinstance(content, list):
            listed = listed or [_inner(part) for part in content if _kind(part) in _CALL_PARTS]
            thoughts = thoughts or "".join(str(_inner(part)) for part in content if _kind(part) in _THOUGHTS)
            content = [part for part in content if _kind(part) not in (*_CALL_PARTS, *_THOUGHTS)]
        calls = calls_of(listed) if listed else None
    text = "" if content is None and calls else _content(content, what, role)
    if thoughts:
        text = f"<think>\n{sound_text(thoughts, 'reasoning')}\n</think>\n\n{text}"
    name = turn.get("name")
    return Message(
        role=role,
        content=text,
        weight=_weight(turn) if role == "assistant" else 1,
        tool_calls=calls,
        name=sound_text(name, "name") if isinstance(name, str) and name else None,
    )


def _kind(part: object) -> object:
    return part.get("type", "text") if isinstance(part, dict) else None


def _inner(part: dict[str, Any]) -> Any:
    """What a part of typed content holds, under whichever key; the part itself where it is flat."""
    keys = ("value", "text", *_THOUGHTS, *_CALL_PARTS)
    return next((part[key] for key in keys if part.get(key) is not None), part)


def _content(value: Any, what: str, role: Role) -> str:
    """The text of a message, whose content may also be a list of typed parts; what a tool says may be any JSON."""
    if role == "tool" and (isinstance(value, dict) or (isinstance(value, list) and not all(map(_kind, value)))):
        return json_text(value, "a tool's answer")
    if not isinstance(value, list):
        return sound_text(value, what)
    for part in value:
        if _kind(part) not in _TEXT_PARTS:
            raise BadRow(
                f"has {with_article(what)} with something else than text", "Keep the text only, or remove the row"
            )
    return "".join(sound_text(part.get("text", part.get("value")), what) for part in value)


def _weight(turn: dict[str, Any]) -> int:
    for key in _WEIGHTS:
        weight = turn.get(key)
        if weight is None:
            continue
        if weight not in (0, 1):
            raise BadRow(f"has a message of the weight {weight!r}", "Write 0 or 1, or remove the row")
        return int(weight)
    return 1
