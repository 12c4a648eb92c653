"""What reading an export back has shown, in figures. No torch here: pages and command lines print it.

Two sets of logits are compared at the same positions, those behind a few prompts and behind each token of our greedy
answer to them: ours, of the adapter on its base, and those of the written files as another program reads them. The
figure is the largest difference between two logits over the spread (standard deviation) of ours.

How much of it rounding may be blamed for depends on the model: some make ten times more of it than others. So it is
tried: every weight of ours is moved at random by up to

    ε = u + 2⁻²⁰

of its size, where u is what the storage rounds by and the rest is what fp32 does when it sums in another order, and the
same figure is taken of that. The bound is four times this, and never above a half: what moves logits further than that
cannot be told from a fault. A matrix turned, a sign, a scale left out are off by the spread itself.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

ORDER_OF_SUMS = 2.0**-20
# What a stored weight is off by at most: of itself, or for q8_0 of the largest of its block of 32.
ROUNDING = {"float32": 0.0, "float16": 2.0**-11, "bfloat16": 2.0**-8, "q8_0": 1 / 254}
MARGIN, LARGEST_BOUND = 4.0, 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One comparison. `reader` is what read the files, `stored` what weights are stored in, `agreed` at how many of the
    `tokens` positions the likeliest token is the same; where nothing could be compared `why_not` says it.
    """

    reader: str
    stored: str = "float32"
    difference: float = 0.0
    bound: float = 0.0
    agreed: int = 0
    tokens: int = 0
    why_not: str = ""

    @property
    def is_good(self) -> bool:
        """Whether the files are what they should be, as far as could be seen."""
        return bool(self.why_not) or self.difference <= self.bound

    @property
    def sentence(self) -> str:
        """The figure in words."""
        if self.why_not:
            return f"Not read back: {self.why_not}."
        return (
            f"Read back by {self.reader}: {self.agreed} of {self.tokens} greedy tokens agree; logits differ by at most "
            f"{self.difference:.2g} of their spread (bound {self.bound:.2g}, weights in {self.stored})."
        )

    def write(self, path: Path) -> None:
        """Keep it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def read_verdict(path: Path) -> Verdict | None:
    """What was kept at `path`; None where that is nothing that can be read."""
    try:
        return Verdict(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def bound(moved: float) -> float:
    """How far logits may be off, where moving the weights has moved them by `moved`; all in units of their spread."""
    return min(MARGIN * moved, LARGEST_BOUND)
