"""Did it learn? One sentence, from what `core.analysis.appraisal` has measured, by a table of rules.

The first rule that holds says what happened; faults of modules are added to it, or lead where they are worse.

    rule                  holds where                                                          level
    nothing moved         no module did                                                        bad
    not finite            a module holds a NaN or an infinity                                  bad
    by heart              trained rows got clearly better, held-out ones clearly worse, or     bad
                          less than `HEART` of that better, and not clearly
    forgot                held-out rows got clearly worse, and trained ones not better         bad
    seems to have learned trained rows got clearly better, held-out ones about as much, but    warn
                          they are too few or too unlike to be sure
    did not learn         neither got clearly better, and there were rows enough to see        bad
    cannot be told        as before, with fewer than `FEW_ROWS` held-out rows                  warn
    over-fitted           held-out rows got better, but had been better yet: the last          warn
                          evaluation is above the best by more than `RISE` of what was gained
    mostly by heart       held-out rows gained less than `HEART` of what trained rows gained   warn
    hardly learned        held-out rows gained less than `HARDLY` of the base's loss           warn
    learned               else                                                                 good

"Clearly" is: by more than the 95 % interval of the difference, paired over rows. The thresholds are conventions, each
with its reason. `RISE` 0.1: what an evaluation wavers by between two steps of a run that has settled is a few percent
of what it gained. `HEART` 0.25: rows of one kind gain alike (0.7 to 1.0 of the trained rows' gain in runs of one or
two epochs on the examples); at a quarter, three of four nats are of no use to anybody who asks something new. `HARDLY`
0.01: a hundredth of a loss of 2 nats makes a token two percent likelier, which nobody sees in an answer. `FEW_ROWS` 4:
with three rows t is above 4, so a difference has to be larger than four of its standard errors.

Where no rows were held out, only what happened to the trained ones can be said, and that is no proof of learning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from core.analysis.appraisal import Appraisal, Module, Side

Level: TypeAlias = Literal["good", "warn", "bad"]

RISE, HEART, HARDLY, FEW_ROWS = 0.1, 0.25, 0.01, 4
_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`headline` says it in a few words, `reason` gives the figures; `advice` is what to do next, a sentence each.
    `better_step` is the evaluation after which held-out rows were at their best, where that was before the end.
    """

    level: Level
    headline: str
    reason: str
    advice: tuple[str, ...] = ()
    better_step: int | None = None

    @property
    def sentence(self) -> str:
        """All of it."""
        return f"{self.headline}: {self.reason}." if self.reason else f"{self.headline}."


def judge(appraisal: Appraisal) -> Verdict:
    """What to think of it."""
    return _of_modules(appraisal) or _with_faults(_of_rows(appraisal), appraisal)


def is_past_best(appraisal: Appraisal) -> bool:
    """Whether held-out rows had been answered clearly better at an earlier evaluation than at the last."""
    best, losses = appraisal.best, appraisal.evaluations
    if best is None or best[0] == losses[-1][0]:
        return False
    return losses[-1][1] - best[1] > RISE * (losses[0][1] - best[1])


def _of_modules(appraisal: Appraisal) -> Verdict | None:
    """What modules say that makes all else meaningless."""
    broken = appraisal.faulty("not finite")
    if broken:
        return Verdict(
            level="bad",
            headline="Its weights are broken",
            reason=f"{_names(broken)} {'holds' if len(broken) == 1 else 'hold'} numbers that are not finite",
            advice=("Start again with a lower learning rate.",),
        )
    measured = [module for module in appraisal.modules if not module.unmeasured]
    if measured and len(appraisal.faulty("unmoved")) == len(measured):
        return Verdict(
            level="bad",
            headline="It did not learn",
            reason=f"none of its {len(measured)} modules moved, so it answers as the base does",
            advice=("Train for more steps, or with a higher learning rate.",),
        )
    return None


def _of_rows(appraisal: Appraisal) -> Verdict:
    trained, held_out = appraisal.trained, appraisal.held_out
    if held_out is None:
        return _without_held_out(
            trained, "no held-out one was measured" if appraisal.evaluations else "none were held out"
        )
    if held_out.is_better:
        return _better(appraisal, held_out, trained)
    figures = f"{_fell(held_out)} on {_rows(held_out)} held-out rows"
    if trained is not None and trained.is_better:
        if held_out.is_worse or held_out.gain < HEART * trained.gain:
            return _past_best(appraisal, _by_heart(held_out, trained))
        advice = ("Hold more rows out, so that what was learned can be seen.",)
        reason = f"{figures}, which are too few to be sure, and {_fell(trained)} on trained ones"
        return Verdict(level="warn", headline="It seems to have learned", reason=reason, advice=advice)
    if held_out.is_worse:
        advice = ("Start again with a lower learning rate.",)
        return Verdict(level="bad", headline="It forgot", reason=f"{figures}, worse than the base", advice=advice)
    if held_out.rows < FEW_ROWS:
        advice = ("Hold more rows out, so that what was learned can be seen.",)
        reason = f"{figures}, which are too few to see a difference"
        return Verdict(level="warn", headline="It cannot be told", reason=reason, advice=advice)
    advice = ("Train for more steps, with a higher learning rate, or on more modules.",)
    return Verdict(level="bad", headline="It did not learn", reason=f"{figures}, no more than chance", advice=advice)


def _by_heart(held_out: Side, trained: Side) -> Verdict:
    how = "worse than the base" if held_out.is_worse else "hardly better than the base"
    return Verdict(
        level="bad",
        headline="It learned the rows by heart",
        reason=f"{_fell(trained)} on trained rows, but {_fell(held_out)} on {_rows(held_out)} held-out rows, {how}",
        advice=("Train for fewer epochs, with a lower rank, or on more rows that differ.",),
    )


def _without_held_out(trained: Side | None, why: str) -> Verdict:
    advice = ("Hold rows out to see whether it learned more than these rows.",)
    if trained is None:
        return Verdict(level="warn", headline="It cannot be told", reason="no row was measured", advice=advice)
    figures = f"{_fell(trained)} on {_rows(trained)} trained rows"
    if trained.is_better:
        reason = f"{figures}; {why}, so nobody knows about others"
        return Verdict(level="warn", headline="It learned the trained rows", reason=reason, advice=advice)
    return Verdict(
        level="bad", headline="It did not learn", reason=f"{figures}, no more than chance",
        advice=("Train for more steps, or with a higher learning rate.",),
    )  # fmt: skip


def _better(appraisal: Appraisal, held_out: Side, trained: Side | None) -> Verdict:
    """Held-out rows got clearly better: how much, beside the trained ones, and was that the best of the run?"""
    figures = f"{_fell(held_out)} on {_rows(held_out)} held-out rows"
    if is_past_best(appraisal):
        over = Verdict(level="warn", headline="It learned, and then over-fitted", reason=figures)
        return _past_best(appraisal, over)
    if trained is not None and held_out.gain < HEART * trained.gain:
        return Verdict(
            level="warn",
            headline="It learned a little, and the rest by heart",
            reason=f"{figures}, but {_fell(trained)} on trained rows",
            advice=("Train for fewer epochs, with a lower rank, or on more rows that differ.",),
        )
    if held_out.gain < HARDLY * held_out.base_loss:
        advice = ("Train for more steps, or with a higher learning rate.",)
        return Verdict(level="warn", headline="It hardly learned", reason=figures, advice=advice)
    return Verdict(level="good", headline="It learned", reason=figures)


def _past_best(appraisal: Appraisal, verdict: Verdict) -> Verdict:
    """With where the run was at its best, if that was before its end."""
    best, losses = appraisal.best, appraisal.evaluations
    if best is None or not is_past_best(appraisal) or best[0] == 0:
        return verdict
    return Verdict(
        level=verdict.level,
        headline=verdict.headline,
        reason=f"{verdict.reason}; the loss on all of them was {best[1]:.2f} after step {best[0]:,}, and "
        f"{losses[-1][1]:.2f} at the end",
        advice=(f"Take the checkpoint of step {best[0]:,}, or stop there next time.", *verdict.advice),
        better_step=best[0],
    )


def _with_faults(verdict: Verdict, appraisal: Appraisal) -> Verdict:
    """With modules that never moved or moved too far; a good run with such is not all good."""
    parts, advice = [verdict.reason], list(verdict.advice)
    measured = sum(not module.unmeasured for module in appraisal.modules)
    if unmoved := appraisal.faulty("unmoved"):
        never = "has never moved" if len(unmoved) == 1 else "have never moved"
        parts.append(f"{len(unmoved)} of {measured} modules {never}")
        advice.append("Leave the modules out that never moved, or look why no gradient reaches them.")
    if exploding := appraisal.faulty("exploding"):
        parts.append(f"{len(exploding)} of {measured} modules moved too far ({_names(exploding)})")
        advice.append("Lower the learning rate or alpha if its answers fall apart.")
    if len(parts) == 1:
        return verdict
    return Verdict(
        level="warn" if verdict.level == "good" else verdict.level,
        headline=verdict.headline,
        reason="; ".join(parts),
        advice=tuple(advice),
        better_step=verdict.better_step,
    )


def _fell(side: Side) -> str:
    return f"{side.base_loss:.2f} → {side.loss:.2f}"


def _rows(side: Side) -> str:
    return f"{side.rows:,}" if side.rows == side.all_rows else f"{side.rows:,} of {side.all_rows:,}"


def _names(modules: tuple[Module, ...]) -> str:
    named = ", ".join(module.name for module in modules[:_NAMED])
    more = len(modules) - _NAMED
    return f"{named} and {more} more" if more > 0 else named
