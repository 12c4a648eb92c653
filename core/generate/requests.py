"""What a chat asks of the model and what comes back. No torch here, so that the page may speak of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from core.data.records import Message

Blend: TypeAlias = tuple[tuple[str, float], ...]  # adapters, each with its strength: 0 is the base, 1 the adapter


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
    """One column of a side-by-side chat: the conversation so far, to be answered by `adapter` (a key, or several
    with their strengths; None is the base), with tokens chosen as `sampling` says. Where `alternatives` is a number,
    each token comes with its probability and so many of the likeliest in its place, and in the end with the base's.

    The answer ends before the first of the texts in `stop`. With a `text` in place of messages, that is gone on with as
    it is. `keeps` says whether what was computed of earlier turns serves again, which saves time and may change an
    answer where two tokens are all but equally likely.
    """

    adapter: str | Blend | None
    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    alternatives: int | None = None
    stop: tuple[str, ...] = ()
    text: str | None = None
    keeps: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenProbability:
    """How likely a model held a token, and the `likeliest` in its place, the most likely one first. Probabilities are
    between 0 and 1 and know nothing of the sampling; a text is the token's alone, marks such as an end included.
    """

    text: str
    probability: float
    likeliest: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What is new in one pane.

    `text` is to be appended. `tokens` and `seconds` (since the request began) are running totals of the pane.
    `differs_at` counts the first token, from 1, that is not the base pane's; None while they agree or where no pane
    shows the base. `probabilities` are those of the new tokens, in the eyes of the pane's own model, and
    `base_probabilities`, which come last, of all tokens of the answer in the eyes of the base. `prompt_tokens` is how
    many the answer was begun with, and `ended` why a pane that is done ended: at an end token or a text in `stop`, or
    at its length.
    """

    pane: int
    text: str
    tokens: int
    seconds: float
    done: bool = False
    differs_at: int | None = None
    probabilities: tuple[TokenProbability, ...] = ()
    base_probabilities: tuple[TokenProbability, ...] = ()
    prompt_tokens: int = 0
    ended: Literal["stop", "length"] | None = None


def delta_of(values: dict[str, Any]) -> Delta:
    """The delta that `asdict` made `values` of, and JSON carried."""
    tokens = {name: _tokens_of(values.get(name, ())) for name in ("probabilities", "base_probabilities")}
    return Delta(**{**values, **tokens})


def _tokens_of(rows: Iterable[dict[str, Any]]) -> tuple[TokenProbability, ...]:
    return tuple(
        TokenProbability(
            text=row["text"],
            probability=row["probability"],
            likeliest=tuple((text, probability) for text, probability in row["likeliest"]),
        )
        for row in rows
    )
