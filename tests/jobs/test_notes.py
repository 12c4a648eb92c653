"""Tags and notes of runs."""

from __future__ import annotations

import pytest

from benchmarks.instruments.past_runs import add_past_runs
from core.errors import ConfigError, NotFound
from jobs.home import Home
from jobs.names import LONGEST_NOTE
from jobs.notes import LONGEST_TAG, MOST_TAGS, checked_tags, tags_of
from jobs.service import Service
from jobs.store import Store
from tests.jobs.conftest import make_database


def test_tags_and_a_note_are_kept_in_one_spelling(service: Service) -> None:
    run_id = add_past_runs(service.home, 1, steps=1)[0]
    run = service.notes.put(run_id, [" Style ", "style", "", "naïve"], "First line\r\nsecond ")
    assert run.tags == ("style", "naïve") and run.note == "First line\nsecond"
    assert service.runs()[0].tags == run.tags
    assert service.notes.put(run_id, [], "").tags == ()


def test_what_cannot_be_kept_is_refused_in_a_sentence_and_changes_nothing(service: Service) -> None:
    run_id = add_past_runs(service.home, 1, steps=1)[0]
    before = service.run(run_id)
    for tags, note, words in (
        ([str(number) for number in range(MOST_TAGS + 1)], "", "the most"),
        (["x" * (LONGEST_TAG + 1)], "", "too long"),
        (["a\u202eb"], "", "control characters"),
        ([], "x" * (LONGEST_NOTE + 1), "shorten"),
        ([], "bell \x07", "control characters"),
    ):
        with pytest.raises(ConfigError) as raised:
            service.notes.put(run_id, tags, note)
        assert words in str(raised.value)
    assert service.run(run_id) == before
    with pytest.raises(NotFound):
        service.notes.put("nobody", [], "")


def test_a_comma_parts_tags_and_is_in_none() -> None:
    with pytest.raises(ConfigError, match="comma"):
        checked_tags(["a,b"])


def test_the_tags_of_most_runs_come_first(service: Service) -> None:
    ids = add_past_runs(service.home, 4, steps=1)
    for run_id, tags in zip(ids, (["b"], ["b", "a"], ["c"], ["b", "c"]), strict=True):
        service.notes.put(run_id, tags, "")
    assert tags_of(service.runs()) == ("b", "c", "a")


def test_runs_of_an_older_workbench_have_neither(home: Home) -> None:
    make_database(home, "0005")
    store = Store(home)
    store.close()
    add_past_runs(home.path, 1, steps=1)
    store = Store(home)
    assert store.runs()[0].note == "try number 0"
    store.close()
