from __future__ import annotations

from core.data.records import Message
from jobs.service import Delta
from tests.ui.stand_in import XSS, adapter
from ui import panes
from ui.panes import PaneState, Reply


def reply(*pieces: str, done: bool = True, differs_at: int | None = None) -> Reply:
    whole = Reply()
    for at, piece in enumerate(pieces, 1):
        is_last = done and at == len(pieces)
        whole.take(Delta(pane=0, text=piece, tokens=at, seconds=at / 10, done=is_last, differs_at=differs_at))
    return whole


def test_the_base_comes_first_and_conversations_stay() -> None:
    first = panes.arrange([adapter()], "tiny", [])
    first[1].turns.append(Message(role="user", content="hi"))
    second = panes.arrange([adapter(id="a2", name="other"), adapter()], "tiny", first)
    assert [pane.adapter_id for pane in second] == [None, "a2", "a1"]
    assert second[2].turns[0].content == "hi" and second[1].turns == []


def test_there_are_at_most_six_panes() -> None:
    assert len(panes.arrange([adapter(id=str(at)) for at in range(9)], "tiny", [])) == panes.MOST_PANES


def test_an_answer_becomes_a_turn_and_a_question_without_one_is_taken_back() -> None:
    answered, silent = PaneState(adapter_id=None, title="base"), PaneState(adapter_id="a1", title="tuned")
    for pane in (answered, silent):
        pane.ask("What is a star?")
    assert answered.reply is not None
    answered.reply.take(Delta(pane=0, text="A sun", tokens=2, seconds=0.1, done=False))
    for pane in (answered, silent):
        pane.settle()
        pane.settle()
    assert [turn.role for turn in answered.turns] == ["user", "assistant"]
    assert silent.turns == []


def test_the_system_prompt_goes_before_the_conversation_and_only_if_there_is_one() -> None:
    pane = PaneState(adapter_id=None, title="base")
    pane.ask("hi")
    assert [message.role for message in pane.messages("  ")] == ["user"]
    assert [message.role for message in pane.messages("Be brief")] == ["system", "user"]


def test_nothing_that_was_typed_or_generated_is_markup() -> None:
    both = panes.arrange([adapter(name=XSS, fingerprint="0a1b2c3d")], XSS, [])
    for pane in both:
        pane.ask(XSS)
        pane.reply = reply(XSS, done=False)
    html = panes.render(both, 0) + panes.render(both, 1)
    assert "<img" not in html and html.count("&lt;img") >= 6


def test_a_pane_proves_its_adapter_and_compares_it_with_the_base() -> None:
    both = panes.arrange([adapter()], "tiny", [])
    both[0].reply, both[1].reply = reply("A", " star"), reply("Arr", " star", differs_at=1)
    assert "#0a1b2c3d" in panes.render(both, 1)
    assert "differs from the base at token 1" in panes.render(both, 1)
    assert "differs" not in panes.render(both, 0)
