from __future__ import annotations

import math
from pathlib import Path

import pytest

from core.export.verdict import Verdict, bound, read_verdict


def verdict(**changes: object) -> Verdict:
    values = {"reader": "peft 1", "difference": 0.01, "bound": 0.02, "agreed": 31, "tokens": 32}
    return Verdict(**(values | changes))  # type: ignore[arg-type]


def test_only_a_difference_within_its_bound_is_good() -> None:
    assert verdict().is_good and not verdict(difference=0.03).is_good
    assert not verdict(difference=math.inf).is_good and not verdict(difference=math.nan).is_good
    assert verdict(difference=1.0, why_not="no memory").is_good


def test_the_sentence_has_every_figure() -> None:
    said = verdict(stored="bfloat16").sentence
    assert "peft 1: 31 of 32 greedy tokens agree" in said and "0.01 of their spread (bound 0.02" in said
    assert verdict(why_not="no memory").sentence == "Not read back: no memory."


def test_it_is_kept_and_read_again(tmp_path: Path) -> None:
    verdict().write(tmp_path / "check.json")
    assert read_verdict(tmp_path / "check.json") == verdict()
    (tmp_path / "other.json").write_text('{"reader": 1, "x": 2}')
    assert read_verdict(tmp_path / "other.json") is None and read_verdict(tmp_path / "none") is None


def test_the_bound_follows_what_rounding_does_and_stays_below_what_a_fault_does() -> None:
    assert bound(1e-6) == pytest.approx(4e-6) and bound(0.1) == pytest.approx(0.4)
    assert bound(0.2) == bound(math.inf) == 0.5
