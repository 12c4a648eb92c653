"""What children do for pages, by ids: what came of the newest is known until somebody stops them or the app ends."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

from core.errors import NotFound
from jobs.children import Child, Told

KEPT = 50  # a page asks within the second


class Errand(ABC):
    """Something that a child does. What is heard of it and what is asked for come from two threads: whoever changes
    what is known holds the `lock`.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._child: Child | None = None

    def begin(self, module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        """Let a child run `module`."""
        with self.lock:  # until the child is known, nothing of what it tells is heard
            self._child = Child(module, arguments, environment, self._listen)

    def wait(self, seconds: float) -> None:
        """Until all has been heard, or so long."""
        child = self._child
        if child is not None and seconds:
            child.wait(seconds)

    def stop(self) -> None:
        """Give it up; nothing of it stays."""
        with self.lock:
            child, self._child = self._child, None
        if child is not None:
            child.stop()
        self.clear()

    @abstractmethod
    def hear(self, told: Told) -> None:
        """Take in what the child tells; the lock is held."""

    @abstractmethod
    def clear(self) -> None:
        """Remove what the child has written."""

    def _listen(self, told: Told) -> None:
        with self.lock:
            if self._child is not None:
                self.hear(told)


E = TypeVar("E", bound=Errand)


class Errands(Generic[E]):
    """Errands of one kind. `title` and `hint` are said of one that is not known any more."""

    def __init__(self, title: str, hint: str) -> None:
        self._title, self._hint = title, hint
        self._known: dict[str, E] = {}

    def __getitem__(self, errand_id: str) -> E:
        """Raises: NotFound: it was stopped, or the app has been started anew."""
        found = self._known.get(errand_id)
        if found is None:
            raise NotFound(self._title, hint=self._hint)
        return found

    def add(self, errand_id: str, errand: E) -> None:
        """Know one more; of too many, the oldest is given up."""
        while len(self._known) >= KEPT:
            self.stop(next(iter(self._known)))
        self._known[errand_id] = errand

    def stop(self, errand_id: str) -> None:
        """Give it up, if it is known."""
        errand = self._known.pop(errand_id, None)
        if errand is not None:
            errand.stop()

    def stop_all(self) -> None:
        """Give up all of them."""
        for errand_id in list(self._known):
            self.stop(errand_id)
