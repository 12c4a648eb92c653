"""What was measured of an adapter beside its base, for "Did it learn?": figures, without torch and without an opinion.

Both answer the same rows, some that were trained on and some that were held out. With ℓᵢ a row's loss, summed over its
nᵢ trained tokens (a classifier's row asks for one thing), and dᵢ = ℓᵢ(base) − ℓᵢ(adapter), what was gained is

    R = Σ dᵢ / Σ nᵢ        nats a trained token

Each row is asked of both, so that rows which are hard for either do not count as noise. R is a ratio of two sums over
rows, and rows, not tokens, were drawn; its standard error is that of a ratio estimator (Cochran, Sampling Techniques,
1977, section 6.4), without its correction for finite populations, since the question is about rows like these:

    s² = k / (k − 1) · Σ (dᵢ − R nᵢ)² / (Σ nᵢ)²        R ± t · s, t of Student's distribution with k − 1 degrees

The divergence is KL(adapter ‖ base), a mean over the same tokens: how far what the adapter says has moved away from
what the base says, wherever it moved to. `core.analysis.divergence` computes both, `core.analysis.health` what modules
did, and `core.analysis.verdict` says what to think of it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import orjson

from core.durable import flush

FILE = "learned.json"  # in a run's folder
CONFIDENCE = 0.95
# Student's t at 0.975 for 1 to 10 degrees of freedom; beyond, a series in 1/ν (Abramowitz and Stegun, 26.7.5)
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
_Z = 1.959964

Fault: TypeAlias = Literal["", "unmoved", "exploding", "not finite"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """`rows` of the `all_rows` of one side, with `answers` trained tokens among them (rows, where these have classes).
    Losses and `kl` are nats an answer; `margin` is how far what was gained may be off either way, None for one row.
    Accuracies are shares of answers that are the likeliest.
    """

    rows: int
    all_rows: int
    answers: int
    base_loss: float
    loss: float
    margin: float | None
    kl: float
    base_accuracy: float
    accuracy: float

    @property
    def gain(self) -> float:
        """By how much the loss fell."""
        return self.base_loss - self.loss

    @property
    def is_better(self) -> bool:
        """Whether the loss fell by more than chance explains."""
        return self.margin is not None and self.gain > self.margin

    @property
    def is_worse(self) -> bool:
        """Whether the loss rose by more than chance explains."""
        return self.margin is not None and -self.gain > self.margin


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """What training did to one module. `change` is ‖ΔW‖ and `weight` ‖W₀‖, both Frobenius norms, `a` and `b` those of
    the factors; None where there is none, or where it is not finite. Of `parts` (experts) so many never moved. Where
    nothing could be measured, `unmeasured` says why.
    """

    name: str
    change: float | None = None
    weight: float | None = None
    a: float | None = None
    b: float | None = None
    parts: int = 1
    unmoved_parts: int = 0
    fault: Fault = ""
    unmeasured: str = ""

    @property
    def share(self) -> float | None:
        """‖ΔW‖ / ‖W₀‖; None where one of them is not known, or W₀ is zero."""
        return self.change / self.weight if self.change is not None and self.weight else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the base and the adapter say to the same prompt, with the likeliest words."""

    prompt: str
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Appraisal:
    """Everything that was measured after `step` steps, in so many `seconds`. A side is None where it has no rows.

    `evaluations` are the run's own losses on all held-out rows by step. `notes` say what was not measured and why;
    `is_cut` that time was up before all chosen rows were asked.
    """

    step: int
    answers_are: Literal["tokens", "rows"] = "tokens"
    trained: Side | None = None
    held_out: Side | None = None
    modules: tuple[Module, ...] = ()
    answers: tuple[Answer, ...] = ()
    evaluations: tuple[tuple[int, float], ...] = ()
    notes: tuple[str, ...] = ()
    is_cut: bool = False
    seconds: float = 0.0

    @property
    def best(self) -> tuple[int, float] | None:
        """The step with the least loss on held-out rows, and that loss; None where none was measured."""
        return min(self.evaluations, key=lambda each: each[1], default=None)

    def faulty(self, fault: Fault) -> tuple[Module, ...]:
        """The modules with that fault."""
        return tuple(module for module in self.modules if module.fault == fault)


@dataclass(frozen=True, slots=True)
class RowScore:
    """One row's sums over its `answers`: losses and divergence in nats, and how many answers are the likeliest."""

    answers: int
    base_loss: float
    loss: float
    kl: float
    base_right: int
    right: int


def side_of(scores: Sequence[RowScore], all_rows: int) -> Side | None:
    """The figures of some rows; None where there are none."""
    answers = sum(score.answers for score in scores)
    if not answers:
        return None
    return Side(
        rows=len(scores),
        all_rows=all_rows,
        answers=answers,
        base_loss=sum(score.base_loss for score in scores) / answers,
        loss=sum(score.loss for score in scores) / answers,
        margin=_margin([(score.base_loss - score.loss, score.answers) for score in scores]),
        kl=sum(score.kl for score in scores) / answers,
        base_accuracy=sum(score.base_right for score in scores) / answers,
        accuracy=sum(score.right for score in scores) / answers,
    )


def _margin(pairs: Sequence[tuple[float, int]]) -> float | None:
    """Half the interval of Σ dᵢ / Σ nᵢ, for pairs (dᵢ, nᵢ)."""
    k, total = len(pairs), sum(n for _, n in pairs)
    if k < 2:
        return None
    ratio = sum(d for d, _ in pairs) / total
    spread = sum((d - ratio * n) ** 2 for d, n in pairs)
    return student(k - 1) * math.sqrt(k / (k - 1) * spread) / total


def student(degrees: int) -> float:
    """The t that `CONFIDENCE` of Student's distribution lies within, either way."""
    if degrees <= len(_T):
        return _T[degrees - 1]
    z = _Z
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + math.fsum(term / degrees**power for power, term in enumerate(terms, start=1))


def write_appraisal(folder: Path, appraisal: Appraisal) -> None:
    """Keep it in a run's `folder`, whole or not at all.

    Raises:
        OSError: there is no room for it.
    """
    draft = folder / f"{FILE}.tmp"
    draft.write_bytes(orjson.dumps(asdict(appraisal)))
    flush([draft])
    os.replace(draft, folder / FILE)


def read_appraisal(folder: Path) -> Appraisal | None:
    """What is kept in a run's `folder`; None where nothing is, or nothing that can be read."""
    try:
        return _parsed(orjson.loads((folder / FILE).read_bytes()))
    except (OSError, ValueError, LookupError, TypeError):  # measured anew when somebody asks
        return None


def _parsed(values: dict[str, Any]) -> Appraisal:
    sides = {name: Side(**values[name]) if values[name] else None for name in ("trained", "held_out")}
    return Appraisal(
        **{
            **values,
            **sides,
            "modules": tuple(Module(**each) for each in values["modules"]),
            "answers": tuple(Answer(**each) for each in values["answers"]),
            "evaluations": tuple((int(step), float(loss)) for step, loss in values["evaluations"]),
            "notes": tuple(values["notes"]),
        }
    )
