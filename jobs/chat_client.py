"""The parent's side of the chat process: starts it when somebody asks, speaks its protocol, and lets it go.

It holds one base model; for another base it is replaced. Replies of one base are written side by side. Who needs
another base, or a process elsewhere, waits until those that are being written have ended, and who comes later waits
behind: nobody is overtaken, so nobody waits forever.

It sits on a device that no run has, and gives it back when a run is to start there: at once, or when the replies that
it is writing are done. The next message finds it a place anew: a device that is free then, or else the CPU.
"""

from __future__ import annotations

import itertools
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from core import errors
from core.errors import RunError, UserError
from core.generate.requests import PaneRequest, delta_of
from jobs.chat_process import ChatProcess, ProcessGone
from jobs.machine import CPU
from jobs.views import ChatUpdate, Waiting

IDLE_SECONDS = 600.0
REMIND_SECONDS = 0.5

CHAT_COMMAND = (sys.executable, "-m", "jobs.chat")


class ChatClient:
    """Keeps at most one chat process. `places` says where it may sit; `command` is the program, for tests."""

    def __init__(
        self,
        models_root: Path,
        log_path: Path,
        environment: Mapping[str, str],
        *,
        places: Callable[[], Sequence[str]] = lambda: (CPU,),
        idle_seconds: float = IDLE_SECONDS,
        command: Sequence[str] = CHAT_COMMAND,
    ) -> None:
        self._command = [*command, "--models-root", str(models_root), "--idle-seconds", str(idle_seconds)]
        self._log_path = log_path
        self._environment = environment
        self._places = places
        self._change = threading.Condition()  # of all below
        self._line: deque[object] = deque()  # who waits for a turn
        self._under_way = 0
        self._process: ChatProcess | None = None
        self._is_closed = False
        self._ids = itertools.count(1)

    def reply(self, base: str, panes: Sequence[PaneRequest]) -> Iterator[ChatUpdate]:
        """Updates until every pane is done; closing the iterator stops the reply.

        Args:
            base: the base model's reference.
            panes: in each, `adapter` is the adapter's folder.

        Raises:
            UserError: what the chat process says went wrong, or that it died.
        """
        process, was_running = yield from self._wait_for_turn(base)
        request = {"kind": "reply", "panes": [asdict(pane) for pane in panes]}
        try:
            yield from self._ask(base, process, was_running, request)
        finally:
            with self._change:
                self._under_way -= 1
            self._leave_if_told()

    def leave(self, device: str) -> None:
        """Give `device` back, if the process sits there: now, or after the replies that are being written."""
        process = self._process
        if process is not None and process.device == device:
            process.is_to_leave = True
            self._leave_if_told()

    def close(self) -> None:
        """End the chat process, even in the middle of a reply."""
        with self._change:
            self._is_closed = True
            process = self._process
            self._change.notify_all()
        if process is not None:
            self._discard(process)

    def _wait_for_turn(self, base: str) -> Generator[ChatUpdate, None, tuple[ChatProcess, bool]]:
        """Take a place among the replies that are under way, once all who came before have theirs. Returns the process
        to ask, and whether it was running before.
        """
        ticket = object()
        with self._change:
            self._line.append(ticket)
        try:
            while (found := self._turn(ticket, base)) is None:
                yield Waiting(phase="waiting for another reply")
            return found
        finally:
            with self._change:
                self._line.remove(ticket)
                self._change.notify_all()

    def _turn(self, ticket: object, base: str) -> tuple[ChatProcess, bool] | None:
        with self._change:
            if not self._change.wait_for(lambda: self._line[0] is ticket and self._suits(base), REMIND_SECONDS):
                return None
            before, process = self._process, self._process_for(base)
            self._under_way += 1
            return process, process is before

    def _suits(self, base: str) -> bool:
        """Whether a reply of `base` can be written now, beside those that are."""
        process = self._process
        is_there = process is not None and process.serves(base, self._places())
        return self._under_way == 0 or is_there or self._is_closed

    def _ask(self, base: str, process: ChatProcess, was_running: bool, request: dict[str, Any]) -> Iterator[ChatUpdate]:
        try:
            yield from self._converse(process, {"id": next(self._ids), **request})
        except ProcessGone as gone:
            if not was_running or self._is_closed:
                raise _death(gone) from None
            # It left because it was idle, at the very moment we asked: a new one answers.
            try:
                yield from self._converse(self._process_for(base), {"id": next(self._ids), **request})
            except ProcessGone as gone_again:
                raise _death(gone_again) from None

    def _converse(self, process: ChatProcess, request: dict[str, Any]) -> Iterator[ChatUpdate]:
        """One request's updates. Raises ProcessGone only while nothing of the reply has been passed on."""
        phase, has_text, is_over = "starting" if process.is_new else "reading the prompt", False, False
        yield Waiting(phase=phase)
        try:
            process.ask(request)
            while not is_over:
                message = process.receive(request["id"], timeout=REMIND_SECONDS)
                if message is None:
                    if not has_text:
                        yield Waiting(phase=phase)
                elif message["kind"] == "waiting":
                    phase = message["phase"]
                    yield Waiting(phase=phase)
                elif message["kind"] == "delta":
                    has_text = True
                    yield delta_of(message["delta"])
                else:
                    is_over = True
                    _raise_if_error(message)
        except ProcessGone as gone:
            is_over = True
            self._discard(process)
            if has_text:
                raise _death(gone) from None
            raise
        finally:
            process.forget(request["id"], is_over)

    def _process_for(self, base: str) -> ChatProcess:
        """The process that is there, or a new one in its place, which others are not being answered by."""
        with self._change:
            if self._is_closed:
                raise RunError("The workbench is closing")
            process, places = self._process, self._places()
            if process is not None and (process.serves(base, places) or (self._under_way > 1 and process.holds(base))):
                return process
            if process is not None:
                self._discard(process)
            # runs take devices from the first on, so the last one stays free the longest
            command = [*self._command, "--model", base]
            self._process = ChatProcess(base, places[-1], command, self._environment, self._log_path)
            self._change.notify_all()
            return self._process

    def _leave_if_told(self) -> None:
        with self._change:
            process = self._process
            if process is not None and process.is_to_leave and self._under_way == 0:
                self._discard(process)
            self._change.notify_all()

    def _discard(self, process: ChatProcess) -> None:
        """End the process, which nobody asks any more from now on."""
        with self._change:
            if self._process is process:
                self._process = None
        process.end()


def _death(gone: ProcessGone) -> UserError:
    return RunError(
        "The chat process died", str(gone), "Send the message again; chat.log in the home folder may say why"
    )


def _raise_if_error(message: dict[str, Any]) -> None:
    if message["kind"] == "error":
        kind = getattr(errors, message["error"], UserError)
        raise kind(message["title"], message["detail"], message["hint"])
