"""Which losses stand out from those before them.

A loss is a spike if it lies more than `FAR` robust standard deviations above the median of the last `WINDOW` losses;
the median's absolute deviation times 1.4826 estimates a normal distribution's standard deviation and is not moved by
earlier spikes. A spike is marked and nothing else: most runs recover on their own, and what to do where one does not
(go back, skip rows) is for the person to say.
"""

from __future__ import annotations

import statistics
from collections import deque

WINDOW, ENOUGH, FAR = 50, 10, 6.0
_OF_NORMAL = 1.4826


class SpikeWatch:
    """Remembers the last losses of a run."""

    def __init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=WINDOW)

    def is_spike(self, loss: float) -> bool:
        """Whether `loss`, which is remembered, stands out from those before it; never before there are `ENOUGH`."""
        before = list(self._losses)
        self._losses.append(loss)
        if len(before) < ENOUGH:
            return False
        median = statistics.median(before)
        deviation = _OF_NORMAL * statistics.median(abs(each - median) for each in before)
        return loss > median + FAR * deviation
