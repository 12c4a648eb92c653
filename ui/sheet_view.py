"""The answers to a prompt set as HTML: the rounds in which it was asked, and one prompt at a time to vote on. Every
text is escaped here. Until a vote is cast, or names are asked for, letters stand for who answered.
"""

from __future__ import annotations

from collections.abc import Sequence

from jobs.service import rounds
from ui import charts, markup, text, vote_bar
from ui.ballots import LETTERS, named, verdict, who_was_who
from ui.panes import COLORS

ROUNDS_SCRIPT = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-act]');
  if (!button) return;
  const which = {id: button.dataset.id};
  if (button.dataset.act === 'vote') trigger('open_round', which);
  else if (button.dataset.act === 'resume') trigger('resume_round', which);
  else if (button.dataset.act === 'stop') trigger('stop_round', which);
  else if (button.dataset.act === 'remove') trigger('remove_round', which);
  else trigger('remove_set', which);
});
"""
SHEET_SCRIPT = """
element.addEventListener('click', (event) => {
  const best = event.target.closest('[data-best]');
  if (best) return trigger('vote', {choice: 'win', place: best.dataset.best});
  const button = event.target.closest('button[data-vote]');
  if (!button) return;
  const choice = button.dataset.vote;
  if (choice === 'take_back') trigger('take_back', {});
  else if (choice === 'reveal') trigger('reveal', {});
  else if (choice === 'skip') trigger('skip', {});
  else if (choice === 'leave') trigger('leave', {});
  else if (choice === 'back') trigger('go_back', {});
  else trigger('vote', {choice: choice, place: ''});
});
let round = '';
const settle = () => {
  const sheet = element.querySelector('.sheet');
  if (sheet && sheet.dataset.round !== round) sheet.scrollIntoView({block: 'start'});
  round = sheet ? sheet.dataset.round : '';
};
watch('value', () => requestAnimationFrame(settle));
"""


def rounds_list(found: Sequence[rounds.Round], set_id: str) -> str:
    """Every time that the set was asked, the newest first, and the button that gives the set up."""
    if not set_id:
        return ""
    rows = "".join(map(_round, found)) or '<li class="round-none">Nobody was asked yet.</li>'
    answered = sum(each.answered for each in found)
    words = f"Delete it with {text.plural(answered, 'answer')}; votes stay" if answered else "Delete it"
    return f'<ol class="rounds">{rows}</ol>{_sure("Delete this set", "remove_set", words, set_id)}'


def _round(found: rounds.Round) -> str:
    total = len(found.prompts)
    names = ", ".join(named(entrant.contestant) for entrant in found.entrants)
    left = f" · {text.duration(found.seconds_left)} left" if found.seconds_left is not None else ""
    words = f"{found.answered} of {total} answered{left} · {text.plural(found.voted, 'vote')}"
    bar = markup.progress(found.answered, total, "Prompts answered") if found.is_asking else ""
    problem = found.problem
    wrong = markup.banner(problem.title, problem.detail, problem.hint) if problem is not None else ""
    return (
        f'<li class="round"><div class="round-words"><strong>{markup.esc(names)}</strong>'
        f"<small>{found.created_at:%d %b %Y, %H:%M} UTC · {words}</small>{bar}{wrong}</div>"
        f'<div class="round-acts">{_round_buttons(found)}</div></li>'
    )


def _round_buttons(found: rounds.Round) -> str:
    buttons = []
    open_ones = found.answered - found.voted
    if found.answered:
        words = f"Vote on {open_ones}" if open_ones else "Look through"
        buttons.append(_act("vote", words, found.id, "primary" if open_ones else ""))
    if found.is_asking:
        buttons.append(_act("stop", "Stop", found.id))
    elif found.answered < len(found.prompts):
        buttons.append(_act("resume", f"Ask the other {len(found.prompts) - found.answered}", found.id))
    if not found.is_asking:
        words = f"Delete {text.plural(found.answered, 'answer')}; votes stay"
        buttons.append(_sure("Delete", "remove", words, found.id))
    return "".join(buttons)


def _act(act: str, words: str, which: str, kind: str = "") -> str:
    return (
        f'<button type="button" class="as-button small {kind}" data-act="{act}" data-id="{markup.esc(which)}">'
        f"{markup.esc(words)}</button>"
    )


def _sure(asks: str, act: str, words: str, which: str) -> str:
    """What is done with a second click."""
    return f'<details class="surely"><summary>{asks}</summary>{_act(act, words, which, "danger")}</details>'


def sheet(found: rounds.Round, shown: rounds.Sheet, is_revealed: bool) -> str:
    """One prompt with its answers, and what can be voted."""
    is_known = is_revealed or shown.vote is not None
    order = [answer.contestant for answer in shown.answers]
    are_equal = len({answer.text for answer in shown.answers}) == 1
    parts = []
    for place, answer in enumerate(shown.answers):
        is_best = shown.vote is not None and shown.vote.winner == place
        best = "" if are_equal else vote_bar.best_button(place, f"{LETTERS[place]} is the best", is_best)
        color = _color(found, order[place]) if is_known else ""
        parts.append(_answer(LETTERS[place], named(order[place]) if is_known else "", answer.text, color, best))
    return _section(
        found,
        f"Prompt {shown.at + 1} of {len(found.prompts)}",
        f"{found.voted} of {text.plural(found.answered, 'answered prompt')} voted on. You can go on later.",
        f'<div class="bubble user">{markup.esc(shown.prompt)}</div><div class="panes">{"".join(parts)}</div>'
        + vote_bar.line(_votes(shown, is_known, are_equal, shown.at > 0)),
    )


def _answer(letter: str, name: str, said: str, color: str, best: str) -> str:
    """One answer, under its letter alone or with the name behind it."""
    head = f'<span class="was">{letter} was</span> {markup.esc(name)}' if name else letter
    look = f'class="pane" style="--series:{color}"' if name else 'class="pane hidden-pane"'
    return (
        f'<article {look}><header><i class="dot"></i><h2>{head}</h2></header>'
        f'<div class="chat" tabindex="0" aria-label="Answer {letter}">'
        f'<div class="bubble assistant">{markup.esc(said)}</div></div><footer>{best}</footer></article>'
    )


def _votes(shown: rounds.Sheet, is_known: bool, are_equal: bool, can_go_back: bool) -> str:
    """The line of the sheet."""
    button, vote = vote_bar.button, shown.vote
    outcome = vote.outcome if vote is not None else None
    choices = button("tie", "Tie", "t", outcome == "tie") + button("both bad", "All bad", "b", outcome == "both bad")
    back = button("back", "Back") if can_go_back else ""
    if vote is None:
        asks = "The answers are the same, so none is the best." if are_equal else "Which answer is the best?"
        reveal = "" if is_known else button("reveal", "Show names")
        return f'<span class="vote-said">{asks}</span>{choices}{button("skip", "Skip", "n")}{back}{reveal}'
    contestants = [answer.contestant for answer in shown.answers]
    said = verdict(vote.outcome, vote.winner, [named(each) for each in contestants])
    words = f"<strong>{markup.esc(said)}</strong> · {markup.esc(who_was_who(contestants))}"
    following = f'<span class="following">{button("skip", "Next", "n")}</span>'
    undo = button("take_back", "Undo")
    return f'<span class="vote-said" role="status">{words}</span>{choices}{following}{undo}{back}'


def over(found: rounds.Round, ranking: str) -> str:
    """What is there when all that was answered is voted on: who won."""
    rest = len(found.prompts) - found.answered
    words = f"All {text.plural(found.answered, 'answered prompt')} are voted on" if found.answered > 1 else "Voted on"
    more = f'<p class="note-line">{text.plural(rest, "prompt")} not answered yet.</p>' if rest else ""
    line = vote_bar.line(f'<span class="vote-said">Who wins on this set, over all its rounds:</span>'
                         f'{vote_bar.button("back", "Look through again")}')  # fmt: skip
    return _section(found, words, "", f"{more}{line}{ranking}")


def _section(found: rounds.Round, title: str, hint: str, inside: str) -> str:
    leave = vote_bar.button("leave", "Close")
    return (
        f'<section class="sheet card" data-round="{markup.esc(found.id)}" aria-label="Prompt set">'
        f'<header class="sheet-head"><div><h2>{markup.esc(title)}</h2><p>{markup.esc(hint)}</p></div>{leave}</header>'
        f"{inside}</section>"
    )


def _color(found: rounds.Round, contestant: object) -> str:
    """A base is gray; others have the series' colors in the order in which they were asked."""
    adapted = [entrant.contestant for entrant in found.entrants if entrant.adapter is not None]
    return COLORS[adapted.index(contestant) % len(COLORS)] if contestant in adapted else charts.GRAY  # type: ignore[arg-type]
