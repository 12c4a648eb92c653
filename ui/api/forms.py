"""Answers in the shapes of OpenAI's two kinds of completions, whole and in pieces."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobs.service import Delta, Served
from ui.api.errors import ApiError


@dataclass(slots=True)
class Choice:
    """One answer as far as it has come."""

    text: str = ""
    tokens: int = 0
    prompt_tokens: int = 0
    ended: str | None = None

    def take(self, delta: Delta) -> None:
        """Add what is new."""
        self.text += delta.text
        self.tokens, self.prompt_tokens, self.ended = delta.tokens, delta.prompt_tokens, delta.ended


@dataclass(slots=True)
class Completion:
    """The answers to one request, `per_prompt` for each of its prompts."""

    served: Served
    per_prompt: int
    choices: tuple[Choice, ...]
    is_chat: bool
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    created: int = field(default_factory=lambda: int(time.time()))

    def take(self, deltas: Iterable[Delta]) -> None:
        """Add what is new."""
        for delta in deltas:
            self.choices[delta.pane].take(delta)

    @property
    def usage(self) -> dict[str, int]:
        """Tokens that were read, those of each prompt once, and written."""
        read = sum(choice.prompt_tokens for choice in self.choices[:: self.per_prompt])
        written = sum(choice.tokens for choice in self.choices)
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}

    def check(self) -> None:
        """Raises: ApiError, where an answer has no end."""
        if any(choice.ended is None for choice in self.choices):
            raise ApiError(503, "The answer was cut off; ask again.")

    def whole(self) -> dict[str, Any]:
        """All of it, once it is done. Raises: ApiError, as `check`."""
        self.check()
        choices = [self._choice(index, choice) for index, choice in enumerate(self.choices)]
        return {**self._head("chat.completion" if self.is_chat else "text_completion", choices), "usage": self.usage}

    def opening(self) -> list[dict[str, Any]]:
        """The pieces before the first text: in a chat, who speaks."""
        if not self.is_chat:
            return []
        return [self._piece(index, {"role": "assistant", "content": ""}) for index in range(len(self.choices))]

    def pieces(self, delta: Delta) -> list[dict[str, Any]]:
        """What is new in one answer: its text, if any, and why it ended, if it has."""
        text = {"content": delta.text} if self.is_chat else delta.text
        found = [self._piece(delta.pane, text)] if delta.text else []
        if delta.ended is not None:
            found.append(self._piece(delta.pane, {} if self.is_chat else "", delta.ended))
        return found

    def closing(self) -> dict[str, Any]:
        """The piece that tells the usage."""
        return {**self._piece_of([]), "usage": self.usage}

    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
        said = {"message": message} if self.is_chat else {"text": choice.text}
        return {"index": index, **said, "logprobs": None, "finish_reason": choice.ended}

    def _piece(self, index: int, text: Any, ended: str | None = None) -> dict[str, Any]:
        key = "delta" if self.is_chat else "text"
        return self._piece_of([{"index": index, key: text, "logprobs": None, "finish_reason": ended}])

    def _piece_of(self, choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return self._head("chat.completion.chunk" if self.is_chat else "text_completion", choices)

    def _head(self, kind: str, choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": ("chatcmpl-" if self.is_chat else "cmpl-") + self.id,
            "object": kind,
            "created": self.created,
            "model": self.served.id,
            "system_fingerprint": self.served.fingerprint,
            "choices": list(choices),
        }
