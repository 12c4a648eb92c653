from __future__ import annotations

from jobs.service import Delta
from ui.conversation import Conversation, Turn
from ui.reply import Reply


def answered(turn: Turn, **texts: str) -> Turn:
    """`turn` with answers by `p1`, `p2`, …"""
    for pane, text in texts.items():
        reply = Reply()
        reply.take(Delta(pane=0, text=text, tokens=1, seconds=0.1, done=True))
        turn.replies[int(pane[1:])] = reply
    return turn


def said(conversation: Conversation, pane: int, system: str = "") -> list[str]:
    return [message.content for message in conversation.messages(pane, system)]


def questions(conversation: Conversation) -> list[str]:
    return [turn.question for turn in conversation.path()]


def talk() -> Conversation:
    """Three turns in a row: one, two, three."""
    conversation = Conversation()
    for word in ("one", "two", "three"):
        answered(conversation.ask(word, 0, conversation.at), p1=f"{word} by p1", p2=f"{word} by p2")
    return conversation


def test_each_pane_goes_on_from_its_own_answers() -> None:
    conversation = talk()
    conversation.ask("four", 0, conversation.at)
    ours = ["one", "one by p1", "two", "two by p1", "three", "three by p1", "four"]
    assert said(conversation, 1) == ours
    assert said(conversation, 2) == [word.replace("p1", "p2") for word in ours]
    assert [message.role for message in conversation.messages(1, "Be brief")][:3] == ["system", "user", "assistant"]
    assert said(conversation, 1, "  ") == ours


def test_a_pane_that_came_later_or_gave_no_answer_knows_nothing_of_that_turn() -> None:
    conversation = talk()
    turn = conversation.ask("four", 0, conversation.at)
    assert said(conversation, 3) == ["four"]
    answered(turn, p1="", p3="here")
    conversation.ask("five", 0, conversation.at)
    assert said(conversation, 3) == ["four", "here", "five"]
    assert "four" not in said(conversation, 1)


def test_a_changed_message_is_a_branch_beside_the_first_and_both_stay() -> None:
    conversation = talk()
    second = conversation.path()[1]
    changed = conversation.ask("another", 0, second.parent)
    assert questions(conversation) == ["one", "another"]
    assert said(conversation, 1) == ["one", "one by p1", "another"]
    assert conversation.ways(second.parent) == [second, changed]
    conversation.follow(second.number)
    assert questions(conversation) == ["one", "two", "three"]
    conversation.follow(changed.number)
    assert questions(conversation) == ["one", "another"]


def test_going_back_ends_the_path_there_and_what_followed_can_be_followed_again() -> None:
    conversation = talk()
    first, second, third = conversation.path()
    conversation.go_back_to(first.number)
    assert questions(conversation) == ["one"] and conversation.ways(conversation.at) == [second]
    new = conversation.ask("elsewhere", 0, conversation.at)
    assert questions(conversation) == ["one", "elsewhere"]
    assert conversation.ways(first.number) == [second, new]
    conversation.follow(second.number)
    assert conversation.at == third.number


def test_a_branch_is_followed_as_far_and_on_the_side_where_one_was_last() -> None:
    conversation = talk()
    second = conversation.path()[1]
    side = conversation.ask("side", 0, second.number)
    deeper = conversation.ask("deeper", 0, side.number)
    conversation.ask("another", 0, second.parent)
    conversation.follow(second.number)
    assert conversation.at == deeper.number


def test_a_first_message_can_be_changed_too() -> None:
    conversation = talk()
    first = conversation.path()[0]
    conversation.ask("anew", 0, first.parent)
    assert questions(conversation) == ["anew"] and len(conversation.ways(None)) == 2


def test_each_retry_has_a_seed_of_its_own() -> None:
    conversation = talk()
    last = conversation.path()[-1]
    again = conversation.ask(last.question, conversation.next_seed(last), last.parent)
    assert again.seed == 1 and conversation.next_seed(again) == 2
    conversation.follow(last.number)
    assert conversation.next_seed(last) == 2
    other = conversation.ask("something else", 40, last.parent)
    assert conversation.next_seed(other) == 41 and conversation.next_seed(last) == 2


def test_a_message_that_nobody_answered_is_forgotten_and_one_stands_where_one_stood() -> None:
    conversation = talk()
    before, second = conversation.at, conversation.path()[1]
    failed = conversation.ask("changed", 0, second.parent)
    conversation.take_back(failed, before)
    assert questions(conversation) == ["one", "two", "three"] and failed.number not in conversation.turns
    conversation.go_back_to(conversation.path()[0].number)
    conversation.follow(second.number)
    assert conversation.at == before
    empty = Conversation()
    empty.take_back(empty.ask("hello", 0, None), None)
    assert empty.turns == {} and empty.at is None
