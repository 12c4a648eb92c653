"""The parent's side of the chat process: starts it when somebody asks, speaks its protocol, and lets it go.

The protocol is JSON lines. To the process: `{"id": n, "kind": "reply", "panes": […]}` and `{"id": n, "kind":
"cancel"}`. From it, each with the request's id: `waiting` (a phase), `delta` (what is new in a pane), and last `end` or
`error`. It holds one base model; for another base it is replaced. One generation runs at a time, so that several pages
share the machine by taking turns.

It sits on a device that no run has, and gives it back when a run is to start there: at once, or when the reply that it
is writing is done. The next message finds it a place anew: a device that is free then, or else the CPU.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from core import errors
from core.errors import RunError, UserError
from core.generate.requests import PaneRequest, delta_of
from jobs.home import PROJECT
from jobs.machine import CPU, only
from jobs.views import ChatUpdate, Waiting

IDLE_SECONDS = 600.0
REMIND_SECONDS = 0.5
LEAVE_SECONDS = 3.0

CHAT_COMMAND = (sys.executable, "-m", "jobs.chat")

log = logging.getLogger(__name__)


class _ProcessGone(Exception):
    """The chat process ended before it answered."""


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
        self._turn = threading.Lock()
        self._process: _ChatProcess | None = None
        self._last_id = 0
        self._is_closed = False

    def reply(self, base: str, panes: Sequence[PaneRequest]) -> Iterator[ChatUpdate]:
        """Updates until every pane is done; closing the iterator stops the reply.

        Args:
            base: the base model's reference.
            panes: in each, `adapter` is the adapter's folder.

        Raises:
            UserError: what the chat process says went wrong, or that it died.
        """
        while not self._turn.acquire(timeout=REMIND_SECONDS):
            yield Waiting(phase="waiting for another reply")
        try:
            request = {"kind": "reply", "panes": [asdict(pane) for pane in panes]}
            yield from self._ask(base, request)
        finally:
            self._turn.release()
            self._leave_if_told()

    def leave(self, device: str) -> None:
        """Give `device` back, if the process sits there: now, or after the reply that is being written."""
        process = self._process
        if process is not None and process.device == device:
            process.is_to_leave = True
            self._leave_if_told()

    def _leave_if_told(self) -> None:
        process = self._process
        if process is not None and process.is_to_leave and self._turn.acquire(blocking=False):
            try:
                self._end_process()
            finally:
                self._turn.release()

    def close(self) -> None:
        """End the chat process, even in the middle of a reply."""
        self._is_closed = True
        self._end_process()

    def _ask(self, base: str, request: dict[str, Any]) -> Iterator[ChatUpdate]:
        was_running = self._process is not None and self._process.serves(base, self._places())
        self._last_id += 1
        try:
            yield from self._converse(base, {"id": self._last_id, **request})
        except _ProcessGone as gone:
            if not was_running or self._is_closed:
                raise _death(gone) from None
            # It left because it was idle, at the very moment we asked: a new one answers.
            try:
                yield from self._converse(base, {"id": self._last_id, **request})
            except _ProcessGone as gone_again:
                raise _death(gone_again) from None

    def _converse(self, base: str, request: dict[str, Any]) -> Iterator[ChatUpdate]:
        """One request's updates. Raises _ProcessGone only while nothing of the reply has been passed on."""
        process = self._process_for(base)
        phase, has_text, is_over = "starting" if process.is_new else "reading the prompt", False, False
        yield Waiting(phase=phase)
        try:
            process.send(request)
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
        except _ProcessGone as gone:
            is_over = True
            self._end_process()
            if has_text:
                raise _death(gone) from None
            raise
        finally:
            if not is_over:
                with suppress(_ProcessGone):
                    process.send({"id": request["id"], "kind": "cancel"})

    def _process_for(self, base: str) -> _ChatProcess:
        if self._is_closed:
            raise RunError("The workbench is closing")
        places = self._places()
        if self._process is not None and self._process.serves(base, places):
            return self._process
        self._end_process()
        # runs take devices from the first on, so the last one stays free the longest
        command = [*self._command, "--model", base]
        self._process = _ChatProcess(base, places[-1], command, self._environment, self._log_path)
        return self._process

    def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end()


class _ChatProcess:
    """One chat process and the thread that listens to it."""

    def __init__(
        self, base: str, device: str, command: Sequence[str], environment: Mapping[str, str], log_path: Path
    ) -> None:
        self._base, self.device = base, device
        self.is_new, self.is_to_leave = True, False
        with log_path.open("ab") as log_file:
            self._child = subprocess.Popen(
                command,
                cwd=PROJECT,
                env={**environment, **only(device)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log_file,
                start_new_session=True,  # a Ctrl-C in our terminal is not meant for it
            )
        self._messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._writing = threading.Lock()
        threading.Thread(target=self._listen, name="chat-listener", daemon=True).start()

    def serves(self, base: str, places: Sequence[str]) -> bool:
        """Whether this process lives, holds `base`, and may stay where it is."""
        is_wanted = self._base == base and self.device in places and not self.is_to_leave
        return is_wanted and self._child.poll() is None

    def send(self, message: dict[str, Any]) -> None:
        """Raises: _ProcessGone."""
        assert self._child.stdin is not None
        try:
            with self._writing:
                self._child.stdin.write(orjson.dumps(message) + b"\n")
                self._child.stdin.flush()
        except (OSError, ValueError):  # a broken pipe, or one that `end` has closed
            raise _ProcessGone(self._describe_end()) from None

    def receive(self, request_id: int, timeout: float) -> dict[str, Any] | None:
        """The next message on this request; None if none came in time. Raises: _ProcessGone."""
        try:
            message = self._messages.get(timeout=timeout)
        except queue.Empty:
            return None
        if message is None:
            raise _ProcessGone(self._describe_end())
        self.is_new = False
        # What a cancelled request still had to say is of no interest any more.
        return message if message["id"] == request_id else None

    def end(self) -> None:
        """Ask it to leave by closing its input; after a while, make it."""
        child = self._child
        assert child.stdin is not None
        with self._writing, suppress(OSError):
            child.stdin.close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(subprocess.TimeoutExpired):
                child.wait(LEAVE_SECONDS)
                return
            with suppress(ProcessLookupError):
                os.killpg(child.pid, number)
        child.wait()

    def _listen(self) -> None:
        assert self._child.stdout is not None
        try:
            with self._child.stdout as lines:
                for line in lines:
                    self._messages.put(orjson.loads(line))
        except orjson.JSONDecodeError:
            log.warning("The chat process died in the middle of a line")
        finally:
            self._messages.put(None)

    def _describe_end(self) -> str:
        try:
            code = self._child.wait(LEAVE_SECONDS)
        except subprocess.TimeoutExpired:
            return "it closed its output"
        return f"signal {-code}" if code < 0 else f"exit code {code}"


def _death(gone: _ProcessGone) -> UserError:
    return RunError(
        "The chat process died", str(gone), "Send the message again; chat.log in the home folder may say why"
    )


def _raise_if_error(message: dict[str, Any]) -> None:
    if message["kind"] == "error":
        kind = getattr(errors, message["error"], UserError)
        raise kind(message["title"], message["detail"], message["hint"])
