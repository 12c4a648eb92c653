"""A promise is kept, broken or not measured, and never anything between."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.promises import BROKEN, KEPT, MISSING, PROMISES, Promise, table, verdicts

FASTER = Promise(about="speed", against="them", benchmark="x", place=("ratios", "speed"), at_least=8)
SMALLER = replace(FASTER, at_least=None, at_most=0.14)


@pytest.mark.parametrize(
    ("promise", "figure", "word"),
    [(FASTER, 8.0, KEPT), (FASTER, 7.99, BROKEN), (SMALLER, 0.14, KEPT), (SMALLER, 0.15, BROKEN)],
)
def test_the_bound_itself_keeps_a_promise_and_what_is_beyond_breaks_it(
    promise: Promise, figure: float, word: str
) -> None:
    assert promise.judge({"ratios": {"speed": figure}}).word == word


@pytest.mark.parametrize("results", [None, {}, {"ratios": {}}, {"ratios": 3}, {"ratios": {"speed": "fast"}}])
def test_what_was_not_measured_is_not_kept(results: dict[str, Any] | None) -> None:
    verdict = FASTER.judge(results)
    assert (verdict.word, verdict.figure) == (MISSING, "–")


def test_every_promise_has_one_bound_and_a_line_of_the_table() -> None:
    for promise in PROMISES:
        assert (promise.at_least is None) != (promise.at_most is None)
    lines = table(verdicts(lambda _: None)).splitlines()
    assert len(lines) == len(PROMISES) + 2
    assert len({line.count("|") for line in lines}) == 1


def test_a_figure_beyond_its_bound_is_printed_as_broken() -> None:
    found = verdicts(lambda name: {"ratios": {"speed_over_plain": 2.5}} if name == "training" else None)
    (line,) = [line for line in table(found).splitlines() if "2.5×" in line]
    assert BROKEN in line and "≥ 8×" in line


def test_what_is_kept_of_a_verdict_is_plain_json() -> None:
    from benchmarks.suite import plain

    for verdict in verdicts(lambda _: None):
        json.dumps(plain(verdict))
