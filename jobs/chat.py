"""The process that keeps a base model in memory and answers: `python -m jobs.chat --model REF`.

Requests come as JSON lines on standard input and answers leave on standard output; `jobs.chat_client` says what they
look like. The process leaves when its input ends, which it does when the app dies, and after it had nothing to do for
a while.
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

log = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Answer until there is nobody left to ask."""
    options = _options(arguments)
    set_up_logging()
    out = _take_stdout()
    inbox = _Inbox()
    threading.Thread(target=inbox.fill_from, args=(sys.stdin.buffer,), daemon=True).start()
    chat = _Chat(options.model, options.models_root, out, inbox)
    while (request := inbox.next(options.idle_seconds)) is not None:
        chat.answer(request)
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
        try:
            return self._requests.get(timeout=idle_seconds)
        except queue.Empty:
            return None

    def is_unwanted(self, request_id: int) -> bool:
        """Whether the answer to this request is to stop."""
        return self._is_over or request_id in self._cancelled


class _Chat:
    """Answers one request after another, loading the model at the first."""

    def __init__(self, base: str, models_root: Path, out: BinaryIO, inbox: _Inbox) -> None:
        self._base, self._models_root = base, models_root
        self._out, self._inbox = out, inbox
        self._model: ChatModel | None = None

    def answer(self, request: dict[str, Any]) -> None:
        """Send the request's updates, and last `end` or `error`."""
        request_id: int = request["id"]

        def say(kind: str, **values: Any) -> None:
            self._out.write(orjson.dumps({"id": request_id, "kind": kind, **values}) + b"\n")
            self._out.flush()

        try:
            self._reply(request, say)
            say("end")
        except UserError as error:
            log.info("Refused: %s", error, exc_info=error)
            say("error", error=type(error).__name__, title=error.title, detail=error.detail, hint=error.hint)
        except BrokenPipeError:
            log.info("Nobody listens any more")
        except Exception as error:
            log.exception("A reply failed because of a fault of ours")
            title = f"The chat hit a fault of ours: {type(error).__name__}: {error}"
            say("error", error="RunError", title=title, detail="", hint="See chat.log in the home folder")

    def _reply(self, request: dict[str, Any], say: Callable[..., None]) -> None:
        model = self._model or self._load(lambda phase: say("waiting", phase=phase))
        self._model = model
        if self._inbox.is_unwanted(request["id"]):
            return
        say("waiting", phase="reading the prompt")
        panes = [_pane(pane, model) for pane in request["panes"]]
        stop = lambda: self._inbox.is_unwanted(request["id"])  # noqa: E731
        for delta in model.reply(panes, stop):
            say("delta", delta=asdict(delta))

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
    sampling = Sampling(**values["sampling"])
    return PaneRequest(
        adapter=adapter, messages=_messages(values["messages"]), sampling=sampling, alternatives=values["alternatives"]
    )


def _messages(rows: Sequence[dict[str, Any]]) -> tuple[Message, ...]:
    return tuple(Message(role=row["role"], content=row["content"]) for row in rows)


if __name__ == "__main__":
    sys.exit(main())
