"""Who speaks in the Playground's panes, and how an address names them. No Gradio in here.

A pane is the base model, an adapter at a strength, a run's checkpoint at a strength, or a blend of several of these. In
an address panes stand between commas, the parts of a blend between tildes, a checkpoint is `RUN:STEP`, and a strength
that is not 1 stands behind an @:

    ?adapters=ID,ID@0.5,RUN:140,ID@0.5~ID@0.5        beside the base
    ?panes=base,ID,…                                 where the base is not the first, or not there
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias
from urllib.parse import quote

from jobs.service import Adapter, Blend, Checkpoint
from ui import charts

MOST_PANES = 6
LEAST_STRENGTH, MOST_STRENGTH = -1.0, 2.0
BASE = "base"
COLORS = (charts.BLUE, charts.ORANGE, charts.GREEN, charts.PINK, charts.RED, charts.SKY)

Named: TypeAlias = tuple[tuple[str, float], ...]  # a pane in an address: what it names, with strengths; base: none


@dataclass(frozen=True, kw_only=True)
class Part:
    """An adapter in a pane: `ref` is what the service takes, `address` what an address says."""

    ref: str
    address: str
    name: str
    fingerprint: str
    base_model: str
    strength: float = 1.0


@dataclass(kw_only=True)
class PaneState:
    """One pane; without parts the base model, which is called `title`. `number` is its own while others come and go."""

    number: int
    title: str
    color: str = charts.GRAY
    parts: tuple[Part, ...] = ()
    waiting: str = ""

    @property
    def is_base(self) -> bool:
        """Whether the base model answers alone."""
        return not self.parts

    @property
    def name(self) -> str:
        """What it is called, without strengths."""
        return " + ".join(part.name for part in self.parts) or self.title

    @property
    def adapter(self) -> str | Blend | None:
        """What the service is asked for."""
        if self.is_base:
            return None
        if len(self.parts) == 1 and self.parts[0].strength == 1:
            return self.parts[0].ref
        return tuple((part.ref, part.strength) for part in self.parts)

    @property
    def made_with(self) -> str:
        """`strength 0.5`, `0.5 captain + 0.5 to-json`; nothing where that goes without saying."""
        if len(self.parts) > 1:
            return " + ".join(f"{number(part.strength)} {part.name}" for part in self.parts)
        return f"strength {number(self.parts[0].strength)}" if self.parts else ""

    def set_strength(self, at: int, strength: float) -> None:
        """Let the part `at` have `strength`, kept within what is allowed and to two digits."""
        inside = min(MOST_STRENGTH, max(LEAST_STRENGTH, strength)) if math.isfinite(strength) else 1.0
        part = replace(self.parts[at], strength=round(inside, 2))
        self.parts = (*self.parts[:at], part, *self.parts[at + 1 :])


def number(strength: float) -> str:
    """`1`, `0.5`, `−1`."""
    return f"{strength:g}".replace("-", "−")


def part_of(adapter: Adapter, strength: float = 1.0) -> Part:
    """An adapter of the library."""
    return Part(
        ref=adapter.id,
        address=adapter.id,
        name=adapter.name,
        fingerprint=adapter.fingerprint,
        base_model=adapter.base_model,
        strength=strength,
    )


def part_of_checkpoint(checkpoint: Checkpoint, strength: float = 1.0) -> Part:
    """A checkpoint that has been opened."""
    return Part(
        ref=str(checkpoint.path),
        address=checkpoint_address(checkpoint),
        name=f"{checkpoint.run_name} · step {checkpoint.step:,}",
        fingerprint=checkpoint.fingerprint,
        base_model=checkpoint.base_model,
        strength=strength,
    )


def checkpoint_address(checkpoint: Checkpoint) -> str:
    """`RUN:STEP`."""
    return f"{checkpoint.run_id}:{checkpoint.step}"


def free_color(panes: Sequence[PaneState]) -> str:
    """The first of the series' colors that no pane has."""
    taken = {pane.color for pane in panes}
    return next((color for color in COLORS if color not in taken), COLORS[-1])


def query(panes: Sequence[PaneState]) -> str:
    """The part of an address, from `?` on, that opens with these panes; empty for the base alone."""
    words = [_words(pane) for pane in panes]
    if words[:1] == [BASE] and BASE not in words[1:]:
        return f"?adapters={','.join(words[1:])}" if words[1:] else ""
    return f"?panes={','.join(words)}" if words else ""


def _words(pane: PaneState) -> str:
    parts = [
        quote(part.address, safe=":") + ("" if part.strength == 1 else f"@{part.strength:g}") for part in pane.parts
    ]
    return "~".join(parts) or BASE


def named(adapters: str, panes: str) -> list[Named]:
    """What an address asks for by its `adapters` and `panes`; what cannot be read has strength 1."""
    words = panes.split(",") if panes else [BASE, *adapters.split(",")]
    return [() if word == BASE else tuple(map(_part, word.split("~"))) for word in words if word]


def _part(word: str) -> tuple[str, float]:
    name, _, said = word.rpartition("@") if "@" in word else (word, "", "1")
    try:
        return name, float(said)
    except ValueError:
        return name, 1.0
