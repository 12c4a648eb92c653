"""A curve that stays small however many points go into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace


@dataclass
class Curve:
    """Points in order of x, at most `limit` of them; the newest point is always there."""

    limit: int = 1000
    x: list[float] = field(default_factory=list)
    y: list[float] = field(default_factory=list)
    _stride: int = 1
    _seen: int = 0

    def add(self, x: float, y: float) -> None:
        """Take one more point; the one before it goes if it was only there for being the newest."""
        self.extend((x,), (y,))

    def extend(self, x: Sequence[float], y: Sequence[float]) -> None:
        """Take more points, as if one after the other was added."""
        if not x:
            return
        if self.x and (self._seen - 1) % self._stride:
            self.x.pop()
            self.y.pop()
        first = -self._seen % self._stride
        self.x += x[first :: self._stride]
        self.y += y[first :: self._stride]
        self._seen += len(x)
        self._end_with(x[-1], y[-1])
        while len(self.x) > self.limit:
            self._thin()

    def cut(self, x: float) -> None:
        """Forget what lies at `x` and after: a resumed run draws it again."""
        while self.x and self.x[-1] >= x:
            self.x.pop()
            self.y.pop()
        self._seen = len(self.x) and (len(self.x) - 1) * self._stride + 1

    def copy(self) -> Curve:
        """One that goes its own way."""
        return replace(self, x=self.x.copy(), y=self.y.copy())

    def _thin(self) -> None:
        newest = self.x[-1], self.y[-1]
        self.x, self.y = self.x[::2], self.y[::2]
        self._stride *= 2
        self._end_with(*newest)

    def _end_with(self, x: float, y: float) -> None:
        """Let that be the newest point."""
        if not self.x or self.x[-1] != x:
            self.x.append(x)
            self.y.append(y)
