"""The Playground's handlers over a service that answers from memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from core.config import STARTER
from core.errors import AdapterError, ConfigError, NotFound, RunError
from core.generate.requests import TokenProbability
from jobs.service import Adapter, Checkpoint, Delta, Pane, Waiting
from tests.ui.stand_in import adapter
from tests.ui.test_train_page import Names
from ui.pages.playground_desk import Talk
from ui.pages.playground_panes import PaneDesk
from ui.pages.playground_talk import ALTERNATIVES, TalkDesk

MODEL = adapter(id="m1", name="captain-full", method="full", path=Path("/home/runs/r9/adapter"), rank=0, targets=())
CLASSIFIER = adapter(id="c1", name="moods", task="classification")
CAPTAIN, JSON = adapter(id="a1"), adapter(id="j1", name="to-json")
ON_MODEL = adapter(id="a2", name="on top", base_model=str(MODEL.path))
STEP = Checkpoint(run_id="r1", run_name="going", base_model="starter", step=140, is_going_on=True)
SETTINGS = (5, 0.7, 0.9, 40, 1.1, 3, "Be brief")


class Checkpoints:
    def all(self) -> tuple[Checkpoint, ...]:
        return (STEP,)

    def open(self, run_id: str, step: int) -> Checkpoint:
        if (run_id, step) != ("r1", 140):
            raise NotFound("There is no such checkpoint any more")
        return replace(STEP, path=Path("/opened/step"), fingerprint="feedbeef")


class Results:
    """A service that knows these results, what it was asked to chat with, and how it answers."""

    def __init__(self) -> None:
        self.chats: list[tuple[list[Pane], Any]] = []
        self.checkpoints = Checkpoints()
        self.failure: Exception | None = None

    def adapters(self) -> tuple[Adapter, ...]:
        return (CAPTAIN, JSON, CLASSIFIER, ON_MODEL)

    def trained_models(self) -> tuple[Adapter, ...]:
        return (MODEL, adapter(id="m2", method="full", task="classification", path=Path("/x")))

    def adapter(self, adapter_id: str) -> Adapter:
        for one in (*self.adapters(), *self.trained_models()):
            if one.id == adapter_id:
                return one
        raise NotFound(f"There is no adapter {adapter_id}")

    def chat(self, asked: list[Pane], base_model: Any) -> Iterator[Any]:
        self.chats.append((asked, base_model))
        return self._answers(asked)

    def _answers(self, asked: list[Pane]) -> Iterator[Any]:
        yield Waiting(phase="loading")
        if self.failure is not None:
            raise self.failure
        for index, pane in enumerate(asked):
            known = (TokenProbability(text="x", probability=0.5),) if pane.alternatives is not None else ()
            text = f"answer {len(self.chats)}"
            yield Delta(pane=index, text=text, tokens=1, seconds=0.1, done=True, probabilities=known)


class Slots(Names):
    slots = tuple(f"slot-{index}" for index in range(6))


@pytest.fixture
def service() -> Results:
    return Results()


@pytest.fixture
def desk(service: Results) -> PaneDesk:
    return PaneDesk(service, Slots())  # type: ignore[arg-type]


@pytest.fixture
def talks(service: Results) -> TalkDesk:
    return TalkDesk(service, Slots())  # type: ignore[arg-type]


def visit(desk: PaneDesk, **query: str) -> dict[Any, Any]:
    return desk.open(SimpleNamespace(query_params=query))  # type: ignore[arg-type]


def add(desk: PaneDesk, *chosen: Any) -> dict[Any, Any]:
    """What the page shows in the end."""
    return list(desk.add(*chosen))[-1]


def event(**values: Any) -> Any:
    return SimpleNamespace(**values)


def refs(talk: Talk) -> list[Any]:
    return [pane.adapter for pane in talk.panes]


# -- which panes -----------------------------------------------------------------------------------------------------


def test_an_address_opens_with_its_panes_and_is_kept(desk: PaneDesk) -> None:
    news = visit(desk, adapters="a1,r1:140@0.5,a1@0.5~j1@-1")
    checkpoint = str(Path("/opened/step"))
    assert refs(news["talk"]) == [None, "a1", ((checkpoint, 0.5),), (("a1", 0.5), ("j1", -1.0))]
    assert "?adapters=a1,r1:140@0.5,a1@0.5~j1@-1" in news["address"] and news["hint"] == ""
    assert "going · step 140" in news["slot-2"]["value"] and "#feedbeef" in news["slot-2"]["value"]
    assert not news["slot-4"]["visible"]
    assert refs(visit(desk, panes="a1,base")["talk"]) == ["a1", None]


@pytest.mark.parametrize(
    ("query", "left", "words"),
    [
        ({"adapters": "a1,c1"}, [None, "a1"], "moods is a classifier"),
        ({"adapters": "nobody,a1"}, [None, "a1"], "There is no adapter nobody"),
        ({"adapters": "r1:7"}, [None], "no such checkpoint"),
        ({"adapters": "r1:seven"}, [None], "no checkpoint r1:seven"),
        ({"adapters": "m1"}, [None], "a whole model"),
        ({"adapters": "a1,a2"}, [None, "a1"], "different base models"),
        ({"panes": "nobody"}, [None], "There is no adapter nobody"),
        ({"adapters": "a1,a1,a1,a1,a1,a1"}, [None, "a1", "a1", "a1", "a1", "a1"], "6 panes at most"),
    ],
)
def test_what_an_address_asks_for_in_vain_is_said_and_the_rest_is_shown(
    desk: PaneDesk, query: dict[str, str], left: list[Any], words: str
) -> None:
    news = visit(desk, **query)
    assert refs(news["talk"]) == left and words in news["hint"]


def test_the_row_offers_what_talks_and_checkpoints_of_going_runs(desk: PaneDesk) -> None:
    assert [value for _, value in desk.choose_kind("adapter")["one"]["choices"]] == ["a1", "j1", "a2"]
    assert desk.choose_kind("checkpoint")["one"]["choices"] == [("going · step 140 · still training", "r1:140")]
    assert len(desk.choose_kind("blend")["several"]["choices"]) == 4
    assert not desk.choose_kind("base")["one"]["visible"]


def test_panes_of_every_kind_are_added_and_taken_away(desk: PaneDesk) -> None:
    talk = visit(desk)["talk"]
    add(desk, "adapter", "a1", [], 0.5, talk)
    add(desk, "checkpoint", "r1:140", [], 1.0, talk)
    add(desk, "blend", None, ["a1", "j1"], 1.0, talk)
    add(desk, "base", None, [], 1.0, talk)
    checkpoint = str(Path("/opened/step"))
    assert refs(talk) == [None, (("a1", 0.5),), checkpoint, (("a1", 0.5), ("j1", 0.5)), None]
    news = desk.remove(talk, event(pane=str(talk.panes[0].number)))
    assert refs(talk)[0] == (("a1", 0.5),) and "?panes=a1@0.5,r1:140" in news["address"]
    desk.set_strength(talk, event(pane=str(talk.panes[2].number), part="1", value="-1"))
    assert refs(talk)[2] == (("a1", 0.5), ("j1", -1.0))


@pytest.mark.parametrize(
    ("kind", "one", "several", "words"),
    [
        ("adapter", None, [], "no adapter chosen"),
        ("checkpoint", None, [], "no checkpoint chosen"),
        ("blend", None, ["a1"], "two adapters at least"),
        ("adapter", "c1", [], "classifier"),
        ("blend", None, ["a1", "a2"], "different base models"),
    ],
)
def test_a_pane_that_cannot_be_is_refused_and_nothing_changes(
    desk: PaneDesk, kind: str, one: str | None, several: list[str], words: str
) -> None:
    talk = visit(desk, adapters="a1")["talk"]
    with pytest.raises((ConfigError, AdapterError), match=words):
        add(desk, kind, one, several, 1.0, talk)
    assert refs(talk) == [None, "a1"]


def test_a_checkpoint_is_waited_for_and_the_page_can_be_used_when_it_cannot_be_opened(desk: PaneDesk) -> None:
    talk, seen = visit(desk)["talk"], []
    with pytest.raises(NotFound):
        for news in desk.add("checkpoint", "r1:7", [], 1.0, talk):
            seen.append(news)
    assert "Opening the checkpoint" in seen[0]["hint"] and not seen[0]["add"]["interactive"]
    assert seen[1]["hint"] == "" and seen[1]["add"]["interactive"] and refs(talk) == [None]


def test_there_are_six_panes_at_most_and_one_at_least(desk: PaneDesk) -> None:
    talk = visit(desk)["talk"]
    with pytest.raises(ConfigError, match="last pane"):
        desk.remove(talk, event(pane=str(talk.panes[0].number)))
    for _ in range(5):
        add(desk, "adapter", "a1", [], 1.0, talk)
    with pytest.raises(ConfigError, match="6 panes already"):
        add(desk, "base", None, [], 1.0, talk)
    assert len({pane.number for pane in talk.panes}) == 6


def test_nothing_changes_while_answers_come(desk: PaneDesk, talks: TalkDesk) -> None:
    talk = visit(desk, adapters="a1")["talk"]
    for news in talks.send("hi", talk, *SETTINGS):
        if "slot-0" in news and talk.is_busy:
            with pytest.raises(ConfigError, match="being written"):
                add(desk, "base", None, [], 1.0, talk)
            with pytest.raises(ConfigError, match="being written"):
                list(talks.send("again", talk, *SETTINGS))
            break


# -- what is said ----------------------------------------------------------------------------------------------------


def ask(talks: TalkDesk, talk: Talk, question: str) -> list[dict[Any, Any]]:
    return list(talks.send(question, talk, *SETTINGS))


def spoken(talk: Talk, pane: int = 0) -> list[str]:
    number = talk.panes[pane].number
    return [turn.replies[number].text for turn in talk.conversation.path()]


def test_every_pane_is_asked_with_the_settings_and_its_own_conversation(
    desk: PaneDesk, talks: TalkDesk, service: Results
) -> None:
    talk = visit(desk, adapters="a1@0.5")["talk"]
    ask(talks, talk, "hi")
    add(desk, "adapter", "j1", [], 1.0, talk)
    ask(talks, talk, "and then?")
    asked, base = service.chats[-1]
    assert base is None and [pane.adapter for pane in asked] == [None, (("a1", 0.5),), "j1"]
    sampling = asked[0].sampling
    assert sampling is not None and (sampling.max_new_tokens, sampling.temperature, sampling.top_p) == (5, 0.7, 0.9)
    assert (sampling.top_k, sampling.repetition_penalty, sampling.seed) == (40, 1.1, 3)
    lines = [[message.content for message in pane.messages] for pane in asked]
    assert lines == [["Be brief", "hi", "answer 1", "and then?"]] * 2 + [["Be brief", "and then?"]]
    assert talk.conversation.path()[-1].replies[talk.panes[1].number].made_with == "strength 0.5"


def test_a_retry_has_the_next_seed_and_the_first_answer_stays(
    desk: PaneDesk, talks: TalkDesk, service: Results
) -> None:
    talk = visit(desk)["talk"]
    ask(talks, talk, "hi")
    first = talk.conversation.path()[0]
    list(talks.retry(talk, event(turn=str(first.number)), *SETTINGS))
    assert service.chats[-1][0][0].sampling.seed == 4 and spoken(talk) == ["answer 2"]  # type: ignore[union-attr]
    talks.follow(talk, event(turn=str(first.number)))
    assert spoken(talk) == ["answer 1"]
    greedy = list(talks.retry(talk, event(turn=str(first.number)), 5, 0.0, *SETTINGS[2:]))
    assert "same answer" in greedy[0]["hint"]


def test_a_changed_message_makes_a_branch(desk: PaneDesk, talks: TalkDesk, service: Results) -> None:
    talk = visit(desk)["talk"]
    ask(talks, talk, "one")
    ask(talks, talk, "two")
    first, second = talk.conversation.path()
    news = talks.edit(talk, event(turn=str(second.number)))
    assert news["prompt"] == "two" and "changing message 2" in news["editing"]
    ask(talks, talk, "another")
    assert [message.content for message in service.chats[-1][0][0].messages] == [
        "Be brief",
        "one",
        "answer 1",
        "another",
    ]
    assert talk.conversation.ways(first.number)[0] is second and talk.editing is None
    talks.edit(talk, event(turn=str(first.number)))
    assert talks.cancel_edit(talk)["editing"] == "" and talk.editing is None


def test_going_back_goes_on_from_there(desk: PaneDesk, talks: TalkDesk, service: Results) -> None:
    talk = visit(desk)["talk"]
    for word in ("one", "two", "three"):
        ask(talks, talk, word)
    first = talk.conversation.path()[0]
    news = talks.back(talk, event(turn=str(first.number)))
    assert "1 way leads on from here" in news["turns"]
    ask(talks, talk, "elsewhere")
    said = [message.content for message in service.chats[-1][0][0].messages]
    assert said == ["Be brief", "one", "answer 1", "elsewhere"]
    with pytest.raises(NotFound):
        talks.back(talk, event(turn="99"))


def test_what_goes_wrong_leaves_the_conversation_and_the_message(
    desk: PaneDesk, talks: TalkDesk, service: Results
) -> None:
    talk = visit(desk)["talk"]
    ask(talks, talk, "one")
    service.failure = RunError("The chat process died")
    seen = []
    with pytest.raises(RunError, match="died"):
        for news in talks.send("two", talk, *SETTINGS):
            seen.append(news)
    assert seen[-1]["prompt"] == "two" and seen[-1]["send"]["visible"]
    assert [turn.question for turn in talk.conversation.path()] == ["one"] and not talk.is_busy


def test_stopping_keeps_what_came(desk: PaneDesk, talks: TalkDesk) -> None:
    talk = visit(desk, adapters="a1")["talk"]
    for news in talks.send("hi", talk, *SETTINGS):
        reply = talk.conversation.path()[-1].replies.get(talk.panes[0].number) if talk.conversation.turns else None
        if "slot-0" in news and reply is not None and reply.text:
            talks.stop(talk)
    assert spoken(talk) == ["answer 1"] and not talk.is_busy
    assert talk.conversation.path()[-1].replies[talk.panes[0].number].is_over


def test_a_visitor_who_leaves_in_the_middle_finds_the_page_at_rest(desk: PaneDesk, talks: TalkDesk) -> None:
    talk = visit(desk)["talk"]
    stream = talks.send("hi", talk, *SETTINGS)
    while not talk.is_busy:
        next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert not talk.is_busy and talk.conversation.turns == {}


def test_probabilities_are_asked_for_only_when_they_are_shown(
    desk: PaneDesk, talks: TalkDesk, service: Results
) -> None:
    talk = visit(desk, adapters="a1")["talk"]
    ask(talks, talk, "hi")
    assert service.chats[-1][0][0].alternatives is None
    assert "Retry" in talks.show_probabilities(True, talk)["hint"]
    ask(talks, talk, "and now?")
    assert [pane.alternatives for pane in service.chats[-1][0]] == [ALTERNATIVES] * 2
    assert 'class="token"' in talks.show_probabilities(True, talk)["slot-0"]["value"]
    assert 'class="token"' not in talks.show_probabilities(False, talk)["slot-0"]["value"]


def test_clearing_forgets_what_was_said_and_keeps_the_panes(desk: PaneDesk, talks: TalkDesk) -> None:
    talk = visit(desk, adapters="a1")["talk"]
    ask(talks, talk, "hi")
    news = talks.clear(talk)
    assert news["turns"] == "" and refs(talk) == [None, "a1"] and talk.conversation.path() == []


@pytest.mark.parametrize("at", range(6))
def test_a_setting_that_is_empty_is_named(desk: PaneDesk, talks: TalkDesk, at: int) -> None:
    settings = [*SETTINGS]
    settings[at] = None  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match="is empty"):
        list(talks.send("hi", visit(desk)["talk"], *settings))


# -- base models -----------------------------------------------------------------------------------------------------


def test_a_whole_model_answers_as_the_base(desk: PaneDesk, talks: TalkDesk, service: Results) -> None:
    news = visit(desk, base="m1")
    assert news["base"]["value"] == str(MODEL.path) and "captain-full" in news["slot-0"]["value"]
    assert [value for _, value in news["base"]["choices"]] == [STARTER, str(MODEL.path)]
    ask(talks, news["talk"], "hi")
    assert service.chats[-1][1] == str(MODEL.path)


def test_a_trained_base_stays_in_the_address_while_it_answers_alone(desk: PaneDesk) -> None:
    talk = visit(desk, base="m1")["talk"]
    assert talk.query == "?base=m1"
    add(desk, "base", None, [], 1.0, talk)
    assert talk.query == "?base=m1&panes=base,base"
    assert refs(visit(desk, base="m1", panes="base,base")["talk"]) == [None, None]
    add(desk, "adapter", "a2", [], 1.0, talk)
    assert talk.query == "?panes=base,base,a2"
    assert desk.choose_base(str(MODEL.path), talk)["talk"].query == "?base=m1"
    assert desk.choose_base(STARTER, talk)["talk"].query == ""


def test_an_adapter_brings_its_own_base(desk: PaneDesk, talks: TalkDesk, service: Results) -> None:
    talk = visit(desk, base="m1")["talk"]
    news = add(desk, "adapter", "a1", [], 1.0, talk)
    assert news["base"]["value"] == STARTER
    ask(talks, talk, "hi")
    assert service.chats[-1][1] is None
    assert "captain-full" in add(desk, "adapter", "a2", [], 1.0, visit(desk)["talk"])["slot-0"]["value"]


def test_choosing_a_base_leaves_adapters_of_others_behind(desk: PaneDesk) -> None:
    talk = visit(desk, adapters="a1")["talk"]
    news = desk.choose_base(str(MODEL.path), talk)
    assert refs(news["talk"]) == [None] and news["base"]["value"] == str(MODEL.path)
    assert desk.choose_base("/etc", talk)["base"]["value"] == STARTER


@pytest.mark.parametrize("unknown", ["", "nobody", "a1", "m2"])
def test_an_unknown_base_in_the_address_is_the_starter(desk: PaneDesk, unknown: str) -> None:
    assert visit(desk, base=unknown)["base"]["value"] == STARTER
