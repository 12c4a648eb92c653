"""Tools and their calls, as the chat templates of models take them, whichever way a file writes them.

    tools       [{"type": "function", "function": {"name": …, "description": …, "parameters": {…}}}, …]
    tool calls  [{"type": "function", "function": {"name": …, "arguments": {…}}, "id": …}, …]

Files leave the outer object out, keep either as JSON text, or write a call's arguments as JSON text, as OpenAI does;
templates want an object there, which they write as JSON themselves. Both are kept as JSON text in a record.
"""

from __future__ import annotations

from typing import Any

from core.data.formats.cells import MISSING, decoded, is_nothing, json_text, sound_text
from core.data.rows import BadRow

_ARGUMENTS = ("arguments", "parameters", "input")


def tools_of(value: object) -> str | None:
    """The tools of a cell as JSON text; None where it names none.

    Raises:
        BadRow: it holds something else.
    """
    if is_nothing(value):
        return None
    found = decoded(value)
    if isinstance(found, dict):
        found = [found]
    if not isinstance(found, list) or not all(isinstance(decoded(tool), dict) for tool in found):
        raise BadRow("has tools that are no list of objects", "Write them as a JSON list, or remove them")
    tools = [_without_gaps(decoded(tool)) for tool in found]
    return json_text([tool if "function" in tool else _function(tool) for tool in tools], "tools") if tools else None


def _function(definition: dict[str, Any]) -> dict[str, Any]:
    inner = {key: value for key, value in definition.items() if key != "type" or value != "function"}
    return {"type": "function", "function": inner}


def _without_gaps(values: dict[str, Any]) -> dict[str, Any]:
    """Less what is null: tables give every object the keys of all."""
    return {key: value for key, value in values.items() if value is not None}


def calls_of(value: object) -> str | None:
    """The tool calls of a message as JSON text; None where there is none.

    Raises:
        BadRow: they cannot be read.
    """
    if is_nothing(value):
        return None
    found = decoded(value)
    calls = found if isinstance(found, list) else [found]
    return json_text([_call(decoded(call)) for call in calls], "tool calls") if calls else None


def _call(call: object) -> dict[str, Any]:
    if not isinstance(call, dict):
        raise BadRow("has a tool call that is no object", 'Write {"name": …, "arguments": …}, or remove the row')
    inner = decoded(call.get("function"))
    function = inner if isinstance(inner, dict) else call
    name = sound_text(function.get("name"), "tool call's name")
    arguments: Any = next((function[key] for key in _ARGUMENTS if not is_nothing(function.get(key, MISSING))), {})
    written = {"type": "function", "function": {"name": name, "arguments": decoded(arguments)}}
    number = call.get("id")
    return {"id": number, **written} if isinstance(number, str) and number else written
