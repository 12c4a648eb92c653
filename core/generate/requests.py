"""What a chat asks of the model and what comes back. No torch here, so that the page may speak of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from core.data.records import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen. `temperature` 0 takes the most likely one; `top_p` and `top_k` (0: all) say among
    which of the likeliest a higher one draws. `repetition_penalty` above 1 makes tokens that the conversation has
    already less likely.
    """

    max_new_tokens: int = 200
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PaneRequest:
    """One column of a side-by-side chat: the conversation so far, to be answered by `adapter` (a key; None is the
    base), with tokens chosen as `sampling` says.

    The answer ends before the first of the texts in `stop`. With a `text` in place of messages, that is gone on with as
    it is. `keeps` says whether what was computed of earlier turns serves again, which saves time and may change an
    answer where two tokens are all but equally likely.
    """

    adapter: str | None
    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()
    text: str | None = None
    keeps: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What is new in one pane.

    `text` is to be appended. `tokens` and `seconds` (since the request began) are running totals of the pane.
    `differs_at` counts the first token, from 1, that is not the base pane's; None while they agree or where no pane
    shows the base. `prompt_tokens` is how many the answer was begun with, and `ended` why a pane that is done ended: at
    an end token or a text in `stop`, or at its length.
    """

    pane: int
    text: str
    tokens: int
    seconds: float
    done: bool = False
    differs_at: int | None = None
    prompt_tokens: int = 0
    ended: Literal["stop", "length"] | None = None
