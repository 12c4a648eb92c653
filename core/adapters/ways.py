"""The ways to make one adapter of several, in words and without torch; `core.adapters.combine` carries them out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

How = Literal["concat", "svd", "ties", "dare_linear", "dare_ties"]
MOST_ADAPTERS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    """How adapters become one: `weights` one an adapter, `rank` for all but `concat`, `density` and `seed` for TIES and
    DARE alone.
    """

    how: How
    weights: tuple[float, ...]
    rank: int | None = None
    density: float = 0.5
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to combine: its name, when it is the right one, and which settings it has."""

    title: str
    when: str
    has_rank: bool = True
    has_density: bool = False
    has_seed: bool = False


WAYS: dict[How, Way] = {
    "concat": Way(
        title="Exact sum",
        when="Keeps everything: the weighted sum of what each adapter changes. Ranks add up, and so does the size.",
        has_rank=False,
    ),
    "svd": Way(
        title="Sum at a rank",
        when="The nearest to the weighted sum that a rank allows: for a result as small as one adapter.",
    ),
    "ties": Way(
        title="TIES",
        when="For adapters that get into each other's way: drops small changes, and averages those that agree in sign.",
        has_density=True,
    ),
    "dare_linear": Way(
        title="DARE",
        when="For many adapters that changed much: drops changes at random, scales up the rest, and sums.",
        has_density=True,
        has_seed=True,
    ),
    "dare_ties": Way(
        title="DARE and TIES",
        when="Drops changes at random as DARE does, and then lets signs agree as TIES does.",
        has_density=True,
        has_seed=True,
    ),
}
