"""The memory of a process, watched while something is done to it."""

from __future__ import annotations

import threading
from contextlib import suppress

import psutil


class Watched:
    """The most memory that a process has had since it was first looked at."""

    def __init__(self, pid: int) -> None:
        self._process, self._is_over = psutil.Process(pid), threading.Event()
        self.before = self.peak = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watched:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        with suppress(psutil.NoSuchProcess):  # it may have ended
            while not self._is_over.wait(0.02):
                self.peak = max(self.peak, self._process.memory_info().rss)

    @property
    def growth(self) -> int:
        return self.peak - self.before
