"""A chat in the terminal: the same prompt for several panes, printed pane after pane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import typer

from core.data.records import Message
from core.generate.requests import Delta
from jobs.service import Pane, Service


def print_replies(
    service: Service, prompt: str, adapters: Sequence[str | None], options: dict[str, Any], as_json: bool
) -> None:
    """Ask every one of `adapters` (None: the base) and print the replies in that order.

    Raises:
        UserError: as `Service.chat`.
    """
    message = Message(role="user", content=prompt)
    panes = [Pane(adapter=adapter, messages=(message,)) for adapter in adapters]
    updates = service.chat(panes, **options)
    printer = _JsonPrinter(adapters) if as_json else _TextPrinter(adapters)
    phase = ""
    for update in updates:
        if isinstance(update, Delta):
            printer.take(update)
        elif update.phase != phase:
            phase = update.phase
            typer.echo(f"{phase} …", err=True)
    printer.end()


class _JsonPrinter:
    """One JSON object a reply, once all are there."""

    def __init__(self, adapters: Sequence[str | None]) -> None:
        self._replies: list[dict[str, Any]] = [
            {"adapter": adapter, "text": "", "tokens": 0, "seconds": 0.0} for adapter in adapters
        ]

    def take(self, delta: Delta) -> None:
        reply = self._replies[delta.pane]
        reply["text"] += delta.text
        reply |= {"tokens": delta.tokens, "seconds": delta.seconds}

    def end(self) -> None:
        for reply in self._replies:
            typer.echo(orjson.dumps(reply).decode())


class _TextPrinter:
    """The first unfinished pane as it grows, the others once it is their turn."""

    def __init__(self, adapters: Sequence[str | None]) -> None:
        self._headings = [adapter or "base" for adapter in adapters]
        self._pending = ["" for _ in adapters]
        self._is_done = [False for _ in adapters]
        self._shown = -1
        self._turn()

    def take(self, delta: Delta) -> None:
        self._pending[delta.pane] += delta.text
        self._is_done[delta.pane] = delta.done
        self._flush()
        while self._is_done[self._shown] and self._shown + 1 < len(self._headings):
            self._turn()

    def end(self) -> None:
        while self._shown + 1 < len(self._headings):
            self._turn()
        typer.echo()

    def _turn(self) -> None:
        """Head the next pane and print what it has so far."""
        if self._shown >= 0:
            typer.echo("\n")
        self._shown += 1
        typer.echo(f"── {self._headings[self._shown]}")
        self._flush()

    def _flush(self) -> None:
        typer.echo(self._pending[self._shown], nl=False)
        self._pending[self._shown] = ""
