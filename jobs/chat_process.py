"""One chat process as its parent sees it: what goes to it, and what comes back for whom.

The protocol is JSON lines. To the process: `{"id": n, "kind": "reply", "panes": […]}` and `{"id": n, "kind":
"cancel"}`. From it, each with the request's id: `waiting` (a phase), `delta` (what is new in a pane), and last `end` or
`error`. Any number of requests may be under way.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from jobs.home import PROJECT
from jobs.machine import only

LEAVE_SECONDS = 3.0

log = logging.getLogger(__name__)


class ProcessGone(Exception):
    """The chat process ended before it answered."""


class ChatProcess:
    """One chat process and the thread that listens to it. `is_new` until it says something."""

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
        self._inboxes: dict[int, queue.SimpleQueue[dict[str, Any] | None]] = {}
        self._is_gone = False
        self._sorting, self._writing = threading.Lock(), threading.Lock()
        threading.Thread(target=self._listen, name="chat-listener", daemon=True).start()

    def serves(self, base: str, places: Sequence[str]) -> bool:
        """Whether this process lives, holds `base`, and may stay where it is."""
        return self.holds(base) and self.device in places and not self.is_to_leave

    def holds(self, base: str) -> bool:
        """Whether this process lives and holds `base`."""
        return self._base == base and self._child.poll() is None

    def ask(self, request: dict[str, Any]) -> None:
        """Send a request, whose answers can be received from now on.

        Raises:
            ProcessGone: nobody is there to answer.
        """
        with self._sorting:
            inbox = self._inboxes[request["id"]] = queue.SimpleQueue()
            if self._is_gone:
                inbox.put(None)
        self._send(request)

    def receive(self, request_id: int, timeout: float) -> dict[str, Any] | None:
        """The next message on this request; None if none came in time. Raises: ProcessGone."""
        try:
            message = self._inboxes[request_id].get(timeout=timeout)
        except queue.Empty:
            return None
        if message is None:
            raise ProcessGone(self._describe_end())
        return message

    def forget(self, request_id: int, is_over: bool) -> None:
        """What comes on this request is of no interest any more; where it is not over, it is cancelled."""
        with self._sorting:
            self._inboxes.pop(request_id, None)
        if not is_over:
            with suppress(ProcessGone):
                self._send({"id": request_id, "kind": "cancel"})

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

    def _send(self, message: dict[str, Any]) -> None:
        assert self._child.stdin is not None
        try:
            with self._writing:
                self._child.stdin.write(orjson.dumps(message) + b"\n")
                self._child.stdin.flush()
        except (OSError, ValueError):  # a broken pipe, or one that `end` has closed
            raise ProcessGone(self._describe_end()) from None

    def _listen(self) -> None:
        assert self._child.stdout is not None
        try:
            with self._child.stdout as lines:
                for line in lines:
                    self._deliver(orjson.loads(line))
        except orjson.JSONDecodeError:
            log.warning("The chat process died in the middle of a line")
        finally:
            with self._sorting:
                self._is_gone = True
                for inbox in self._inboxes.values():
                    inbox.put(None)

    def _deliver(self, message: dict[str, Any]) -> None:
        self.is_new = False
        with self._sorting:
            inbox = self._inboxes.get(message["id"])
        if inbox is not None:
            inbox.put(message)

    def _describe_end(self) -> str:
        try:
            code = self._child.wait(LEAVE_SECONDS)
        except subprocess.TimeoutExpired:
            return "it closed its output"
        return f"signal {-code}" if code < 0 else f"exit code {code}"
