"""Votes: cast, counted, taken back, and given out as data that the data page reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.data.formats.detection import Detection
from core.data.reading import read_dataset
from core.data.records import Conversation, Message
from core.errors import ConfigError, NotFound
from jobs.ballot_box import Answer, Contestant
from jobs.service import Service
from jobs.votes import OWN_CONVERSATIONS

BASE = Contestant(key="base", label="Base")
ANN = Contestant(key="adapter:a", label="Ann", adapter_id="a", fingerprint="0a1b")
HALF = Contestant(key="adapter:a", label="Ann", adapter_id="a", fingerprint="0a1b", strength=0.5)
ASK = (Message(role="system", content="Be brief."), Message(role="user", content="What is a star?"))


def answers(*contestants: Contestant) -> list[Answer]:
    return [Answer(contestant=each, text=f"{each.label} at {each.strength} says") for each in contestants]


def test_a_vote_is_kept_with_all_that_it_was_about(service: Service) -> None:
    given = answers(BASE, ANN)
    vote_id = service.votes.add(ASK, given, "win", 1, seed=7, settings={"temperature": 0.7, "max_new_tokens": 50})
    (vote,) = service.votes.all()
    assert (vote.id, vote.prompt, vote.answers) == (vote_id, ASK, tuple(given))
    assert (vote.outcome, vote.winner, vote.seed, vote.prompt_set_id) == ("win", 1, 7, None)
    assert vote.settings == {"temperature": 0.7, "max_new_tokens": 50}
    service.votes.remove(vote_id)
    assert service.votes.all() == ()
    with pytest.raises(NotFound):
        service.votes.remove(vote_id)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"prompt": ()}, "no prompt"),
        ({"answers": answers(BASE)}, "two different panes"),
        ({"answers": answers(BASE, BASE)}, "two different panes"),
        ({"outcome": "best"}, "no outcome"),
        ({"winner": None}, "winner of a win is None"),
        ({"winner": 2}, "winner of a win is 2"),
        ({"outcome": "tie"}, "winner of a tie is 0"),
    ],
)
def test_what_is_no_vote_is_refused(service: Service, given: dict[str, Any], says: str) -> None:
    values = {"prompt": ASK, "answers": answers(BASE, ANN), "outcome": "win", "winner": 0, **given}
    with pytest.raises(ConfigError, match=says):
        service.votes.add(**values)
    assert service.votes.all() == ()


def test_a_strength_makes_another_contestant_and_a_name_does_not(service: Service) -> None:
    service.votes.add(ASK, answers(ANN, HALF), "win", 0)
    renamed = Contestant(key="adapter:a", label="Annette", adapter_id="a", fingerprint="0a1b")
    service.votes.add(ASK, answers(BASE, renamed), "win", 1)
    service.votes.add(ASK, answers(BASE, HALF), "both bad")
    first, *others = service.votes.ranking()
    assert (first.contestant.label, first.standing.votes, first.standing.wins) == ("Annette", 2, 2)
    assert {each.contestant.identity for each in others} == {BASE.identity, HALF.identity}
    assert first.standing.rating_low < first.standing.rating < first.standing.rating_high
    assert [each.standing.ties for each in others] == [1, 1]


def test_each_set_of_prompts_has_a_ranking_of_its_own(service: Service) -> None:
    stars = service.votes.add_prompt_set(" Stars ", ["What is a star?", "  ", "How far is it?\n"])
    assert (stars.name, stars.prompts) == ("Stars", ("What is a star?", "How far is it?"))
    sums = service.votes.add_prompt_set("Sums", ["1 + 1"])
    service.votes.add(ASK, answers(BASE, ANN), "win", 1, prompt_set_id=stars.id)
    service.votes.add(ASK, answers(BASE, ANN), "win", 0, prompt_set_id=sums.id)
    service.votes.add(ASK, answers(BASE, ANN), "win", 1)
    assert service.votes.ranking(stars.id)[0].contestant == ANN
    assert service.votes.ranking(sums.id)[0].contestant == BASE
    assert service.votes.ranking()[0].contestant == ANN and service.votes.ranking()[0].standing.votes == 3
    assert [each.id for each in service.votes.prompt_sets()] == [sums.id, stars.id]
    assert service.votes.change_prompt_set(sums.id, "More sums", ["2 + 2"]).prompts == ("2 + 2",)
    service.votes.remove_prompt_set(stars.id)
    assert len(service.votes.all()) == 3
    for act in (service.votes.prompt_set, service.votes.remove_prompt_set):
        with pytest.raises(NotFound):
            act(stars.id)
    with pytest.raises(NotFound):
        service.votes.add(ASK, answers(BASE, ANN), "tie", prompt_set_id=stars.id)


@pytest.mark.parametrize(
    ("name", "prompts", "says"),
    [("x", [" "], "no prompts"), ("", ["a"], "name is empty"), ("x", ["a"] * 1001, "1,001 prompts"),
     ("x", ["a" * 100_001], "100,001 characters")],
)  # fmt: skip
def test_a_set_that_cannot_be_is_refused(service: Service, name: str, prompts: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        service.votes.add_prompt_set(name, prompts)


def test_votes_are_given_out_as_preferences_that_the_data_page_reads(service: Service, tmp_path: Path) -> None:
    service.votes.add(ASK, answers(BASE, ANN, HALF), "win", 1)
    service.votes.add(ASK, answers(BASE, ANN), "tie")
    for at in range(4):
        asked = (Message(role="user", content=f"What is {at}?"),)
        service.votes.add(asked, answers(BASE, ANN), "win", at % 2)
    path = service.votes.export("Stars and sums")
    assert path.name == "stars-and-sums-votes.jsonl" and path.is_relative_to(service.home)
    read = read_dataset(path)
    detection: Detection = read.detection
    assert detection.mapping.format == "preference"
    records = [record for record in read.records if isinstance(record, Conversation)]
    assert len(records) == 6
    assert [message.content for message in records[0].messages] == [
        "Be brief.",
        "What is a star?",
        "Ann at 1.0 says",
    ]
    assert records[2].messages[-1].content == "Base at 1.0 says"
    dataset = service.data.add(path)
    assert dataset.rows == 6


def test_ties_alone_and_equal_answers_prefer_nothing(service: Service) -> None:
    same = [Answer(contestant=each, text="the same") for each in (BASE, ANN)]
    service.votes.add(ASK, same, "win", 0)
    service.votes.add(ASK, answers(BASE, ANN), "tie")
    with pytest.raises(ConfigError, match="No vote prefers"):
        service.votes.export("x")
    assert list((service.home / "exports").iterdir()) == []


def test_answers_to_conversations_of_their_own_count_for_the_ranking_and_are_no_pairs(service: Service) -> None:
    service.votes.add(ASK, answers(BASE, ANN), "win", 1, settings={OWN_CONVERSATIONS: True})
    assert service.votes.ranking()[0].contestant == ANN
    with pytest.raises(ConfigError, match="No vote prefers"):
        service.votes.export("Own")


def test_the_strongest_is_compared_with_the_base_or_else_with_the_second(service: Service) -> None:
    assert service.votes.comparison() is None
    for winner in (1, 1, 2):
        service.votes.add(ASK, answers(BASE, ANN, HALF), "win", winner)
    found = service.votes.comparison()
    assert found is not None and (found.one, found.other, found.figures.wins) == (ANN, BASE, 2)
    for _ in range(9):
        service.votes.add(ASK, answers(BASE, HALF), "win", 0)
    found = service.votes.comparison()
    assert found is not None and found.one == ANN and found.other == BASE
    for _ in range(9):
        service.votes.add(ASK, answers(BASE, ANN), "win", 0)
    found = service.votes.comparison()
    assert found is not None and (found.one, found.other) == (BASE, ANN)
    assert found.figures.more == 0 and found.figures.low > 0.5
