"""Votes on the Playground: what a blind page holds, what can be voted, and what of it is kept."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from core.errors import ConfigError
from jobs.service import Delta, Service, votes
from tests.ui.stand_in import XSS
from tests.ui.test_playground import SETTINGS, Results, Slots, ask, event, visit
from ui import vote_bar
from ui.ballots import NOT_WHOLE, SAME_PANES, contestant_of, who_was_who
from ui.pages.playground_desk import Talk
from ui.pages.playground_panes import PaneDesk
from ui.pages.playground_talk import TalkDesk
from ui.pages.playground_votes import VoteDesk

SECRETS = (
    "captain",
    "0a1b",
    "a1",
    "to-json",
    "j1",
    "data-pane",
    "data-part",
    "base",
    "strength",
    "tokens/s",
    "differs",
)


class Voted(Results):
    """Answers that name nobody, and votes in a real home. `cut` ends an answer before it is whole."""

    def __init__(self, real: Service) -> None:
        super().__init__()
        self.votes, self.cut, self.is_equal = real.votes, False, False

    def _answers(self, asked: list[Any]) -> Iterator[Any]:
        for index, pane in enumerate(asked):
            who = "same" if self.is_equal else {None: "one", "a1": "two", "j1": "three"}.get(pane.adapter, "four")
            text = f"says {who} {len(self.chats)}"
            yield Delta(pane=index, text=text, tokens=3, seconds=0.1, done=not (self.cut and index), differs_at=2)


class Asked:
    """A visitor's desks over one service."""

    def __init__(self, service: Voted, seed: int = 0) -> None:
        slots: Any = Slots()
        self.service, stand_in = service, cast(Any, service)
        self.panes = PaneDesk(stand_in, slots)
        self.talks = TalkDesk(stand_in, slots, random.Random(seed))
        self.votes = VoteDesk(stand_in, slots)

    def visit(self, **query: str) -> Talk:
        talk = visit(self.panes, **query)["talk"]
        assert isinstance(talk, Talk)
        return talk

    def vote(self, talk: Talk, choice: str, place: object = "") -> dict[Any, Any]:
        return self.votes.vote(talk, event(choice=choice, place=str(place)))


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path / "home", tmp_path / "models")
    yield service
    service.close()


@pytest.fixture
def asked(real: Service) -> Asked:
    return Asked(Voted(real))


def html(news: dict[Any, Any]) -> str:
    """All that the page is given of panes and votes."""
    slots = [news[slot]["value"] for slot in Slots.slots if slot in news and news[slot].get("visible", True)]
    return "".join(slots) + str(news.get("votes", ""))


def test_a_blind_page_holds_nothing_that_tells_who_answers_before_the_vote(asked: Asked) -> None:
    talk = asked.visit(adapters="a1,j1@0.5", blind="1")
    talk.shows_probabilities = True
    for question in ("hi", "and now?"):
        for news in ask(asked.talks, talk, question):
            shown = html(news)
            assert not [word for word in SECRETS if word in shown], shown
    assert [f"<h2>{letter}</h2>" in html(news) for letter in "ABCD"] == [True, True, True, False]
    assert shown.count("hi</div>") == 0, "earlier answers, which were seen with names, would tell"
    revealed = html(asked.vote(talk, "win", 1))
    assert "captain" in revealed and "to-json" in revealed and "B was</span>" in revealed and "hi</div>" in revealed


def test_the_order_is_drawn_for_each_message_and_asked_for_in_that_order(asked: Asked) -> None:
    talk, orders = asked.visit(adapters="a1,j1", blind="1"), []
    for number in range(60):
        ask(asked.talks, talk, f"question {number}")
        orders.append(tuple(pane.adapter for pane in asked.service.chats[-1][0]))
        ballot = talk.conversation.ballot
        assert ballot is not None
        adapters = {pane.number: pane.adapter for pane in talk.panes}
        assert tuple(adapters[number] for number in ballot.order) == orders[-1]
    assert len(set(orders)) == 6


def test_a_vote_goes_to_who_stood_in_that_place_with_all_it_was_about(asked: Asked, real: Service) -> None:
    talk = asked.visit(adapters="a1", blind="1")
    ask(asked.talks, talk, "hi")
    said = [pane.adapter for pane in asked.service.chats[-1][0]]
    news = asked.vote(talk, "win", said.index("a1"))
    (vote,) = real.votes.all()
    assert vote.winner == said.index("a1") and vote.answers[vote.winner].contestant.adapter_id == "a1"
    assert vote.answers[vote.winner].text == "says two 1" and vote.seed == 3
    assert vote.settings["temperature"] == 0.7 and vote.settings["blind"] is True
    assert [message.content for message in vote.prompt] == ["Be brief", "hi"]
    assert "Voted: captain-r8" in news["votes"]
    assert real.votes.export("all").read_bytes().count(b"\n") == 1


def test_a_changed_vote_replaces_the_first_and_is_not_blind_any_more(asked: Asked, real: Service) -> None:
    talk = asked.visit(adapters="a1", blind="1")
    ask(asked.talks, talk, "hi")
    for choice, place in (("win", 0), ("win", 1), ("both bad", ""), ("tie", "")):
        asked.vote(talk, choice, place)
        assert len(real.votes.all()) == 1
    assert real.votes.all()[0].outcome == "tie" and real.votes.all()[0].settings["blind"] is False
    assert "Which answer" in asked.votes.take_back(talk)["votes"] and real.votes.all() == ()
    asked.votes.take_back(talk)


def test_answers_with_conversations_of_their_own_behind_them_are_no_pairs(asked: Asked, real: Service) -> None:
    talk = asked.visit(adapters="a1")
    ask(asked.talks, talk, "hi")
    ask(asked.talks, talk, "and then?")
    asked.vote(talk, "win", 1)
    (vote,) = real.votes.all()
    assert [message.content for message in vote.prompt] == ["Be brief", "hi", "says two 1", "and then?"]
    assert vote.settings[votes.OWN_CONVERSATIONS] is True and vote.settings["blind"] is False
    with pytest.raises(ConfigError, match="No vote prefers"):
        real.votes.export("all")


def test_what_cannot_be_voted_on_says_why_and_refuses(asked: Asked, real: Service) -> None:
    same = asked.visit(panes="a1,a1", blind="1")
    news = ask(asked.talks, same, "hi")[-1]
    assert SAME_PANES in news["votes"] and "data-best" not in html(news)
    assert "captain" in html(asked.votes.reveal(same))
    asked.service.cut = True
    cut = asked.visit(adapters="a1")
    assert NOT_WHOLE in ask(asked.talks, cut, "hi")[-1]["votes"]
    alone = asked.visit()
    assert ask(asked.talks, alone, "hi")[-1]["votes"] == ""
    for talk in (same, cut, alone, asked.visit(adapters="a1")):
        with pytest.raises(ConfigError):
            asked.vote(talk, "win", 0)
    assert real.votes.all() == ()


@pytest.mark.parametrize(("choice", "place"), [("win", 2), ("win", ""), ("win", "-1"), ("best", 0), ("", "")])
def test_what_no_button_says_is_no_vote(asked: Asked, real: Service, choice: str, place: object) -> None:
    talk = asked.visit(adapters="a1", blind="1")
    ask(asked.talks, talk, "hi")
    with pytest.raises(ConfigError):
        asked.vote(talk, choice, place)
    assert real.votes.all() == () and talk.conversation.ballot is not None and talk.conversation.ballot.is_hidden


def test_of_equal_answers_none_is_the_best_and_a_tie_counts(asked: Asked, real: Service) -> None:
    asked.service.is_equal = True
    talk = asked.visit(adapters="a1", blind="1")
    news = ask(asked.talks, talk, "hi")[-1]
    assert "answers are the same" in news["votes"] and "data-best" not in html(news)
    asked.vote(talk, "tie")
    assert [vote.outcome for vote in real.votes.all()] == ["tie"]


def test_turning_blind_off_shows_the_names_and_the_vote_is_not_blind(asked: Asked, real: Service) -> None:
    talk = asked.visit(adapters="a1", blind="1")
    ask(asked.talks, talk, "hi")
    news = asked.votes.set_blind(False, talk)
    assert "captain" in html(news) and "blind" not in news["address"]
    asked.vote(talk, "tie")
    assert real.votes.all()[0].settings["blind"] is False
    assert "blind=1" in asked.votes.set_blind(True, talk)["address"]


def test_another_base_stays_blind(asked: Asked) -> None:
    talk = asked.visit(adapters="a1", blind="1")
    assert asked.panes.choose_base("starter", talk)["talk"].is_blind


def test_nothing_is_voted_while_answers_come(asked: Asked) -> None:
    talk = asked.visit(adapters="a1")
    for _ in asked.talks.send("hi", talk, *SETTINGS):
        if talk.is_busy:
            assert vote_bar.bar(talk.conversation, talk.is_busy) == ""
            with pytest.raises(ConfigError, match="being written"):
                asked.vote(talk, "tie")


def test_contestants_are_told_apart_by_weights_strengths_and_base(asked: Asked) -> None:
    talk = asked.visit(adapters="a1,a1@0.5,r1:140,a1@0.5~j1@-1")
    found = [contestant_of(pane, talk.base) for pane in talk.panes]
    assert len({each.identity for each in found}) == 5
    assert [each.label for each in found[1:]] == [
        "captain-r8",
        "captain-r8",
        "going · step 140",
        "0.5 captain-r8 + −1 to-json",
    ]
    assert votes.is_base(found[0]) and not votes.is_base(found[1])
    assert contestant_of(talk.panes[0], "another").identity != found[0].identity
    assert who_was_who(found[1:3]) == "A was captain-r8 0a1b, B was captain-r8 at strength 0.5 0a1b"


def test_names_in_a_vote_are_text(asked: Asked) -> None:
    talk = asked.visit(adapters="a1", blind="1")
    for pane in talk.panes:
        pane.title, pane.parts = XSS, tuple(replace(part, name=XSS, fingerprint=XSS) for part in pane.parts)
    ask(asked.talks, talk, XSS)
    shown = html(asked.vote(talk, "win", 0))
    assert "<img" not in shown and "&lt;img" in shown
