"""Requests that come while others are answered: each is answered as alone, in its turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from core.errors import AdapterError
from core.generate.chat import ChatModel
from core.generate.decoder import MOST_ROWS
from core.generate.replies import Reply
from core.generate.requests import Sampling
from core.generate.writing import Told
from tests.core.generate.asking import LONG, SHORT, pane, texts


def text_of(told: Sequence[Told], reply: Reply) -> str:
    return "".join(delta.text for each in told if each.reply is reply for delta in each.deltas)


def test_requests_that_join_and_leave_at_any_step_are_answered_as_alone(chat: ChatModel, keys: list[str]) -> None:
    """Sixteen of four adapters and the base, of other lengths and samplings; to the letter, whatever is beside them."""
    asked = [
        replace(
            pane((None, *keys)[at % 3], (SHORT, LONG, "Why? " * at)[at % 3] or "So?"),
            sampling=Sampling(max_new_tokens=4 + at, temperature=0.9 * (at % 2), seed=at),
        )
        for at in range(16)
    ]
    alone = ["".join(delta.text for delta in chat.reply([one], lambda: False)) for one in asked]
    told: list[Told] = []
    replies = []
    for at, one in enumerate(asked):
        replies.append(chat.begin([one]))
        for _ in range(at % 3):
            told += chat.step()
    while not chat.is_idle:
        told += chat.step()
    assert [text_of(told, reply) for reply in replies] == alone
    assert len(set(alone)) > 8


def test_no_more_rows_are_written_at_once_than_allowed_and_nobody_overtakes(chat: ChatModel) -> None:
    replies = [chat.begin([replace(pane(None, SHORT), sampling=Sampling(max_new_tokens=40))] * 6) for _ in range(4)]
    first: list[Reply] = []
    while not chat.is_idle:
        told = chat.step()
        assert sum(len(each.deltas) for each in told) <= MOST_ROWS
        first += [each.reply for each in told if each.reply not in first]
    assert first == replies


def test_answers_that_may_become_too_large_wait_for_each_other(
    chat: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat._writing, "_most_bytes", 1)
    replies = [chat.begin([replace(pane(None, SHORT), sampling=Sampling(max_new_tokens=3))]) for _ in range(3)]
    for reply in replies:
        while not reply.is_done:
            assert {id(each.reply) for each in chat.step()} == {id(reply)}
    assert chat.is_idle


def test_what_is_wrong_with_one_request_is_told_to_it_alone(chat: ChatModel, keys: list[str]) -> None:
    expected = texts(chat, [pane(keys[0], SHORT)])
    good, bad = chat.begin([pane(keys[0], SHORT)]), chat.begin([pane("zebra", SHORT)])
    told: list[Told] = []
    while not chat.is_idle:
        told += chat.step()
    (refused,) = [each for each in told if each.reply is bad]
    assert isinstance(refused.error, AdapterError)
    assert text_of(told, good).startswith(expected[0])
