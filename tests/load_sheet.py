"""What a load came to: how long each kind of answer took, what failed, what leaked, what the app holds in memory."""

from __future__ import annotations

import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

WITHIN_SECONDS = 1.0  # 95 % of the answers of each kind
FEWEST = 20  # answers of a kind; fewer have no 95th percentile
GROWTH_BYTES = 24e6  # from the second fifth of the time to the last: what an allocator may hold back, and no more

_WORD = re.compile(r"zq[0-9a-f]{8}qz")


def word_of(generator: random.Random) -> str:
    """A word that nobody else types."""
    return f"zq{generator.getrandbits(32):08x}qz"


@dataclass
class Sheet:
    """What came back to anybody. Times count from the warm-up's end; failures and leaks always."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    failures: Counter[str] = field(default_factory=Counter)
    leaks: Counter[str] = field(default_factory=Counter)
    resident: list[int] = field(default_factory=list)
    is_warm: bool = False

    def look_for_others(self, what: str, text: str, mine: str) -> None:
        """Note the words in it that somebody else has typed."""
        for word in {*_WORD.findall(text)} - {mine}:
            self.leaks[f"{what} told {mine} of {word}"] += 1

    def look_for_foreign(self, what: str, text: str, words: Iterable[str]) -> None:
        """Note those of the words that are in it."""
        for word in words:
            if (at := text.find(word)) >= 0:
                self.leaks[f"{what} told of {word}: {text[max(0, at - 80) : at + 40]}"] += 1

    def broken(self) -> list[str]:
        """The promises that what came back did not keep."""
        broken = []
        if self.failures:
            broken.append(f"{self.failures.total()} answers failed")
        if self.leaks:
            broken.append(f"{self.leaks.total()} times somebody saw what was another's")
        for kind, seconds in {**self.seconds, "all answers": self.every()}.items():
            if len(seconds) >= FEWEST and (slow := percentile(seconds, 95)) > WITHIN_SECONDS:
                broken.append(f"95 % of {kind} took up to {slow:.2f} seconds")
        if self.growth() > GROWTH_BYTES:
            broken.append(f"the app's memory grew by {self.growth() / 1e6:.0f} MB")
        return broken

    def table(self) -> str:
        """A line a kind: how many, and percentiles in milliseconds."""
        lines = [f"{'answer':<34}{'count':>8}{'p50':>8}{'p95':>8}{'p99':>8}{'max':>8}  ms"]
        for kind, seconds in sorted({**self.seconds, "all": self.every()}.items()):
            figures = (percentile(seconds, 50), percentile(seconds, 95), percentile(seconds, 99), max(seconds))
            lines.append(f"{kind:<34}{len(seconds):>8,}" + "".join(f"{1000 * each:>8.0f}" for each in figures))
        return "\n".join(lines)

    def every(self) -> list[float]:
        """The seconds of every answer."""
        return [each for seconds in self.seconds.values() for each in seconds]

    def fifths(self) -> list[float]:
        """The bytes that the app held in each fifth of the time."""
        many = max(1, len(self.resident) // 5)
        return [sum(self.resident[at : at + many]) / many for at in range(0, 5 * many, many)]

    def growth(self) -> float:
        """Bytes that the app holds more in the last fifth of the time than in the second; in the first, threads that
        the warm-up did not need still take their own part of the heap.
        """
        return self.fifths()[-1] - self.fifths()[1]


def percentile(seconds: list[float], percent: int) -> float:
    """The time within which so many of a hundred came."""
    return sorted(seconds)[max(0, math.ceil(len(seconds) * percent / 100) - 1)]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a load came to; `broken` says which promises were not kept."""

    sheet: Sheet
    steps: int
    chats: int
    busy: dict[str, float]
    broken: list[str]

    def words(self) -> str:
        """All of it, to be printed."""
        memory = ", ".join(f"{size / 1e6:.0f}" for size in self.sheet.fifths())
        busy = ", ".join(f"{who} {share:.2f}" for who, share in self.busy.items())
        return "\n".join((
            self.sheet.table(),
            f"memory of the app, by fifths of the time: {memory} MB, at most {max(self.sheet.resident) / 1e6:.0f} MB",
            f"meanwhile: {self.steps:,} steps of the run, {self.chats} answers of the chat; cores in use: {busy}",
            *(f"failed {times} times: {what}" for what, times in self.sheet.failures.most_common(20)),
            *(f"mixed up {times} times: {what}" for what, times in self.sheet.leaks.most_common(20)),
            *(f"BROKEN: {what}" for what in self.broken or ()),
        ))  # fmt: skip
