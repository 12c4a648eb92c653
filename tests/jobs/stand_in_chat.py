"""The chat process with a model that needs no weights: `python -m tests.jobs.stand_in_chat` with jobs.chat's options.

The base model's name says how it behaves: `echo` answers, `endless` never stops, `dies`, `breaks`, `refuses`. With
`endless`, a message says what happens to it instead: `short` ends after three words, `refuse` is refused.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from core.errors import AdapterError
from core.generate.requests import Delta, PaneRequest
from jobs import chat

REFUSAL = AdapterError("The adapter does not fit", "layer 3", "Choose another")


@dataclass(eq=False)
class StandInReply:
    panes: Sequence[PaneRequest]
    words: int = 0
    is_done: bool = False


@dataclass
class Told:
    reply: StandInReply
    deltas: list[Delta] = field(default_factory=list)
    error: Exception | None = None


class StandInModel:
    def __init__(self, name: str) -> None:
        self.name = name
        self.replies: list[StandInReply] = []

    def load_adapter(self, folder: Path) -> str:
        return folder.name

    def begin(self, panes: Sequence[PaneRequest]) -> StandInReply:
        if self.name == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.name == "breaks":
            raise ValueError("no such layer")
        if self.name == "refuses":
            raise REFUSAL
        self.replies.append(StandInReply(panes))
        return self.replies[-1]

    def leave(self, reply: StandInReply) -> None:
        self.replies.remove(reply)

    def step(self) -> list[Told]:
        if self.name == "endless":
            time.sleep(0.01)
            told = [self._word(reply) for reply in self.replies]
        else:
            told = [self._echo(reply) for reply in self.replies]
        self.replies = [each.reply for each in told if not each.reply.is_done and each.error is None]
        return told

    def _echo(self, reply: StandInReply) -> Told:
        told, reply.is_done = Told(reply), True
        for index, pane in enumerate(reply.panes):
            place = os.environ.get("CUDA_VISIBLE_DEVICES")
            text = f"{pane.adapter}: {pane.messages[-1].content} ({os.getpid()}) on {place!r}"
            told.deltas.append(Delta(pane=index, text=text, tokens=1, seconds=0.1, done=True))
        return told

    def _word(self, reply: StandInReply) -> Told:
        asked = reply.panes[0].messages[-1].content
        if asked == "refuse":
            return Told(reply, error=REFUSAL)
        reply.words += 1
        reply.is_done = asked == "short" and reply.words == 3
        text = f"{asked} of {len(self.replies)} "
        return Told(reply, [Delta(pane=0, text=text, tokens=reply.words, seconds=0.1, done=reply.is_done)])


def load(process: chat._Chat, report: Callable[[str], None]) -> StandInModel:
    print("a library prints to standard output")
    report(f"loading {process._base}")
    return StandInModel(process._base)


if __name__ == "__main__":
    chat._Chat._load = load  # type: ignore[assignment, method-assign]
    sys.exit(chat.main())
