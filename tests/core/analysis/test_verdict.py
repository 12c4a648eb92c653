"""One sentence on what was learned, rule by rule."""

from __future__ import annotations

from typing import Any

import pytest

from core.analysis.appraisal import Appraisal, Module, Side
from core.analysis.verdict import judge


def side(base: float, loss: float, *, margin: float | None = 0.1, rows: int = 8, all_rows: int = 8) -> Side:
    return Side(
        rows=rows, all_rows=all_rows, answers=100, base_loss=base, loss=loss, margin=margin, kl=0.3, base_accuracy=0.3,
        accuracy=0.6,
    )  # fmt: skip


def appraisal(held_out: Side | None, trained: Side | None = None, **more: Any) -> Appraisal:
    return Appraisal(step=30, trained=trained, held_out=held_out, **more)


MOVED = Module(name="q", change=0.1, weight=1.0)
LEARNED = {"held_out": side(2.41, 1.02), "trained": side(2.4, 0.9)}


@pytest.mark.parametrize(
    ("held_out", "trained", "level", "sentence"),
    [
        (side(2.41, 1.02), side(2.4, 0.9), "good", "It learned: 2.41 → 1.02 on 8 held-out rows."),
        (side(2.4, 2.9), side(2.4, 0.3), "bad",
         "It learned the rows by heart: 2.40 → 0.30 on trained rows, but 2.40 → 2.90 on 8 held-out rows, "
         "worse than the base."),
        (side(2.4, 2.35), side(2.4, 0.3), "bad",
         "It learned the rows by heart: 2.40 → 0.30 on trained rows, but 2.40 → 2.35 on 8 held-out rows, "
         "hardly better than the base."),
        (side(2.4, 2.1), side(2.4, 0.3), "warn",
         "It learned a little, and the rest by heart: 2.40 → 2.10 on 8 held-out rows, but 2.40 → 0.30 on trained "
         "rows."),
        (side(2.4, 2.9), side(2.4, 2.38), "bad",
         "It forgot: 2.40 → 2.90 on 8 held-out rows, worse than the base."),
        (side(2.4, 2.38), side(2.4, 2.39), "bad",
         "It did not learn: 2.40 → 2.38 on 8 held-out rows, no more than chance."),
        (side(2.4, 2.38, rows=2, all_rows=2), side(2.4, 2.39), "warn",
         "It cannot be told: 2.40 → 2.38 on 2 held-out rows, which are too few to see a difference."),
        (side(5.5, 5.0, margin=0.9, rows=2, all_rows=2), side(5.6, 5.0), "warn",
         "It seems to have learned: 5.50 → 5.00 on 2 held-out rows, which are too few to be sure, and 5.60 → 5.00 on "
         "trained ones."),
        (side(2.4, 2.39, margin=0.001), side(2.4, 2.38), "warn", "It hardly learned: 2.40 → 2.39 on 8 held-out rows."),
        (side(2.4, 1.0, rows=64, all_rows=5000), None, "good",
         "It learned: 2.40 → 1.00 on 64 of 5,000 held-out rows."),
        (None, side(2.4, 1.0), "warn",
         "It learned the trained rows: 2.40 → 1.00 on 8 trained rows; none were held out, so nobody knows about "
         "others."),
        (None, side(2.4, 2.4), "bad", "It did not learn: 2.40 → 2.40 on 8 trained rows, no more than chance."),
        (None, None, "warn", "It cannot be told: no row was measured."),
    ],
)  # fmt: skip
def test_each_outcome_has_its_sentence(held_out: Side | None, trained: Side | None, level: str, sentence: str) -> None:
    verdict = judge(appraisal(held_out, trained))
    assert (verdict.level, verdict.sentence) == (level, sentence)
    assert (level == "good") == (not verdict.advice), "whoever is warned is told what to do"


def test_a_run_that_had_been_better_is_told_from_which_step() -> None:
    verdict = judge(appraisal(**LEARNED, evaluations=((0, 2.4), (10, 0.9), (20, 1.0), (30, 1.2))))
    assert (verdict.level, verdict.headline, verdict.better_step) == ("warn", "It learned, and then over-fitted", 10)
    assert "0.90 after step 10, and 1.20 at the end" in verdict.reason and "step 10" in verdict.advice[0]


def test_what_an_evaluation_wavers_by_is_no_overfitting() -> None:
    verdict = judge(appraisal(**LEARNED, evaluations=((0, 2.4), (10, 1.0), (20, 1.02))))
    assert verdict.level == "good" and verdict.better_step is None


def test_a_run_that_was_never_better_than_the_base_has_no_better_checkpoint() -> None:
    rows = {"held_out": side(2.4, 2.9), "trained": side(2.4, 0.3)}
    verdict = judge(appraisal(**rows, evaluations=((0, 2.4), (10, 2.6), (20, 2.9))))
    assert verdict.headline == "It learned the rows by heart" and verdict.better_step is None


def test_held_out_rows_that_could_not_be_measured_are_not_called_missing() -> None:
    verdict = judge(appraisal(None, side(2.4, 1.0), evaluations=((0, 2.4), (10, 1.2))))
    assert "no held-out one was measured" in verdict.reason and verdict.level == "warn"


def test_modules_that_never_moved_make_a_good_run_doubtful() -> None:
    modules = (*[MOVED] * 9, Module(name="k", change=0.0, weight=1.0, fault="unmoved"))
    verdict = judge(appraisal(**LEARNED, modules=modules))
    assert verdict.level == "warn" and verdict.sentence.endswith("held-out rows; 1 of 10 modules has never moved.")


def test_modules_that_moved_too_far_are_named() -> None:
    far = Module(name="layers.0.q_proj", change=3.0, weight=1.0, fault="exploding")
    verdict = judge(appraisal(**LEARNED, modules=(MOVED, far)))
    assert verdict.level == "warn" and "1 of 2 modules moved too far (layers.0.q_proj)" in verdict.sentence


def test_an_adapter_that_did_not_move_at_all_did_not_learn_whatever_else_there_is() -> None:
    still = Module(name="k", change=0.0, weight=1.0, fault="unmoved")
    verdict = judge(appraisal(**LEARNED, modules=(still, still)))
    assert verdict.level == "bad" and "none of its 2 modules moved" in verdict.sentence


def test_numbers_that_are_not_finite_come_before_all_else() -> None:
    broken = tuple(Module(name=f"m{number}", fault="not finite") for number in range(5))
    verdict = judge(appraisal(None, None, modules=broken))
    assert verdict.sentence == "Its weights are broken: m0, m1, m2 and 2 more hold numbers that are not finite."


def test_what_could_not_be_measured_is_not_held_against_an_adapter() -> None:
    unknown = Module(name="x", unmeasured="a kind that is not measured")
    assert judge(appraisal(**LEARNED, modules=(unknown,))).level == "good"
