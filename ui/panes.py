"""The Playground's panes: who speaks in each, what was said, and how it looks. No Gradio in here.

Pane 0 is always the base model, in gray; adapters take the series' colors in the order in which they were chosen.
Every pane keeps its own conversation, since their answers differ and a next question follows on from its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from core.data.records import Message
from jobs.service import Adapter, Delta
from ui import charts, markup, text

MOST_PANES = 6
COLORS = (charts.GRAY, charts.BLUE, charts.ORANGE, charts.GREEN, charts.PINK, charts.RED)


@dataclass(kw_only=True)
class Reply:
    """An answer as it arrives. `differs_at` counts its first token, from 1, that is not the base's; None so far."""

    text: str = ""
    tokens: int = 0
    seconds: float = 0.0
    is_done: bool = False
    differs_at: int | None = None

    def take(self, delta: Delta) -> None:
        """Add what is new."""
        self.text += delta.text
        self.tokens, self.seconds, self.is_done = delta.tokens, delta.seconds, delta.done
        self.differs_at = delta.differs_at


@dataclass(kw_only=True)
class PaneState:
    """One pane. `adapter_id` is None for the base model."""

    adapter_id: str | None
    title: str
    fingerprint: str = ""
    turns: list[Message] = field(default_factory=list)
    reply: Reply | None = None
    waiting: str = ""

    def ask(self, question: str) -> None:
        """The person's next turn; an answer begins."""
        self.turns.append(Message(role="user", content=question))
        self.reply = Reply()

    def settle(self) -> None:
        """The answer is over, whole or stopped: it becomes a turn."""
        self.waiting = ""
        if self.reply is None or (self.turns and self.turns[-1].role == "assistant"):
            return
        if self.reply.text:
            self.turns.append(Message(role="assistant", content=self.reply.text))
        elif self.turns:
            self.turns.pop()

    def messages(self, system: str) -> tuple[Message, ...]:
        """The conversation so far, behind the system prompt where there is one."""
        start = (Message(role="system", content=system),) if system.strip() else ()
        return (*start, *self.turns)


def arrange(adapters: Sequence[Adapter], base_title: str, before: Sequence[PaneState]) -> list[PaneState]:
    """The base's pane and one for each adapter; those that were there already keep their conversations."""
    known = {pane.adapter_id: pane for pane in before}
    base = known.get(None) or PaneState(adapter_id=None, title=base_title)
    base.title = base_title
    panes = [base]
    for adapter in adapters[: MOST_PANES - 1]:
        pane = known.get(adapter.id) or PaneState(adapter_id=adapter.id, title=adapter.name)
        pane.title, pane.fingerprint = adapter.name, adapter.fingerprint
        panes.append(pane)
    return panes


def render(panes: Sequence[PaneState], index: int) -> str:
    """The pane as HTML: heading, conversation, and a line about the last answer."""
    pane = panes[index]
    mark = (
        f'<code title="the start of the weights&#x27; SHA-256">#{markup.esc(pane.fingerprint)}</code>'
        if pane.fingerprint
        else ""
    )
    kind = "" if pane.adapter_id else '<span class="pane-kind">base</span>'
    turns = "".join(_bubble(message.role, message.content) for message in pane.turns)
    return (
        f'<article class="pane" style="--series:{COLORS[index]}"><header><i class="dot"></i>'
        f"<h2>{markup.esc(pane.title)}</h2>{kind}{mark}</header>"
        f'<div class="chat" tabindex="0" aria-label="Conversation with {markup.esc(pane.title)}">'
        f"{turns}{_current(pane)}</div>"
        f"<footer>{_about(panes, index)}</footer></article>"
    )


def _bubble(role: str, content: str, is_growing: bool = False) -> str:
    growing = " growing" if is_growing else ""
    return f'<div class="bubble {markup.esc(role)}{growing}">{markup.esc(content)}</div>'


def _current(pane: PaneState) -> str:
    if pane.waiting:
        return markup.loading(pane.waiting)
    is_settled = bool(pane.turns) and pane.turns[-1].role == "assistant"
    if pane.reply is not None and not is_settled and pane.turns:
        return _bubble("assistant", pane.reply.text, is_growing=not pane.reply.is_done)
    return "" if pane.turns else '<p class="pane-empty">Ask something below.</p>'


def _about(panes: Sequence[PaneState], index: int) -> str:
    reply = panes[index].reply
    if reply is None or not reply.tokens:
        return "&nbsp;"
    parts = [text.plural(reply.tokens, "token")]
    if reply.seconds > 0:
        parts.append(f"{reply.tokens / reply.seconds:.1f} tokens/s")
    base = panes[0].reply
    if index and base is not None and base.text:
        same = "same as the base" if reply.is_done and base.is_done else "same as the base so far"
        parts.append(f"differs from the base at token {reply.differs_at}" if reply.differs_at else same)
    return " · ".join(f"<span>{markup.esc(part)}</span>" for part in parts)
