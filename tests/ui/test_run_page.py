"""One run's page over a real service: what is sent, how often, and what samples, notes and checkpoints look like."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.instruments.past_runs import add_past_runs
from core.errors import ConfigError
from core.events import Note, Sample
from core.train.manifest import write_manifest
from jobs.home import Home
from jobs.journal import EventWriter
from jobs.service import Service
from tests.ui.stand_in import XSS
from tests.ui.test_train_page import Names
from ui.pages import run_samples
from ui.pages.runs import RunsPage, Seen
from ui.story import Stories

CHARTS = ("loss", "perplexity", "accuracy", "rate", "norm", "memory", "speed")


@pytest.fixture
def page(tmp_path: Path) -> Iterator[RunsPage]:
    service = Service(tmp_path / "home", tmp_path / "models")
    yield RunsPage(service, Stories(service), Names())  # type: ignore[arg-type]
    service.close()


def opened(page: RunsPage, run_id: str) -> dict[str, Any]:
    return page.open(SimpleNamespace(query_params={"run": run_id}))  # type: ignore[arg-type]


def test_a_run_of_a_hundred_thousand_steps_is_sent_as_a_few_thousand_points(page: RunsPage) -> None:
    (run_id,) = add_past_runs(page.service.home, 1, steps=100_000)
    news = opened(page, run_id)
    for name in CHARTS:
        figure = json.loads(news[name])
        assert figure["data"] and all(len(series["x"]) <= 1001 for series in figure["data"]), name
        assert len(news[name]) < 60_000, name
    spread = json.loads(news["loss"])["data"][0]["x"]
    assert spread[0] == 1 and spread[-1] == 100_000 and len(spread) > 500
    assert "100,000 of 100,000" in news["progress"]


def test_what_has_not_changed_is_not_sent_again(page: RunsPage) -> None:
    (run_id,) = add_past_runs(page.service.home, 1, steps=50)
    news = opened(page, run_id)
    assert {*CHARTS, "samples", "settings", "timeline", "tiles", "log", "checkpoints", "tools"} <= news.keys()
    seen = news["seen"]
    assert set(page.look(seen)) == {"progress"}
    with EventWriter(Home(page.service.home).run(run_id).events) as writer:
        writer.write(Note(text="one more thing"))
    again = page.look(seen)
    assert "one more thing" in again["timeline"] and not {"samples", "settings", "log", "tiles"} & again.keys()


def test_tags_and_a_note_are_typed_on_the_runs_page(page: RunsPage) -> None:
    (run_id,) = add_past_runs(page.service.home, 1, steps=2)
    news = opened(page, run_id)
    assert news["own_tags"]["value"] == "style" and news["own_note"]["value"] == "try number 0"
    saved = page.put_notes(news["seen"], "Best, ,style", "keep this one")
    assert saved["own_tags"]["value"] == "best, style" and "Saved" in saved["notes_saved"]
    assert "keep this one" in saved["head"] and ">best<" in saved["head"]
    assert page.service.run(run_id).tags == ("best", "style")
    with pytest.raises(ConfigError):
        page.put_notes(news["seen"], "x" * 31, "")


def test_samples_stand_step_by_step_the_newest_first_and_shown() -> None:
    answers = [Sample(step=step, number=number, prompt=f"ask {number}", text=f"{step}/{number}")
               for step in (0, 10, 20) for number in (1, 0)]  # fmt: skip
    html = run_samples.samples([*answers, Sample(step=20, number=0, prompt="ask 0", text="again")])
    assert re.findall(r'data-step="(\d+)" data-words="([^"]+)"( hidden)?', html) == [
        ("20", "step 20", ""), ("10", "step 10", " hidden"), ("0", "no step: the base model", " hidden")
    ]  # fmt: skip
    newest = html.partition('data-step="20"')[2].partition('data-step="10"')[0]
    assert newest.index("ask 0") < newest.index("ask 1") and ">again<" in newest and "20/0" not in newest
    assert run_samples.samples([]) == ""


def test_what_a_model_says_is_text_and_silence_is_told() -> None:
    html = run_samples.samples([Sample(step=0, number=0, prompt=XSS, text=XSS)])
    assert "<img" not in html and html.count("&lt;img") == 2
    assert "without a word" in run_samples.samples([Sample(step=0, number=0, prompt="?", text="")])


def test_checkpoints_are_listed_and_verified_by_a_click(page: RunsPage) -> None:
    (run_id,) = add_past_runs(page.service.home, 1, steps=2)
    checkpoint = Home(page.service.home).run(run_id).path / "checkpoints" / "step-00000002"
    checkpoint.mkdir(parents=True)
    (checkpoint / "tensors.safetensors").write_bytes(bytes(2_000_000))
    write_manifest(checkpoint)
    news = opened(page, run_id)
    assert (
        "After step 2" in news["checkpoints"]
        and "2.0 MB" in news["checkpoints"]
        and "data-verify" in news["checkpoints"]
    )
    verified = page.one.verify(news["seen"])["checkpoints"]
    assert "every byte is as it was written" in verified and "data-verify" not in verified


def test_all_figures_can_be_downloaded(page: RunsPage) -> None:
    (run_id,) = add_past_runs(page.service.home, 1, steps=2)
    tools = opened(page, run_id)["tools"]
    assert re.findall(r'href="/workbench/runs/(\w+)\.(\w+)" download', tools) == [(run_id, "csv"), (run_id, "json")]


def test_a_run_that_never_began_has_charts_that_wait(page: RunsPage) -> None:
    (run_id,) = add_past_runs(page.service.home, 1, steps=2)
    Home(page.service.home).run(run_id).events.unlink()
    news = page.look(Seen(run_id=run_id))
    assert not set(CHARTS) & {name for name, value in news.items() if isinstance(value, str)}
