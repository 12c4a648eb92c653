"""How the vote on the Playground's last message looks: a button under each answer, and a line under all. Every text is
escaped here. While it is blind, letters stand for names.
"""

from __future__ import annotations

from ui import markup
from ui.ballots import Ballot, verdict, who_was_who
from ui.conversation import Conversation, Turn

SCRIPT = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-vote]');
  if (!button) return;
  const choice = button.dataset.vote;
  if (choice === 'take_back') trigger('take_back', {});
  else if (choice === 'reveal') trigger('reveal', {});
  else trigger('vote', {choice: choice, place: ''});
});
"""
_KEYS = '<span class="vote-keys">or press 1 to {most}, T, B</span>'


def best(conversation: Conversation, pane: int, name: str, is_busy: bool) -> str:
    """The button that makes a pane's answer the best."""
    ballot = conversation.ballot
    if is_busy or ballot is None or pane not in ballot.order:
        return ""
    turn = conversation.path()[-1]
    if ballot.refusal(turn.replies) or _are_equal(turn, ballot):
        return ""
    place = ballot.order.index(pane)
    return best_button(place, f"{ballot.letter(pane) or name} is the best", ballot.winner == place)


def best_button(place: int, said: str, is_pressed: bool) -> str:
    """The button under the answer in a place; `said` is its name."""
    return (
        f'<button type="button" class="as-button small best-answer" data-best="{place}" data-key="{place + 1}" '
        f'aria-label="{markup.esc(said)}" aria-pressed="{_pressed(is_pressed)}">Best</button>'
    )


def bar(conversation: Conversation, is_busy: bool) -> str:
    """What else can be voted, or what was, or why nothing can be; empty where one pane answers, or none yet."""
    ballot = conversation.ballot
    if is_busy or ballot is None:
        return ""
    turn = conversation.path()[-1]
    refusal = ballot.refusal(turn.replies)
    reveal = button("reveal", "Show names") if ballot.is_hidden else ""
    if refusal:
        return line(f'<span class="vote-said">{markup.esc(refusal)}</span>{reveal}')
    choices = button("tie", "Tie", "t", ballot.outcome == "tie")
    choices += button("both bad", "All bad", "b", ballot.outcome == "both bad")
    if ballot.outcome is not None:
        undo = button("take_back", "Undo")
        return line(f'<span class="vote-said" role="status">{_said(ballot)}</span>{choices}{undo}')
    if _are_equal(turn, ballot):
        asks, keys = "The answers are the same, so none is the best.", ""
    else:
        asks, keys = "Which answer is the best?", _KEYS.format(most=len(ballot.order))
    return line(f'<span class="vote-said">{asks}</span>{choices}{keys}{reveal}')


def button(choice: str, words: str, key: str = "", is_pressed: bool | None = None) -> str:
    """A button of the line; with a `key` it is one of a choice."""
    pressed = "" if is_pressed is None else f' aria-pressed="{_pressed(is_pressed)}"'
    at = f' data-key="{key}"' if key else ""
    kind = "as-button small" if key else "as-button small plain"
    return f'<button type="button" class="{kind}" data-vote="{choice}"{at}{pressed}>{words}</button>'


def _said(ballot: Ballot) -> str:
    assert ballot.outcome is not None
    words = f"<strong>{markup.esc(verdict(ballot.outcome, ballot.winner, ballot.names()))}</strong>"
    contestants = [ballot.contestants[pane] for pane in ballot.order]
    return words + (f" · {markup.esc(who_was_who(contestants))}" if ballot.is_blind else "")


def line(inside: str) -> str:
    """What is said of a vote, and its buttons, beside each other."""
    return f'<div class="vote-bar" role="group" aria-label="Your vote">{inside}</div>'


def _are_equal(turn: Turn, ballot: Ballot) -> bool:
    return len({turn.replies[pane].text for pane in ballot.order}) == 1


def _pressed(is_pressed: bool) -> str:
    return "true" if is_pressed else "false"
