"""A request while it is being answered: its panes, and what is new in each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from tokenizers.decoders import DecodeStream

from core.generate.decoder import Row
from core.generate.requests import Delta, PaneRequest, TokenProbability
from core.generate.stops import StopTexts


@dataclass(slots=True, eq=False)
class Pane:
    """One answer. `room` is how many tokens it may grow to, one of `ends` is its last; `row` is what the model has of
    it, from when its prompt is read until it has ended.
    """

    asked: PaneRequest
    prompt: Sequence[int]
    stream: DecodeStream
    stops: StopTexts
    generator: torch.Generator
    room: int
    ends: frozenset[int]
    row: Row | None = None
    tokens: list[int] = field(default_factory=list)
    ended: Literal["stop", "length"] | None = None
    differs_at: int | None = None
    last: Delta | None = None


class Reply:
    """The panes of one request, which begin together."""

    def __init__(self, panes: Sequence[Pane]) -> None:
        self.panes = tuple(panes)
        self._base = next((pane for pane in panes if pane.asked.adapter is None), None)
        self._begun = time.monotonic()

    @property
    def open_panes(self) -> tuple[Pane, ...]:
        """Those that have not ended."""
        return tuple(pane for pane in self.panes if pane.ended is None)

    @property
    def is_done(self) -> bool:
        """Whether all have."""
        return not self.open_panes

    def delta(self, pane: Pane, text: str, known: tuple[TokenProbability, ...] = ()) -> Delta:
        """What is new in `pane` with its last token."""
        n, base = len(pane.tokens), self._base
        is_ahead = base is None or n > len(base.tokens)
        if pane.differs_at is None and not is_ahead and base is not None and pane.tokens[-1] != base.tokens[n - 1]:
            pane.differs_at = n
        pane.last = Delta(
            pane=self.panes.index(pane),
            text=text,
            tokens=n,
            seconds=time.monotonic() - self._begun,
            done=pane.ended is not None,
            differs_at=pane.differs_at,
            probabilities=known,
            prompt_tokens=len(pane.prompt),
            ended=pane.ended,
        )
        return pane.last
