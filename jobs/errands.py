"""What children do for pages, by ids: what came of the newest is known until somebody stops them or the app ends."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from core.errors import NotFound

KEPT = 50  # a page asks within the second


class Errand(Protocol):
    """Something that a child does."""

    def stop(self) -> None:
        """Give it up; nothing of it stays."""


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
