"""Prompt sets on the Playground: made, asked, gone through; and who wins."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from core.data.records import Message
from core.errors import ConfigError, DataError, NotFound
from core.generate.requests import Delta
from jobs.rounds import Rounds
from jobs.service import Service, prompt_sources, votes
from tests.jobs.waiting import wait_for
from tests.ui.stand_in import XSS
from tests.ui.test_playground import SETTINGS, Slots, event
from ui import charts, ranking_view
from ui.addresses import OwnAddresses, votes_file
from ui.pages.playground_desk import Talk
from ui.pages.prompt_sets import SetDesk
from ui.pages.ranking import RankingDesk
from ui.pages.sheets import SheetDesk
from ui.panes import COLORS, PaneState, Part

CAPTAIN = Part(ref="a1", address="a1", name="captain", fingerprint="0a1b2c", base_model="starter")
SECRETS = ("captain", "0a1b", "Base", "a1", "--series")


def answer(panes: Sequence[Any], base_model: str | None) -> Iterator[Any]:
    for index, pane in enumerate(panes):
        text = "Arr" if pane.adapter else "Well"
        yield Delta(pane=index, text=f"{text}, {pane.messages[-1].content}", tokens=1, seconds=0.1, done=True)


class Desks:
    """A visitor with a base and an adapter, over a real home and a chat that answers from memory."""

    def __init__(self, service: Service) -> None:
        service.rounds = Rounds(service._store, service.votes, answer)
        slots: Any = Slots()
        self.service = service
        self.sets = SetDesk(service, slots)
        self.sheets = SheetDesk(service, slots, self.sets)
        self.ranking = RankingDesk(service, slots)
        adapted = PaneState(number=2, title="Base", parts=(CAPTAIN,))
        self.talk = Talk(panes=[PaneState(number=1, title="Base"), adapted], made=2)

    def ask(self, prompts: str = "one\ntwo\nthree") -> str:
        """The id of a round that is answered."""
        self.sets.ask("", "Numbers", prompts, self.talk, *SETTINGS)
        wait_for(lambda: not self.service.rounds.all()[0].is_asking)
        return self.service.rounds.all()[0].id

    def open(self, round_id: str) -> str:
        return str(self.sheets.open(self.talk, event(id=round_id))["sheet"])

    def vote_for(self, word: str) -> str:
        assert self.talk.sheet is not None
        shown = self.service.rounds.sheet(self.talk.sheet.round_id, self.talk.sheet.at)
        place = next(at for at, each in enumerate(shown.answers) if each.text.startswith(word))
        return str(self.sheets.vote(self.talk, event(choice="win", place=str(place)))["sheet"])


@pytest.fixture
def desks(tmp_path: Path) -> Iterator[Desks]:
    service = Service(tmp_path / "home", tmp_path / "models")
    yield Desks(service)
    service.close()


def test_a_set_is_made_changed_and_given_up(desks: Desks) -> None:
    news = desks.sets.save("", "Numbers", "one\n\ntwo⏎lines")
    (kept,) = desks.service.votes.prompt_sets()
    assert kept.prompts == ("one", "two\nlines") and news["choice"]["value"] == kept.id
    assert "Nobody was asked yet" in news["rounds"]
    news = desks.sets.save(kept.id, "More", "three")
    assert desks.service.votes.prompt_set(kept.id).prompts == ("three",) and news["name"] == "More"
    assert desks.sets.chosen(kept.id)["prompts"] == "three" and desks.sets.chosen("")["prompts"] == ""
    desks.sheets.remove_set(desks.talk, event(id=kept.id))
    assert desks.service.votes.prompt_sets() == ()
    for name, prompts in (("", "one"), ("Numbers", " \n")):
        with pytest.raises(ConfigError):
            desks.sets.save("", name, prompts)


def test_prompts_of_a_dataset_are_added_to_those_that_are_there(desks: Desks) -> None:
    dataset = desks.service.data.add_example("captain")
    news = desks.sets.take(dataset.id, "", "What is mine?")
    found = prompt_sources.lines(news["prompts"])
    assert found[0] == "What is mine?" and len(found) == 21 and news["name"] == "The Captain questions"
    assert "has seen most" in news["status"]
    with pytest.raises(ConfigError, match="No dataset"):
        desks.sets.take(None, "", "")
    with pytest.raises(DataError, match="not uploaded here"):
        desks.sets.read("/etc/passwd", "", "")


def test_who_is_asked_and_how_is_what_the_page_says(desks: Desks) -> None:
    found = desks.service.rounds.look(desks.ask())
    assert [entrant.adapter for entrant in found.entrants] == [None, "a1"]
    assert (found.system, found.sampling.seed, found.sampling.top_k) == ("Be brief", 3, 40)
    assert found.answered == 3 and desks.service.votes.prompt_set(found.prompt_set_id).name == "Numbers"


def test_one_pane_is_not_enough_and_leaves_no_set_behind(desks: Desks) -> None:
    desks.talk.panes = desks.talk.panes[:1]
    with pytest.raises(ConfigError, match="two different panes"):
        desks.sets.ask("", "Numbers", "one", desks.talk, *SETTINGS)
    assert desks.service.votes.prompt_sets() == ()


def test_a_sheet_holds_no_name_before_the_vote_and_all_after(desks: Desks) -> None:
    shown = desks.open(desks.ask())
    assert "Prompt 1 of 3" in shown and not [word for word in SECRETS if word in shown]
    voted = desks.vote_for("Arr")
    assert "Voted: captain" in voted and "0a1b" in voted and "Next" in voted
    assert desks.service.votes.all()[0].settings["blind"] is True
    after = desks.sheets.take_back(desks.talk)["sheet"]
    assert "Which answer" in after and "captain" in after
    desks.vote_for("Well")
    assert [vote.settings["blind"] for vote in desks.service.votes.all()] == [False]


def test_names_can_be_asked_for_and_are_hidden_again_at_the_next_prompt(desks: Desks) -> None:
    desks.open(desks.ask())
    assert "captain" in desks.sheets.reveal(desks.talk)["sheet"]
    assert "captain" not in desks.sheets.skip(desks.talk)["sheet"]
    desks.sheets.go_back(desks.talk)
    desks.sheets.reveal(desks.talk)
    desks.vote_for("Arr")
    assert desks.service.votes.all()[0].settings["blind"] is False


def test_skipped_prompts_come_again_and_at_the_end_it_says_who_won(desks: Desks) -> None:
    round_id = desks.ask()
    desks.open(round_id)
    assert "Prompt 2 of 3" in desks.sheets.skip(desks.talk)["sheet"]
    desks.vote_for("Arr")
    assert "Prompt 3 of 3" in desks.sheets.skip(desks.talk)["sheet"]
    desks.vote_for("Arr")
    assert "Prompt 1 of 3" in desks.sheets.skip(desks.talk)["sheet"]
    desks.vote_for("Arr")
    end = desks.sheets.skip(desks.talk)["sheet"]
    assert "All 3 answered prompts are voted on" in end and end.index("captain") < end.index("Base")
    assert "Voted" in desks.sheets.go_back(desks.talk)["sheet"]


def test_it_can_be_left_and_the_address_goes_on_where_it_was(desks: Desks) -> None:
    round_id = desks.ask()
    desks.open(round_id)
    desks.vote_for("Arr")
    assert f"round={round_id}" in desks.talk.query
    again = Talk()
    news = desks.sheets.arrive(again, round_id)
    assert "Prompt 2 of 3" in news["sheet"] and news["name"] == "Numbers"
    assert desks.sheets.arrive(Talk(), "gone")["sheet"] == ""
    left = desks.sheets.leave(desks.talk)
    assert left["sheet"] == "" and "round" not in left["address"]
    with pytest.raises(NotFound, match="No prompt is shown"):
        desks.sheets.skip(desks.talk)


def test_deleted_answers_close_their_sheet_and_leave_their_votes(desks: Desks) -> None:
    round_id = desks.ask()
    desks.open(round_id)
    desks.vote_for("Arr")
    news = desks.sheets.remove(desks.service.votes.prompt_sets()[0].id, desks.talk, event(id=round_id))
    assert news["sheet"] == "" and "Nobody was asked yet" in news["rounds"] and len(desks.service.votes.all()) == 1


@pytest.mark.parametrize(("choice", "place"), [("win", "7"), ("win", "x"), ("odd", "")])
def test_what_no_button_of_a_sheet_says_is_no_vote(desks: Desks, choice: str, place: str) -> None:
    desks.open(desks.ask())
    with pytest.raises(ConfigError):
        desks.sheets.vote(desks.talk, event(choice=choice, place=place))
    assert desks.service.votes.all() == ()


def test_names_prompts_and_answers_are_text(desks: Desks) -> None:
    for pane in desks.talk.panes:
        pane.title, pane.parts = (
            XSS,
            tuple(Part(**{**vars(part), "name": XSS, "fingerprint": XSS}) for part in pane.parts),
        )
    shown = desks.open(desks.ask(XSS)) + desks.vote_for("Arr") + desks.ranking.show("", desks.talk)["ranking"]
    listed = desks.sets.look(desks.service.votes.prompt_sets()[0].id)["rounds"]
    assert "<img" not in shown + listed and (shown + listed).count("&lt;img") > 8


# -- who wins --------------------------------------------------------------------------------------------------------


def test_without_votes_it_says_what_to_do(desks: Desks) -> None:
    news = desks.ranking.show("", desks.talk)
    assert "There are no votes yet" in news["ranking"] and not news["use"]["visible"]
    with pytest.raises(ConfigError, match="No vote prefers"):
        desks.ranking.use("")


def test_who_answers_in_a_pane_has_its_color_and_others_have_another(desks: Desks) -> None:
    desks.open(desks.ask())
    desks.vote_for("Arr")
    captain = desks.talk.panes[1]
    for color in COLORS:
        captain.color = color
        assert f"--series:{color}" in desks.ranking.show("", desks.talk)["ranking"]
        assert f"--series:{charts.GRAY}" in desks.ranking.show("", desks.talk)["ranking"]
    others = Talk(panes=[PaneState(number=1, title="Other", parts=(replace(CAPTAIN, address="b2"),), color=COLORS[0])])
    assert f"--series:{COLORS[0]}" not in desks.ranking.show("", others)["ranking"]


def test_the_ranking_is_of_all_votes_or_of_a_set_and_becomes_a_dataset(desks: Desks) -> None:
    desks.open(desks.ask())
    desks.vote_for("Arr")
    (kept,) = desks.service.votes.prompt_sets()
    for which in ("", kept.id, "gone"):
        news = desks.ranking.show(which, desks.talk)
        assert news["ranking"].count("<tr style") == 2 and news["use"]["visible"]
        assert news["which"]["value"] == (kept.id if which == kept.id else "")
    said = desks.ranking.use(kept.id)["status"]
    assert "1 pair, read as preference pairs" in said
    assert desks.service.data.all()[0].name == "Numbers votes"


def test_only_ties_can_be_ranked_and_not_given_out(desks: Desks) -> None:
    desks.open(desks.ask())
    desks.sheets.vote(desks.talk, event(choice="tie", place=""))
    news = desks.ranking.show("", desks.talk)
    assert "Not enough votes" in news["ranking"] and "Download" not in news["ranking"] and not news["use"]["visible"]


def test_the_votes_are_downloaded_from_an_address_of_their_own(desks: Desks) -> None:
    async def nobody(*_: Any) -> None:
        raise AssertionError("Gradio was asked")

    get = TestClient(OwnAddresses(nobody, desks.service)).get
    desks.open(desks.ask())
    assert get(votes_file()).status_code == 404 and "No vote prefers" in get(votes_file()).text
    desks.vote_for("Arr")
    (kept,) = desks.service.votes.prompt_sets()
    for address in (votes_file(), votes_file(kept.id)):
        assert [row["chosen"][0]["content"] for row in map(json.loads, get(address).text.splitlines())] == ["Arr, one"]
    assert get(votes_file("../../etc")).status_code == 404


def versus(service: Service, ann: int, base: int) -> votes.Versus:
    pair = [votes.Contestant(key="base:x", label="Base"), votes.Contestant(key="adapter:a", label="Ann")]
    given = [votes.Answer(contestant=each, text=each.label) for each in pair]
    asked = Message(role="user", content="Why?")
    for winner in [1] * ann + [0] * base:
        service.votes.add([asked], given, "win", winner)
    found = service.votes.comparison()
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("ann", "base", "says"),
    [
        (24, 10, "Ann is better than Base: 71 % of 34 votes, at least 54 %."),
        (2, 20, "Base is better than Ann: 91 % of 22 votes, at least 72 %."),
        (3, 3, "50 % of 6 votes for Base may mean anything from 19 to 81 %. At such a share not even 1,000 more"),
        (6, 4, "Not enough votes to tell Ann from Base: 60 % of 10 votes for Ann may mean anything from 31 to 83 %."),
    ],
)
def test_the_sentence_says_no_more_than_the_votes(desks: Desks, ann: int, base: int, says: str) -> None:
    found = versus(desks.service, ann, base)
    assert says in ranking_view.sentence(found)
    more = found.figures.more
    assert (f"{more} more votes will tell" in ranking_view.sentence(found)) == bool(more)
