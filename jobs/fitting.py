"""Does a number of bytes fit into what is free? And what is known of a dataset's rows, on which that depends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Fit: TypeAlias = Literal["fits", "tight", "does not fit", "unknown"]

TIGHT_SHARE = 0.85  # of what is free: beyond it, what an estimate may be off by decides


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFacts:
    """What is known of a dataset's rows: how many, and `lengths` `[rows]`, the tokens that each feeds before it is cut,
    once they are counted.
    """

    rows: int
    lengths: NDArray[np.integer] | None = None

    def cut_at(self, limit: int) -> int | None:
        """How many rows are longer than `limit` tokens; None while that is not known."""
        return None if self.lengths is None else int(np.count_nonzero(self.lengths > limit))

    def longest(self, limit: int) -> int:
        """Tokens of the longest row under `limit`; the limit itself while no row is counted."""
        return limit if self.lengths is None or not len(self.lengths) else min(limit, int(self.lengths.max()))

    def mean(self, limit: int) -> float | None:
        """Tokens of a middling row under `limit`."""
        if self.lengths is None or not len(self.lengths):
            return None
        return float(np.minimum(self.lengths, limit).mean())


def fits(needed: int, free: int | None, *, is_measured: bool) -> Fit:
    """Whether `needed` bytes fit into `free`; an estimate has to leave room for what it may be off by."""
    if free is None:
        return "unknown"
    if needed > free:
        return "does not fit"
    return "fits" if is_measured or needed <= TIGHT_SHARE * free else "tight"
