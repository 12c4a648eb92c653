"""The process that keeps a base model in memory and answers: `python -m jobs.chat --model REF`.

Requests come as JSON lines on standard input and answers leave on standard output; `jobs.chat_client` says what they
look like. Requests that come while others are being answered join them. The process leaves when its input ends, which
it does when the app dies, and after it had nothing to do for a while.
"""

from __future__ import annotations

import argparse
import logging
import os
import queue
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

from core.data.records import Message
from core.errors import UserError
from core.generate.requests import PaneRequest, Sampling
from jobs.logs import set_up_logging

if TYPE_CHECKING:
    from core.generate.chat import ChatModel
    from core.generate.replies import Reply

log = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Answer until there is nobody left to ask."""
    options = _options(arguments)
    set_up_logging()
    out = _take_stdout()
    inbox = _Inbox()
    threading.Thread(target=inbox.fill_from, args=(sys.stdin.buffer,), daemon=True).start()
    chat = _Chat(options.model, options.models_root, out, inbox)
    while (request := inbox.next(0.0 if chat.is_busy else options.idle_seconds)) is not None or chat.is_busy:
        try:
            if request is not None:
                chat.begin(request)
            chat.step()
        except BrokenPipeError:
            log.info("Nobody listens any more")
            return 0
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="jobs.chat", description="Hold a base model and answer requests.")
    parser.add_argument("--model", required=True)
    parser.add_argument("--models-root", type=Path, required=True)
    parser.add_argument("--idle-seconds", type=float, required=True)
    return parser.parse_args(arguments)


def _take_stdout() -> BinaryIO:
    """Standard output for the protocol alone: whatever a library prints goes to the log from now on."""
    own = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return own


@dataclass(slots=True)
class _Inbox:
    """Requests in their order, and which of them nobody wants answered any more."""

    _requests: queue.SimpleQueue[dict[str, Any] | None] = field(default_factory=queue.SimpleQueue)
    _cancelled: set[int] = field(default_factory=set)
    _is_over: bool = False

    def fill_from(self, lines: BinaryIO) -> None:
        """Take requests in until the input ends."""
        for line in lines:
            message = orjson.loads(line)
            if message["kind"] == "cancel":
                self._cancelled.add(message["id"])
            else:
                self._requests.put(message)
        self._is_over = True
        self._requests.put(None)

    def next(self, idle_seconds: float) -> dict[str, Any] | None:
        """The next request; None when there will be none, or none came for so long."""
        if self._is_over and self._requests.empty():
            return None
        try:
            return self._requests.get(block=idle_seconds > 0, timeout=idle_seconds or None)
        except queue.Empty:
            return None

    def is_unwanted(self, request_id: int) -> bool:
        """Whether the answer to this request is to stop."""
        return self._is_over or request_id in self._cancelled

    def forget(self, request_id: int) -> None:
        """The answer has ended."""
        self._cancelled.discard(request_id)


class _Chat:
    """Answers requests side by side, loading the model at the first."""

    def __init__(self, base: str, models_root: Path, out: BinaryIO, inbox: _Inbox) -> None:
        self._base, self._models_root = base, models_root
        self._out, self._inbox = out, inbox
        self._model: ChatModel | None = None
        self._replies: dict[int, Reply] = {}

    @property
    def is_busy(self) -> bool:
        """Whether any request is being answered."""
        return bool(self._replies)

    def begin(self, request: dict[str, Any]) -> None:
        """Take a request up; what is wrong with it is told, and ends it."""
        request_id: int = request["id"]
        try:
            model = self._model or self._load(lambda phase: self._say(request_id, "waiting", phase=phase))
            self._model = model
            self._say(request_id, "waiting", phase="reading the prompt")
            self._replies[request_id] = model.begin([_pane(pane, model) for pane in request["panes"]])
        except BrokenPipeError:
            raise
        except Exception as error:  # noqa: BLE001, told to who asked
            self._end(request_id, error)

    def step(self) -> None:
        """Send what the next token brings to each request, and to those that it ends, `end` or `error`."""
        model = self._model
        if model is None:
            return
        for request_id, reply in list(self._replies.items()):
            if self._inbox.is_unwanted(request_id):
                model.leave(reply)
                self._end(request_id)
        if not self._replies:
            return
        by_reply = {id(reply): request_id for request_id, reply in self._replies.items()}
        for told in model.step():
            request_id = by_reply[id(told.reply)]
            for delta in told.deltas:
                self._say(request_id, "delta", delta=asdict(delta))
            if told.error is not None or told.reply.is_done:
                self._end(request_id, told.error)

    def _end(self, request_id: int, error: Exception | None = None) -> None:
        self._replies.pop(request_id, None)
        self._inbox.forget(request_id)
        if error is None:
            self._say(request_id, "end")
        elif isinstance(error, UserError):
            log.info("Refused: %s", error, exc_info=error)
            kind = type(error).__name__
            self._say(request_id, "error", error=kind, title=error.title, detail=error.detail, hint=error.hint)
        else:
            log.error("A reply failed because of a fault of ours", exc_info=error)
            title = f"The chat hit a fault of ours: {type(error).__name__}: {error}"
            hint = "See chat.log in the home folder"
            self._say(request_id, "error", error="RunError", title=title, detail="", hint=hint)

    def _say(self, request_id: int, kind: str, **values: Any) -> None:
        self._out.write(orjson.dumps({"id": request_id, "kind": kind, **values}) + b"\n")
        self._out.flush()

    def _load(self, report: Callable[[str], None]) -> ChatModel:
        from core.models.catalogue import find

        report(f"loading {find(self._base, self._models_root).title}")
        from core.generate.chat import ChatModel  # torch comes in here, once somebody knows what we are doing
        from core.models.fetch import ensure_model

        return ChatModel(ensure_model(self._base, self._models_root, report))


def _pane(values: dict[str, Any], model: ChatModel) -> PaneRequest:
    adapter = values["adapter"]
    if isinstance(adapter, list):
        adapter = tuple((model.load_adapter(Path(folder)), strength) for folder, strength in adapter)
    elif adapter is not None:
        adapter = model.load_adapter(Path(adapter))
    return PaneRequest(
        adapter=adapter,
        messages=_messages(values["messages"]),
        sampling=Sampling(**values["sampling"]),
        alternatives=values["alternatives"],
        stop=tuple(values["stop"]),
        text=values["text"],
        keeps=values["keeps"],
    )


def _messages(rows: Sequence[dict[str, Any]]) -> tuple[Message, ...]:
    return tuple(Message(role=row["role"], content=row["content"]) for row in rows)


if __name__ == "__main__":
    sys.exit(main())
