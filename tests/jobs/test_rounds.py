"""Prompt sets asked in bulk: kept prompt by prompt, stopped, gone on with, and voted on."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from core.data.records import Message
from core.errors import ConfigError, NotFound, RunError
from core.generate.requests import Delta, Sampling
from jobs.ballot_box import Contestant
from jobs.rounds import BULK_ROWS, Entrant, Round, Rounds
from jobs.service import Service
from jobs.views import Pane, Waiting
from tests.jobs.waiting import wait_for

BASE = Entrant(contestant=Contestant(key="base", label="Base"), adapter=None)
ANN = Entrant(contestant=Contestant(key="adapter:a", label="Ann", adapter_id="a", fingerprint="0a1b"), adapter="a")
MIX = Entrant(contestant=Contestant(key="blend:a~b", label="Mix"), adapter=(("a", 0.5), ("b", -1.0)))


class Answers:
    """Answers `ADAPTER: PROMPT`. While the `gate` is shut, replies wait; prompts in `broken` raise."""

    def __init__(self) -> None:
        self.gate, self.counting = threading.Event(), threading.Lock()
        self.gate.set()
        self.broken: set[str] = set()
        self.asked: list[str] = []
        self.panes: list[Sequence[Pane]] = []
        self.at_once = self.most_at_once = 0

    def __call__(self, panes: Sequence[Pane], base_model: str | None) -> Iterator[Any]:
        asked = panes[0].messages[-1].content
        with self.counting:
            self.at_once += len(panes)
            self.most_at_once = max(self.at_once, self.most_at_once)
            self.asked.append(asked)
            self.panes.append(panes)
        try:
            while not self.gate.wait(0.01):
                yield Waiting(phase="reading")
            if asked in self.broken:
                raise RunError("The chat process died")
            for index, pane in enumerate(panes):
                yield Delta(pane=index, text=f"{pane.adapter}: ", tokens=1, seconds=0.1)
                yield Delta(pane=index, text=pane.messages[-1].content, tokens=2, seconds=0.1, done=True)
        finally:
            with self.counting:
                self.at_once -= len(panes)


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def rounds(service: Service, answers: Answers) -> Iterator[Rounds]:
    rounds = Rounds(service._store, service.votes, answers, random.Random(3))
    yield rounds
    answers.gate.set()
    rounds.close()


def prompts(service: Service, count: int = 12) -> str:
    return service.votes.add_prompt_set("Numbers", [f"What is {number}?" for number in range(count)]).id


def until_over(rounds: Rounds, found: Round) -> Round:
    return wait_for(lambda: now if not (now := rounds.look(found.id)).is_asking else None)


def test_every_prompt_is_asked_of_every_entrant_and_kept(service: Service, rounds: Rounds, answers: Answers) -> None:
    sampling = Sampling(max_new_tokens=7, temperature=0.5, seed=4)
    begun = rounds.begin(prompts(service), [BASE, ANN, MIX], sampling=sampling, system="Be brief")
    over = until_over(rounds, begun)
    assert (over.answered, over.voted, over.problem) == (12, 0, None)
    assert over.entrants == (BASE, ANN, MIX) and over.sampling == sampling
    assert all(pane.sampling == sampling and not pane.keeps for panes in answers.panes for pane in panes)
    assert answers.panes[0][0].messages[0] == Message(role="system", content="Be brief")
    for at in range(12):
        said = {answer.contestant: answer.text for answer in rounds.sheet(over.id, at).answers}
        expected = {each.contestant: f"{each.adapter}: What is {at}?" for each in (BASE, ANN, MIX)}
        assert said == expected


def test_answers_come_in_an_order_that_is_drawn_for_each_prompt_and_stays(service: Service, rounds: Rounds) -> None:
    over = until_over(rounds, rounds.begin(prompts(service, 40), [BASE, ANN]))
    first = [rounds.sheet(over.id, at).answers[0].contestant for at in range(40)]
    assert 8 < first.count(BASE.contestant) < 32
    assert first == [rounds.sheet(over.id, at).answers[0].contestant for at in range(40)]


def test_as_many_prompts_are_under_way_as_fill_the_rows_and_no_more(
    service: Service, rounds: Rounds, answers: Answers
) -> None:
    answers.gate.clear()
    begun = rounds.begin(prompts(service), [BASE, ANN])
    wait_for(lambda: answers.at_once == BULK_ROWS)
    answers.gate.set()
    until_over(rounds, begun)
    assert answers.most_at_once == BULK_ROWS


def test_what_is_stopped_keeps_what_was_answered_and_goes_on_with_the_rest(
    service: Service, rounds: Rounds, answers: Answers
) -> None:
    set_id = prompts(service)
    answers.gate.clear()
    begun = rounds.begin(set_id, [BASE, ANN])
    wait_for(lambda: answers.at_once == BULK_ROWS)
    with pytest.raises(ConfigError, match="being asked"):
        rounds.begin(set_id, [BASE, ANN])
    rounds.stop(begun.id)
    stopped = until_over(rounds, begun)
    assert (stopped.answered, stopped.problem, stopped.seconds_left) == (0, None, None)
    answers.gate.set()
    answers.asked.clear()
    assert until_over(rounds, rounds.resume(begun.id)).answered == 12
    assert sorted(answers.asked) == sorted(f"What is {number}?" for number in range(12))
    answers.asked.clear()
    until_over(rounds, rounds.resume(begun.id))
    assert answers.asked == []


def test_what_goes_wrong_is_told_and_what_was_answered_stays(
    service: Service, rounds: Rounds, answers: Answers
) -> None:
    answers.broken = {"What is 9?"}
    over = until_over(rounds, rounds.begin(prompts(service), [BASE, ANN]))
    assert over.problem is not None and over.problem.title == "The chat process died" and over.answered < 12
    answers.broken = set()
    again = until_over(rounds, rounds.resume(over.id))
    assert (again.answered, again.problem) == (12, None)


def test_answers_outlive_the_app(service: Service, rounds: Rounds, answers: Answers) -> None:
    over = until_over(rounds, rounds.begin(prompts(service), [BASE, ANN]))
    again = Rounds(service._store, service.votes, answers)
    assert again.all()[0].answered == 12 and not again.all()[0].is_asking
    assert again.sheet(over.id, 5) == rounds.sheet(over.id, 5)


def test_votes_are_of_the_set_and_can_be_changed_taken_back_and_gone_on_with(service: Service, rounds: Rounds) -> None:
    set_id = prompts(service, 3)
    over = until_over(rounds, rounds.begin(set_id, [BASE, ANN], system="Be brief", sampling=Sampling(seed=9)))
    assert rounds.next_open(over.id) == 0 and rounds.next_open(over.id, 0) == 1 and rounds.next_open(over.id, 2) == 0
    sheet = rounds.sheet(over.id, 1)
    winner = [answer.contestant for answer in sheet.answers].index(ANN.contestant)
    rounds.vote(over.id, 1, "tie")
    rounds.vote(over.id, 1, "win", winner, is_blind=False)
    (vote,) = service.votes.all(set_id)
    assert vote.winner == winner and vote.answers == sheet.answers and vote.seed == 9
    assert vote.settings["blind"] is False and vote.settings["max_new_tokens"] == 200
    assert [message.content for message in vote.prompt] == ["Be brief", "What is 1?"]
    assert service.votes.ranking(set_id)[0].contestant == ANN.contestant
    assert rounds.sheet(over.id, 1).vote == vote and rounds.look(over.id).voted == 1
    assert rounds.next_open(over.id) == 0 and rounds.next_open(over.id, 0) == 2
    rounds.take_back(over.id, 1)
    assert service.votes.all() == () and rounds.sheet(over.id, 1).vote is None and rounds.look(over.id).voted == 0


def test_a_vote_that_was_taken_back_elsewhere_is_none(service: Service, rounds: Rounds) -> None:
    over = until_over(rounds, rounds.begin(prompts(service, 2), [BASE, ANN]))
    service.votes.remove(rounds.vote(over.id, 0, "both bad"))
    assert rounds.sheet(over.id, 0).vote is None and rounds.next_open(over.id) == 0
    rounds.take_back(over.id, 0)


def test_who_is_asked_must_differ_and_there_must_be_two(service: Service, rounds: Rounds) -> None:
    set_id = prompts(service)
    for entrants in ([BASE], [ANN, ANN]):
        with pytest.raises(ConfigError, match="two different panes"):
            rounds.begin(set_id, entrants)
    with pytest.raises(NotFound):
        rounds.begin("nothing", [BASE, ANN])
    assert rounds.all() == ()


def test_a_set_that_is_given_up_takes_its_answers_and_leaves_its_votes(service: Service, rounds: Rounds) -> None:
    first, second = prompts(service, 2), prompts(service, 2)
    over = until_over(rounds, rounds.begin(first, [BASE, ANN]))
    other = until_over(rounds, rounds.begin(second, [BASE, ANN]))
    rounds.vote(over.id, 0, "tie")
    service.votes.remove_prompt_set(first)
    assert [each.id for each in rounds.all()] == [other.id] and len(service.votes.all()) == 1
    rounds.remove(other.id)
    assert rounds.all() == ()
    for gone in (over, other):
        with pytest.raises(NotFound):
            rounds.sheet(gone.id, 0)


def test_changed_prompts_leave_a_round_as_it_was_asked(service: Service, rounds: Rounds) -> None:
    set_id = prompts(service, 2)
    over = until_over(rounds, rounds.begin(set_id, [BASE, ANN]))
    service.votes.change_prompt_set(set_id, "Others", ["Why?"])
    assert rounds.sheet(over.id, 1).prompt == "What is 1?"


def test_answers_of_a_round_that_is_gone_are_not_kept(service: Service, rounds: Rounds) -> None:
    with pytest.raises(IntegrityError):
        service._store.round_book.record("nothing", 0, [(0, "text")])
