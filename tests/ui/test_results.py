"""Results that are no adapter for chat: a whole model becomes a base, a classifier is not asked to talk."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from core.config import STARTER
from core.errors import NotFound
from jobs.service import Adapter
from tests.ui.stand_in import NOW, adapter, run, run_config
from tests.ui.test_train_page import Names
from ui.pages.playground import PlaygroundPage, Talk
from ui.pages.runs import RunsPage

MODEL = adapter(id="m1", name="captain-full", method="full", path=Path("/home/runs/r9/adapter"), rank=0, targets=())
CLASSIFIER = adapter(id="c1", name="moods", task="classification")
PIRATE = adapter(id="a1")
ON_MODEL = adapter(id="a2", name="on top", base_model=str(MODEL.path))


class Results:
    """A service that knows these results, and what it was asked to chat with."""

    def __init__(self) -> None:
        self.chats: list[tuple[list[Any], Any]] = []

    def adapters(self) -> tuple[Adapter, ...]:
        return (PIRATE, CLASSIFIER, ON_MODEL)

    def trained_models(self) -> tuple[Adapter, ...]:
        return (MODEL, adapter(id="m2", method="full", task="classification", path=Path("/x")))

    def adapter(self, adapter_id: str) -> Adapter:
        return next(one for one in (*self.adapters(), *self.trained_models()) if one.id == adapter_id)

    def chat(self, asked: list[Any], base_model: Any, **_: Any) -> Any:
        self.chats.append((asked, base_model))
        return (each for each in ())


class Slots(Names):
    slots = tuple(f"slot-{index}" for index in range(6))


@pytest.fixture
def playground() -> PlaygroundPage:
    return PlaygroundPage(Results(), Slots())  # type: ignore[arg-type]


def visit(**query: str) -> Any:
    return SimpleNamespace(query_params=query)


def send(page: PlaygroundPage, talk: Talk) -> Any:
    list(page.send("hi", talk, 5, 0.0, 1.0, 0, ""))
    return page.service.chats[-1]  # type: ignore[attr-defined]


def test_the_playground_offers_no_classifier_and_says_why(playground: PlaygroundPage) -> None:
    news = playground.open(visit(adapters="a1,c1"))
    assert [value for _, value in news["choice"]["choices"]] == ["a1", "a2"]
    assert news["choice"]["value"] == ["a1"]
    assert "moods is a classifier" in news["hint"]
    assert [value for _, value in news["base"]["choices"]] == [STARTER, str(MODEL.path)]


def test_a_whole_model_answers_as_the_base(playground: PlaygroundPage) -> None:
    news = playground.open(visit(base="m1"))
    assert news["base"]["value"] == str(MODEL.path) and "captain-full" in news["slot-0"]["value"]
    assert send(playground, news["talk"])[1] == str(MODEL.path)


def test_an_adapter_brings_its_own_base(playground: PlaygroundPage) -> None:
    talk = playground.open(visit(base="m1"))["talk"]
    news = playground.choose(["a1"], talk)
    assert news["base"]["value"] == STARTER
    assert send(playground, news["talk"])[1] is None
    assert "captain-full" in playground.choose(["a2"], Talk())["slot-0"]["value"]


def test_choosing_a_base_leaves_adapters_of_others_behind(playground: PlaygroundPage) -> None:
    talk = playground.choose(["a1"], Talk())["talk"]
    news = playground.choose_base(str(MODEL.path), talk)
    assert news["choice"]["value"] == [] and len(news["talk"].panes) == 1
    assert playground.choose_base("/etc", talk)["base"]["value"] == STARTER


@pytest.mark.parametrize("unknown", ["", "nobody", "a1", "m2"])
def test_an_unknown_base_in_the_address_is_the_starter(playground: PlaygroundPage, unknown: str) -> None:
    assert playground.open(visit(base=unknown))["base"]["value"] == STARTER


@pytest.mark.parametrize(
    ("values", "compare", "as_base", "word"),
    [
        ({}, "/playground?adapters=a1", False, "adapter"),
        ({"method": "full"}, "/playground?base=a1", True, "model"),
        ({"task": "classification"}, None, False, "adapter"),
        ({"method": "full", "task": "classification"}, None, True, "model"),
    ],
)
def test_a_run_offers_what_its_result_can_do(
    values: dict[str, Any], compare: str | None, as_base: bool, word: str
) -> None:
    page = RunsPage(None, None, Names())  # type: ignore[arg-type]
    done = run(config=run_config(**values), state="finished", ended_at=NOW, adapter_id="a1")
    news = page.one.state_news(done)
    assert news["compare"]["visible"] == (compare is not None)
    assert compare is None or news["compare"]["link"] == compare
    assert news["as_base"]["visible"] == as_base and news["as_base"]["link"] == "/?base=a1"
    assert news["download"]["visible"] and news["download"]["value"] == f"Download {word}"
    going = page.one.state_news(run(config=run_config(**values)))
    assert not any(going[name]["visible"] for name in ("compare", "as_base", "download"))


def test_the_train_page_takes_a_whole_model_as_its_base_and_no_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    from ui.pages.train import TrainPage

    page = TrainPage(Results(), Names())  # type: ignore[arg-type]
    monkeypatch.setattr(page.model, "choose", lambda kind, ref, targets=(): {"model": (kind, ref)})
    news = page.model.trained_here(MODEL)
    assert news["model"] == ("folder", str(MODEL.path)) and news["kind"] == "folder"
    assert news["ref"]["value"] == str(MODEL.path)
    with pytest.raises(NotFound, match="no base model"):
        page.model.trained_here(PIRATE)
