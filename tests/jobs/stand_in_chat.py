"""The chat process with a model that needs no weights: `python -m tests.jobs.stand_in_chat` with jobs.chat's options.

The base model's name says how it behaves: `echo` answers, `endless` never stops, `dies`, `breaks`, `refuses`.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from core.errors import AdapterError
from core.generate.requests import Delta, PaneRequest
from jobs import chat


class StandInModel:
    def __init__(self, name: str) -> None:
        self.name = name

    def load_adapter(self, folder: Path) -> str:
        return folder.name

    def reply(self, panes: Sequence[PaneRequest], stop: Callable[[], bool]) -> Iterator[Delta]:
        if self.name == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.name == "breaks":
            raise ValueError("no such layer")
        if self.name == "refuses":
            raise AdapterError("The adapter does not fit", "layer 3", "Choose another")
        if self.name == "endless":
            return self._forever(stop)
        return self._echo(panes)

    def _echo(self, panes: Sequence[PaneRequest]) -> Iterator[Delta]:
        for index, pane in enumerate(panes):
            place = os.environ.get("CUDA_VISIBLE_DEVICES")
            text = f"{pane.adapter}: {pane.messages[-1].content} ({os.getpid()}) on {place!r}"
            yield Delta(pane=index, text=text, tokens=1, seconds=0.1, done=True)

    def _forever(self, stop: Callable[[], bool]) -> Iterator[Delta]:
        tokens = 0
        while not stop():
            tokens += 1
            yield Delta(pane=0, text="and ", tokens=tokens, seconds=0.1)
            time.sleep(0.01)


def load(process: chat._Chat, report: Callable[[str], None]) -> StandInModel:
    print("a library prints to standard output")
    report(f"loading {process._base}")
    return StandInModel(process._base)


if __name__ == "__main__":
    chat._Chat._load = load  # type: ignore[assignment, method-assign]
    sys.exit(chat.main())
