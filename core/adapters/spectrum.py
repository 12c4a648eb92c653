"""What ranks of an adapter are worth, before it is made smaller: from the singular values of its modules' ΔW alone.

`core.adapters.combine.shrink` cuts each module to a rank; what it keeps of ‖ΔW‖², the energy, is Σ σ² of the singular
values that stay by Σ σ² of all. Here are these figures for any rank or share, without tensors and without torch, so
that a page shows them as one chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

_FLOAT32 = 4


@dataclass(frozen=True, slots=True)
class Spectrum:
    """One module: `squares` σ², largest first, as many as it has rank; `features` in and out, what a rank costs."""

    squares: tuple[float, ...]
    features: int

    def energies(self) -> list[float]:
        """What the first 0, 1, … ranks keep, from 0 to 1; all is kept where there is nothing."""
        sums = [0.0, *accumulate(self.squares)]
        return [part / sums[-1] for part in sums] if sums[-1] > 0 else [1.0] * len(sums)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A smaller adapter: the share of the energy that it keeps, its modules' ranks and its size on disk, fp32."""

    energy: float
    lowest_rank: int
    highest_rank: int
    bytes: int


def at_rank(modules: Sequence[Spectrum], rank: int) -> Kept:
    """What is kept where no module has a higher rank than `rank`."""
    return _kept(modules, lambda _: rank)


def at_energy(modules: Sequence[Spectrum], energy: float) -> Kept:
    """What is kept where each module has the lowest rank that keeps the share `energy`."""
    return _kept(modules, lambda module: max(1, sum(part < energy for part in module.energies())))


def _kept(modules: Sequence[Spectrum], choose: Callable[[Spectrum], int]) -> Kept:
    ranks = [min(choose(module), len(module.squares)) for module in modules]
    total = sum(sum(module.squares) for module in modules)
    kept = sum(sum(module.squares[:rank]) for module, rank in zip(modules, ranks, strict=True))
    return Kept(
        energy=kept / total if total else 1.0,
        lowest_rank=min(ranks, default=0),
        highest_rank=max(ranks, default=0),
        bytes=_FLOAT32 * sum(rank * module.features for module, rank in zip(modules, ranks, strict=True)),
    )
