"""What states a run can be in, and every move from one to another. `jobs.store` makes the moves, nobody else does.

    waits       queued
    active      preparing ──begin──▶ running ──asked──▶ pausing or stopping      these hold a device
    at rest     paused, and what has ended: finished, failed, cancelled, interrupted

A run that waits is claimed; an active one ends in whatever its worker's last word says, or its death; one at rest that
has not finished goes on from its last checkpoint when it is queued again, or ends there, if it is queued with the wish
to keep what that holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RunState = Literal[
    "queued", "preparing", "running", "pausing", "paused", "stopping", "finished", "failed", "cancelled", "interrupted"
]
Wish = Literal["pause", "keep", "cancel"]
Outcome = Literal["paused", "finished", "failed", "cancelled", "interrupted"]

ACTIVE_STATES: tuple[RunState, ...] = ("preparing", "running", "pausing", "stopping")
ENDED_STATES: tuple[RunState, ...] = ("finished", "failed", "cancelled", "interrupted")
RESTING_STATES: tuple[RunState, ...] = ("paused", *ENDED_STATES)
RESUMABLE_STATES: tuple[RunState, ...] = ("paused", "failed", "cancelled", "interrupted")


@dataclass(frozen=True, slots=True)
class Move:
    """From any of `sources` to `target`; a run that is elsewhere stays where it is."""

    sources: tuple[RunState, ...]
    target: RunState


CLAIM = Move(("queued",), "preparing")
REFUSE = Move(("queued",), "failed")
BEGIN = Move(("preparing",), "running")
REQUEUE = Move(RESUMABLE_STATES, "queued")

# What a wish does to a run that holds no device, and to one that does. What a run at rest has learned can be kept only
# by a worker: it is queued again, with that wish.
AT_ONCE: dict[Wish, Move] = {
    "pause": Move(("queued",), "paused"),
    "keep": Move(("queued",), "cancelled"),
    "cancel": Move(("queued", "paused"), "cancelled"),
}
ASKED: dict[Wish, Move] = {
    "pause": Move(("preparing", "running"), "pausing"),
    "keep": Move(ACTIVE_STATES, "stopping"),
    "cancel": Move(ACTIVE_STATES, "stopping"),
}


def end(outcome: Outcome) -> Move:
    """What a worker's last word, or its death, does to its run."""
    return Move(ACTIVE_STATES, outcome)
