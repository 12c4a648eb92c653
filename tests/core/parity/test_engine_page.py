"""The engine's page says what the suite holds, no less and no more."""

from __future__ import annotations

from docs.engine import PAGE, claims, matrix, page_with
from tests.core.parity.cases import CASES


def test_the_page_is_what_the_suite_would_write() -> None:
    """The cases are tests: where one fails, its own failure says so, and here stands what is to hold."""
    assert PAGE.read_text(encoding="utf-8") == page_with(matrix(claims()))


def test_what_does_not_hold_shows_on_the_page() -> None:
    everything = matrix(claims())
    names = list(claims())
    for number, case in enumerate(map(str, CASES)):
        claim = next(name for name in names[number % len(names) :] + names if case in claims()[name])
        without = {**claims(), claim: tuple(other for other in claims()[claim] if other != case)}
        assert matrix(without) != everything, (claim, case)


def test_names_of_cases_are_told_apart() -> None:
    assert len({str(case) for case in CASES}) == len(CASES)
