"""The list of runs: pages, search, tags; and several runs compared. Over a real service with runs that are over."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.instruments.past_runs import add_past_runs
from core.errors import ConfigError
from jobs.service import Service, Summary
from tests.ui.stand_in import NOW, XSS, run
from tests.ui.test_train_page import Names
from ui.pages import run_compare, run_view
from ui.pages.run_listing import A_PAGE, MOST_COMPARED, has_words
from ui.pages.runs import RunsPage, Seen
from ui.story import Stories


@pytest.fixture
def page(tmp_path: Path) -> Iterator[RunsPage]:
    service = Service(tmp_path / "home", tmp_path / "models")
    yield RunsPage(service, Stories(service), Names())  # type: ignore[arg-type]
    service.close()


def event(**values: Any) -> Any:
    return SimpleNamespace(**values)


def names(html: str) -> list[str]:
    return re.findall(r"<strong>([^<]+)</strong>", html)


def test_five_hundred_runs_are_listed_a_page_at_a_time_without_reading_their_events_again(
    page: RunsPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_past_runs(page.service.home, 500, steps=3)
    seen = Seen()
    first = page.look(seen)["run_list"]
    assert names(first) == [f"run {number:03}" for number in range(499, 449, -1)]
    assert "1 to 50 of 500 runs" in first and first.count("<polyline") == A_PAGE and len(first) < 100_000
    older = page.turn(seen, event(by=1))["run_list"]
    assert names(older)[0] == "run 449" and "51 to 100 of 500 runs" in older
    for _ in range(20):
        page.turn(seen, event(by=1))
    assert "451 to 500 of 500 runs" in str(seen.html) and 'data-turn="1" aria-disabled="true"' in str(seen.html)
    monkeypatch.setattr("jobs.summaries.read_history", lambda *_: pytest.fail("events were read for a list"))
    assert page.look(seen) == {}
    assert names(page.turn(seen, event(by=-1))["run_list"])[0] == "run 099"


def test_words_are_looked_for_everywhere_and_all_of_them_have_to_be_there(page: RunsPage) -> None:
    add_past_runs(page.service.home, 60, steps=1)
    seen = Seen()
    page.look(seen)
    for words, found in (
        ("run 04", [*(f"run 04{number}" for number in range(9, -1, -1)), "run 004"]),
        ("RUN 007", ["run 007"]),
        ("try number 14", ["run 014"]),
        ("night 04", ["run 046", "run 040", "run 004"]),
        ("captain smollm2 finished 033", ["run 033"]),
    ):
        assert names(page.search(seen, words)["run_list"]) == found
    nothing = page.search(seen, f"nowhere {XSS}")["run_list"]
    assert "No run has" in nothing and "<img" not in nothing
    assert "1 to 50 of 60 runs" in page.search(seen, "  ")["run_list"]


def test_words_that_were_typed_before_the_page_had_come_are_heeded_by_the_next_look(page: RunsPage) -> None:
    add_past_runs(page.service.home, 3, steps=1)
    assert page.search(None, "002") == {}
    seen = page.open(event(query_params={}))["seen"]
    assert names(page.tick(seen, "002")["run_list"]) == ["run 002"] and page.tick(seen, " 002") == {}
    alone = Seen(run_id=page.service.runs()[0].id)
    assert "progress" in page.tick(alone, "002") and page.tick(None, "002") == {}


def test_a_tag_is_a_filter_that_a_second_click_takes_away(page: RunsPage) -> None:
    ids = add_past_runs(page.service.home, 12, steps=1)
    seen = Seen()
    assert 'data-tag="style" aria-pressed="false"' in page.look(seen)["tags"]
    news = page.filter(seen, event(tag="style"))
    assert names(news["run_list"]) == ["run 006", "run 000"] and 'data-tag="style" aria-pressed="true"' in news["tags"]
    assert "2 runs found" in news["run_list"] and '<span class="tag">style</span>' in news["run_list"]
    assert names(page.search(seen, "006")["run_list"]) == ["run 006"]
    page.search(seen, "")
    assert len(names(page.filter(seen, event(tag="style"))["run_list"])) == 12
    page.service.notes.put(ids[0], ["once"], "")
    assert "once" in page.look(seen)["tags"]


def test_a_search_finds_runs_that_wait_and_those_of_sweeps_too(page: RunsPage) -> None:
    add_past_runs(page.service.home, 3, steps=1, state="queued")
    seen = Seen()
    news = page.look(seen)
    assert names(news["run_queue"]) == ["run 000", "run 001", "run 002"] and news["run_list"] == ""
    news = page.search(seen, "002")
    assert names(news["run_list"]) == ["run 002"] and news["run_queue"] == ""


def test_whatever_a_run_is_called_and_noted_is_text(page: RunsPage) -> None:
    bad = run(name=XSS, tags=(XSS,), note=XSS, dataset_name=XSS)
    html = run_view.run_list([(bad, Summary())], NOW) + run_view.head(bad)
    assert "<img" not in html and html.count("&lt;img") >= 6


def test_words_of_state_and_model_are_those_that_are_shown() -> None:
    assert has_words(run(state="cancelled"), ["cancelled", "smollm2", "captain"])
    assert not has_words(run(), ["captain", "nowhere"])


# ---- compared


def test_two_runs_are_drawn_over_each_other_with_what_differs_alone(page: RunsPage) -> None:
    ids = add_past_runs(page.service.home, 3, steps=30)
    news = page.open(event(query_params={"compare": f"{ids[0]}, {ids[1]},{ids[0]}"}))
    assert "2 runs compared" in news["compare_head"] and news["list_view"]["visible"] is False
    for chart in ("compared_loss", "compared_evaluation"):
        assert news[chart].count('"across":{"step":[') == 2
    table = news["differences"]
    different = re.findall(r'<th scope="row">([^<]+)</th>', table.partition("Settings that differ")[2])
    assert different == ["Rank", "Seed"] and "<td>1</td><td>2</td>" in table
    assert "<td>30</td><td>30</td>" in table and f'href="/runs?run={ids[1]}"' in table
    assert page.look(news["seen"]) == {} and news["timer"].active is False


def test_runs_that_are_alike_are_said_to_be() -> None:
    assert "all of them are the same" in run_compare.differences([run(), run(id="r2")])


@pytest.mark.parametrize("asked", ["a", "a,a", ",", ",".join(f"r{number}" for number in range(MOST_COMPARED + 1))])
def test_too_few_or_too_many_runs_are_a_sentence_above_the_list(page: RunsPage, asked: str) -> None:
    with pytest.raises(ConfigError, match="2 to 8"):
        run_compare.asked_for(asked)
    news = page.open(event(query_params={"compare": asked}))
    assert "cannot be compared" in news["banner"] and "No runs yet" in news["run_list"]


def test_a_run_that_is_not_there_is_a_sentence(page: RunsPage) -> None:
    news = page.open(event(query_params={"compare": "a,b"}))
    assert "no run a" in news["banner"]
