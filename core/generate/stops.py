"""Texts that end an answer, wherever tokens begin and end."""

from __future__ import annotations

from collections.abc import Sequence


class StopTexts:
    """Watches a text that comes in pieces. What may be the beginning of one of `texts` is held back until it is not."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = [text for text in texts if text]
        self._held = ""
        self.is_found = False

    def add(self, piece: str) -> str:
        """What may be shown now; up to the first of the texts, where that has come whole."""
        text = self._held + piece
        found = [at for at in (text.find(stop) for stop in self._texts) if at >= 0]
        if found:
            self._held, self.is_found = "", True
            return text[: min(found)]
        held = max((_beginning(text, stop) for stop in self._texts), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def rest(self) -> str:
        """What was held back, once nothing more comes."""
        held, self._held = self._held, ""
        return held


def _beginning(text: str, stop: str) -> int:
    """With how many of its last characters `text` begins `stop`, without being all of it."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if stop.startswith(text[-n:])), 0)
