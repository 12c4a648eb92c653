"""The queue on the page, and what is offered where a run rests: over a real service, of which nothing is started."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from core.config import parse
from core.errors import NotFound, RunError
from jobs.launchers.local import Worker
from jobs.service import Run, RunProblem, Service, Summary
from tests.jobs.tiny_model import write_tiny_model
from tests.ui.stand_in import NOW, run, run_config
from tests.ui.test_story import started, step, told
from tests.ui.test_train_page import Names
from ui import answers, text
from ui.pages import queue, run_view
from ui.pages.runs import RunsPage, Seen
from ui.story import Stories


@pytest.fixture
def page(tmp_path: Path) -> Iterator[RunsPage]:
    service = Service(tmp_path / "home", tmp_path / "models")
    yield RunsPage(service, Stories(service), Names())  # type: ignore[arg-type]
    service.close()


@pytest.fixture
def waiting(page: RunsPage, tmp_path: Path) -> list[Run]:
    """Three runs, called 1, 2 and 3, that nobody starts."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": str(i), "completion": "Aye"}) + "\n" for i in range(9)))
    data = {"dataset_id": page.service.data.add(rows).id}
    model = str(write_tiny_model(tmp_path / "tiny"))
    return [page.service.submit(parse({"name": name, "base_model": model, "data": data})) for name in "123"]


def event(**values: Any) -> Any:
    return SimpleNamespace(**values)


def order(html: str) -> list[str]:
    """The names of the runs in the queue, as the page shows them."""
    return re.findall(r"<strong>(\w+)</strong>", html)


def begin(page: RunsPage) -> Run:
    """The next run, begun as the scheduler would."""
    attempt = page.service._store.claim(lambda *_: Worker(1, "gone"))
    assert attempt is not None
    return page.service.run(attempt.run_id)


def test_places_are_words() -> None:
    assert [queue.place(at, 3) for at in range(3)] == [
        "Next in the queue",
        "2nd of 3 in the queue",
        "3rd of 3 in the queue",
    ]
    numbers = (1, 2, 3, 4, 11, 12, 13, 21, 22, 101, 111)
    assert [text.ordinal(number) for number in numbers] == (
        ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "22nd", "101st", "111th"]
    )


def test_where_there_is_no_order_to_speak_of_there_is_no_queue() -> None:
    assert queue.section([], 0) == "" and queue.section([run(state="queued")], 0) == ""
    assert "Next in the queue" in run_view.run_list([(run(state="queued"), Summary())], NOW)


def test_a_button_that_leads_nowhere_says_so() -> None:
    html = queue.section([run(id=name, name=name, state="queued") for name in "abc"], 0)
    stuck = re.findall(r'data-to="(\w+)" aria-label="Move (\w)[^"]*" title="[^"]*" aria-disabled="true"', html)
    assert stuck == [("front", "a"), ("up", "a"), ("down", "c")]


def test_priorities_are_words_and_others_numbers_the_nearest_of_them() -> None:
    runs = [run(id=str(priority), name="r", state="queued", priority=priority) for priority in (7, 1, 0, -1, -30)]
    chosen = re.findall(r'<option value="[^"]*" selected>(\w+)<', queue.section(runs, 0))
    assert chosen == ["High", "High", "Normal", "Low", "Low"]


@pytest.mark.parametrize(("gpus", "words"), [(0, "the CPU is free"), (1, "the GPU is free"), (2, "one of the 2 GPUs")])
def test_it_is_said_which_device_they_wait_for(gpus: int, words: str) -> None:
    runs = [run(id=name, state="queued") for name in "ab"]
    assert words in queue.section(runs, gpus) and words in queue.waits("a", runs, gpus)
    assert queue.waits("b", runs, gpus) == "2nd of 2 in the queue"


def test_a_running_run_names_its_device_where_there_are_several() -> None:
    going = run(device="cuda:1")
    for shows, html in ((True, run_view.head(going, True)), (False, run_view.head(going))):
        assert ("on GPU 1" in html) == shows
    assert "on GPU 1" in run_view.run_list([(going, Summary())], NOW, True)
    assert "on GPU" not in run_view.run_list([(run(state="finished"), Summary())], NOW, True)


def test_the_list_shows_waiting_runs_in_their_order_and_no_run_twice(page: RunsPage, waiting: list[Run]) -> None:
    begin(page)
    news = page.look(Seen())
    assert order(news["run_queue"]) == ["2", "3"] and order(news["run_list"]) == ["1"]


def test_what_has_not_changed_is_not_sent_again(page: RunsPage, waiting: list[Run]) -> None:
    seen = Seen()
    assert set(page.look(seen)) == {"run_queue", "run_list"} and page.look(seen) == {}
    page.service.set_priority(waiting[2].id, 1)
    assert set(page.look(seen)) == {"run_queue"}


@pytest.mark.parametrize(("to", "expected"), [("up", "132"), ("down", "123"), ("front", "312")])
def test_a_run_is_moved(page: RunsPage, waiting: list[Run], to: str, expected: str) -> None:
    seen = Seen()
    page.look(seen)
    news = page.move(seen, event(id=waiting[2].id, to=to))
    assert order(news.get("run_queue", seen.queue)) == list(expected)
    assert "".join(run.name for run in page.service.queue()) == expected


def test_a_priority_is_chosen_and_the_order_follows(page: RunsPage, waiting: list[Run]) -> None:
    news = page.prioritize(Seen(), event(id=waiting[2].id, priority="1"))
    assert order(news["run_queue"]) == ["3", "1", "2"]
    news = page.prioritize(Seen(), event(id=waiting[0].id, priority="-1"))
    assert order(news["run_queue"]) == ["3", "2", "1"]


@pytest.mark.parametrize("click", [{"to": "down"}, {"priority": "1"}])
def test_a_click_on_a_run_that_has_begun_meanwhile_is_answered_in_a_sentence(
    page: RunsPage, waiting: list[Run], click: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    begun = begin(page)
    handler = page.move if "to" in click else page.prioritize
    news = answers.tells("banner")(handler)(Seen(), event(id=begun.id, **click))  # type: ignore[arg-type]
    assert "The run 1 is not in the queue: it is preparing" in news["banner"]
    assert page.service.run(begun.id).priority == 0 and caplog.records == []
    with pytest.raises(NotFound):
        handler(Seen(), event(id="nobody", **click))


def test_a_waiting_runs_page_tells_its_place_as_it_changes(page: RunsPage, waiting: list[Run]) -> None:
    seen = Seen(run_id=waiting[2].id)
    assert "3rd of 3 in the queue" in page.look(seen)["progress"]
    page.service.reorder_run(waiting[2].id, -2)
    assert "Next in the queue; starts as soon as the CPU is free" in page.look(seen)["progress"]


@pytest.mark.parametrize(
    ("state", "step", "words", "keep"),
    [
        ("paused", 40, ("Resume goes on after step 40", "Keep makes the adapter", "Cancel"), "Keep the adapter"),
        ("paused", None, ("Resume begins with the first step", "Cancel"), None),
        ("failed", 40, ("learned by step 40 is saved",), "Keep the adapter of the last checkpoint"),
        ("interrupted", 40, ("Resume goes on from there",), "Keep the adapter of the last checkpoint"),
        ("cancelled", 40, ("learned by step 40 is saved",), "Keep the adapter of the last checkpoint"),
        ("failed", None, ("no checkpoint: Resume begins with the first step",), None),
    ],
)
def test_a_run_that_rests_says_what_can_be_done_with_it(
    page: RunsPage, state: str, step: int | None, words: tuple[str, ...], keep: str | None
) -> None:
    resting = run(state=state, ended_at=NOW, checkpoint_step=step, error=RunProblem(title="The disk is full"))
    html = run_view.progress(resting, told(started()), NOW)
    assert all(word in html for word in words) and "The disk is full" in html
    news = page.one.state_news(resting)
    assert news["resume"]["visible"] and news["cancel"]["visible"] == (state == "paused")
    assert news["keep"]["visible"] == (keep is not None) and (keep is None or news["keep"]["value"] == keep)


def test_what_goes_on_or_is_done_has_nothing_to_choose(page: RunsPage) -> None:
    for state in ("queued", "running", "stopping", "finished"):
        assert "what-now" not in run_view.progress(run(state=state), told(started(), step(1)), NOW)
        assert not page.one.state_news(run(state=state))["keep"]["visible"]


def test_of_a_whole_model_the_model_is_kept(page: RunsPage) -> None:
    news = page.one.state_news(run(state="paused", checkpoint_step=3, config=run_config(method="full")))
    assert news["keep"]["value"] == "Keep the model"


def test_a_paused_run_is_kept_by_a_click_and_can_still_be_given_up(page: RunsPage, waiting: list[Run]) -> None:
    run_id = waiting[1].id
    page.service.pause_run(run_id)
    seen = Seen(run_id=run_id)
    assert not page.look(seen)["keep"]["visible"]
    with pytest.raises(RunError, match="no checkpoint"):
        page.keep(seen)
    (page.service.home / "runs" / run_id / "checkpoints" / "step-00000007").mkdir(parents=True)
    assert page.look(Seen(run_id=run_id))["keep"]["visible"]
    news = page.keep(Seen(run_id=run_id))
    assert "only to keep what it learned" in news["head"] and "in the queue" in news["progress"]
    assert news["cancel"]["visible"] and not any(news[name]["visible"] for name in ("pause", "stop", "keep"))
    assert "only to keep what it learned" in page.look(Seen())["run_queue"]
