"""Panes are asked of a chat, and what each says is put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from core.data.records import Message
from core.generate.chat import ChatModel
from core.generate.requests import Delta, PaneRequest, Sampling

SHORT, LONG = "Hi.", "Tell me, at some length and with every detail, what the sea looked like on that morning."


def pane(adapter: str | None, *turns: str) -> PaneRequest:
    roles = ("user", "assistant")
    messages = tuple(Message(role=roles[i % 2], content=text) for i, text in enumerate(turns))  # type: ignore[arg-type]
    return PaneRequest(adapter=adapter, messages=messages)


def long_answer(adapter: str | None, *turns: str) -> PaneRequest:
    return replace(pane(adapter, *turns), sampling=Sampling(max_new_tokens=50))


def deltas(chat: ChatModel, panes: Sequence[PaneRequest], **sampling: float) -> list[Delta]:
    settings = {"max_new_tokens": 12} | sampling
    asked = [replace(pane, sampling=Sampling(**settings)) for pane in panes]  # type: ignore[arg-type]
    return list(chat.reply(asked, stop=lambda: False))


def texts(chat: ChatModel, panes: Sequence[PaneRequest], **sampling: float) -> list[str]:
    said = [""] * len(panes)
    for delta in deltas(chat, panes, **sampling):
        said[delta.pane] += delta.text
    return said
