"""A few browsers for a while of the fifty for five minutes that `python -m tests.load` lets in; and those, too."""

from __future__ import annotations

import random

import pytest

from tests.load import carry_out
from tests.load_sheet import FEWEST, GROWTH_BYTES, WITHIN_SECONDS, Sheet, word_of


@pytest.mark.alone
@pytest.mark.timeout(300)
def test_ten_browsers_for_twenty_seconds_break_no_promise() -> None:
    outcome = carry_out(clients=10, seconds=20, seed=1)
    assert outcome.broken == [], outcome.words()


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fifty_browsers_for_five_minutes_break_no_promise() -> None:
    outcome = carry_out(clients=50, seconds=300)
    assert outcome.broken == [], outcome.words()


def test_the_word_of_another_is_a_leak_and_ones_own_is_none() -> None:
    sheet, generator = Sheet(), random.Random(0)
    mine, another = word_of(generator), word_of(generator)
    sheet.look_for_others("refresh", f"--output {mine}", mine)
    assert sheet.broken() == []
    sheet.look_for_others("refresh", f"--output {another} {mine}", mine)
    assert sheet.leaks.total() == 1
    assert sheet.broken() != []


def test_the_id_of_another_run_is_a_leak() -> None:
    sheet = Sheet()
    sheet.look_for_foreign("look", "the run 01ABC", ["01DEF"])
    assert sheet.broken() == []
    sheet.look_for_foreign("look", "the run 01ABC", ["01DEF", "01ABC"])
    assert sheet.broken() != []


def test_slow_answers_break_a_promise_where_they_are_more_than_one_in_twenty() -> None:
    quick, slow = [0.01] * 19 * FEWEST, [WITHIN_SECONDS + 0.1] * FEWEST
    assert Sheet(seconds={"page": [*quick, *slow]}).broken() == []
    (words,) = {each.partition(" took")[2] for each in Sheet(seconds={"page": [*quick[1:], *slow]}).broken()}
    assert "1.10 seconds" in words


def test_memory_that_grows_breaks_a_promise_and_a_peak_does_not() -> None:
    start = int(3e8)
    assert Sheet(resident=[start, start, start + int(GROWTH_BYTES) * 2, start, start]).broken() == []
    assert Sheet(resident=[start + step * int(GROWTH_BYTES) // 2 for step in range(5)]).broken() != []
