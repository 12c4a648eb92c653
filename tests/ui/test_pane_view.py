from __future__ import annotations

import html
import re
from typing import Any

import orjson

from core.generate.requests import TokenProbability
from jobs.service import Delta
from tests.ui.stand_in import XSS, adapter
from ui import pane_view, panes
from ui.conversation import Conversation
from ui.pane_view import Look
from ui.panes import PaneState
from ui.reply import Reply

BUSY, PROBABLE = Look(is_busy=True), Look(shows_probabilities=True)


def token(text: str, probability: float, *likeliest: tuple[str, float]) -> TokenProbability:
    return TokenProbability(text=text, probability=probability, likeliest=likeliest)


def reply(*pieces: str, done: bool = True, differs_at: int | None = None, known: bool = False, **values: Any) -> Reply:
    whole = Reply(**values)
    for at, piece in enumerate(pieces, 1):
        is_last = done and at == len(pieces)
        told = (token(piece, 0.5, (piece, 0.5), ("other", 0.25)),) if known else ()
        whole.take(
            Delta(
                pane=0, text=piece, tokens=at, seconds=at / 10, done=is_last, differs_at=differs_at, probabilities=told
            )
        )
    whole.is_over = done
    return whole


def both(name: str = "captain-r8", title: str = "tiny", fingerprint: str = "0a1b2c3d") -> list[PaneState]:
    tuned = panes.part_of(adapter(name=name, fingerprint=fingerprint))
    return [PaneState(number=1, title=title), PaneState(number=2, title=title, color="#123456", parts=(tuned,))]


def talk(question: str, *replies: Reply) -> Conversation:
    conversation = Conversation()
    conversation.ask(question, 7, None).replies.update(enumerate(replies, 1))
    return conversation


def test_nothing_that_was_typed_trained_or_generated_is_markup() -> None:
    shown = both(name=XSS, title=XSS, fingerprint=XSS)
    answers = [reply(XSS, known=True, made_with=XSS) for _ in shown]
    answers[1].base = (token(XSS, 0.1, (XSS, 0.9)),)
    conversation = talk(XSS, *answers)
    conversation.ask(XSS, 8, None).replies.update(conversation.turns[1].replies)
    drawn = [pane_view.pane(shown, at, conversation, look) for at in (0, 1) for look in (Look(), BUSY, PROBABLE)]
    drawn.append(pane_view.turns(conversation, Look()))
    assert "<img" not in "".join(drawn) and "".join(drawn).count("&lt;img") >= 20
    shown[0].waiting = XSS
    assert "<img" not in pane_view.pane(shown, 0, conversation, BUSY)


def test_a_pane_proves_what_it_ran() -> None:
    shown = both()
    conversation = talk("hi", reply("A", " star"), reply("Arr", " star", differs_at=1, made_with="strength 0.5"))
    tuned = pane_view.pane(shown, 1, conversation, Look())
    for proof in ("captain-r8", "#0a1b2c3d", "strength 0.5", "differs from the base at token 1", "10.0 tokens/s"):
        assert proof in tuned
    assert "differs" not in pane_view.pane(shown, 0, conversation, Look())


def test_a_pane_is_compared_with_the_base_wherever_that_stands_and_only_if_it_is_there() -> None:
    conversation = talk("hi", reply("A"), reply("A"))
    first, second = both()
    assert "same as the base" in pane_view.pane([second, first], 0, conversation, Look())
    assert "base" not in pane_view.pane([second], 0, conversation, Look()).partition("<footer>")[2]


def test_a_blend_has_a_slider_for_each_part_and_all_fingerprints() -> None:
    parts = [panes.part_of(adapter(id=key, name=key, fingerprint=f"{key}f")) for key in ("one", "two")]
    blend = PaneState(number=3, title="tiny", parts=tuple(parts))
    blend.set_strength(1, -0.5)
    drawn = pane_view.pane([blend], 0, Conversation(), Look())
    assert re.findall(r'data-part="(\d)" value="([^"]+)" aria-label="([^"]+)"', drawn) == [
        ("0", "1", "Strength of one"),
        ("1", "-0.5", "Strength of two"),
    ]
    assert "#onef" in drawn and "#twof" in drawn and "one + two" in drawn
    assert "disabled" not in drawn and drawn.count("disabled") < pane_view.pane([blend], 0, Conversation(), BUSY).count(
        "disabled"
    )


def test_the_base_has_no_strength() -> None:
    assert "strength" not in pane_view.pane(both(), 0, Conversation(), Look())


def test_tokens_tell_their_own_and_the_bases_likeliest_once_the_answer_is_there() -> None:
    answer = reply("Arr", "", "!", known=True)
    answer.base = (token("Arr", 0.001, ("A", 0.7)), token("x", 0.2), token("!", 0.9))
    drawn = pane_view.tokens(answer)
    told = [orjson.loads(html.unescape(found)) for found in re.findall(r'data-token="([^"]+)"', drawn)]
    assert [row["own"][0] for row in told] == ["Arr", "", "!"]
    assert told[0]["own"] == ["Arr", 0.5, [["Arr", 0.5], ["other", 0.25]]] and told[0]["base"] == [
        "Arr",
        0.001,
        [["A", 0.7]],
    ]
    assert html.unescape(re.sub("<[^>]+>", "", drawn)) == f"Arr{pane_view.SILENT}!"
    assert re.findall(r'tabindex="(-?\d)"', drawn) == ["0", "-1", "-1"]
    growing = pane_view.tokens(reply("Arr", done=False, known=True))
    assert "data-token" not in growing and "--p:0.500" in growing


def test_an_answer_without_probabilities_is_plain_text_though_they_are_to_be_shown() -> None:
    drawn = pane_view.pane(both(), 0, talk("hi", reply("A"), reply("A")), PROBABLE)
    assert '<div class="bubble assistant">A</div>' in drawn


def test_what_is_awaited_grows_and_what_is_there_does_not() -> None:
    shown = both()
    conversation = talk("hi", reply("A", done=False), reply("Arr"))
    assert "growing" in pane_view.pane(shown, 0, conversation, BUSY)
    assert "growing" not in pane_view.pane(shown, 1, conversation, BUSY)
    assert "growing" not in pane_view.pane(shown, 0, conversation, Look())  # it was stopped


def test_messages_offer_what_can_be_done_and_branches_what_can_be_followed() -> None:
    conversation = talk("one", reply("A"))
    first = conversation.path()[0]
    second = conversation.ask("two", 8, first.number)
    drawn = pane_view.turns(conversation, Look())
    acts = re.findall(r'data-act="(\w+)" data-turn="(\d)"', drawn)
    assert acts == [("edit", "1"), ("retry", "1"), ("back", "1"), ("edit", "2"), ("retry", "2")]
    assert "seed 7" in drawn and "seed 8" in drawn and "1 of" not in drawn
    conversation.ask("two again", 9, first.number)
    drawn = pane_view.turns(conversation, Look())
    assert "2 of 2" in drawn and re.findall(r'data-act="follow" data-turn="(\d)"', drawn) == ["2", "2"]
    conversation.go_back_to(first.number)
    drawn = pane_view.turns(conversation, Look())
    assert "2 ways lead on from here" in drawn and f'data-act="follow" data-turn="{first.follower}"' in drawn
    assert second.number != first.follower
    assert pane_view.turns(Conversation(), Look()) == ""
    assert all("disabled" in button for button in re.findall("<button[^>]*>", pane_view.turns(conversation, BUSY)))
