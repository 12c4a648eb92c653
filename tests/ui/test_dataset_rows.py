"""How rows with tools, weights and names look."""

from __future__ import annotations

import html

from core.data.records import Conversation, Message
from ui.pages import datasets


def test_calls_of_tools_are_shown_and_what_is_not_learned_is_not_marked() -> None:
    calls = '[{"type":"function","function":{"name":"tide","arguments":{}}}]'
    messages = (
        Message(role="user", content="Tide?"),
        Message(role="assistant", content="What?", weight=0),
        Message(role="assistant", content="", tool_calls=calls),
        Message(role="tool", content="16:40", name="tide"),
        Message(role="assistant", content="At 16:40."),
    )
    shown = datasets.preview([Conversation(messages=messages, source_row=1, tools='[{"name": "tide"}]')], 1)
    turns = shown.split('<div class="turn')[2:]  # before the first is the list of turns itself
    assert [turn.startswith(" trained") for turn in turns] == [False, False, False, True, False, True]
    assert calls in html.unescape(shown) and '[{"name": "tide"}]' in html.unescape(shown)
    assert "tool tide" in shown
