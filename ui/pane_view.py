"""The Playground's panes and turns as HTML. Every text is escaped here.

A pane's answers can be shown token by token, each as pale as it was likely. What a token's popover says lies beside it
as data, which `static/playground.js` puts on the page as text when it is pointed at or has the focus.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from jobs.service import TokenProbability
from ui import markup, text, vote_bar
from ui.conversation import Conversation, Turn
from ui.panes import LEAST_STRENGTH, MOST_STRENGTH, PaneState, number
from ui.reply import Reply

SILENT = "·"  # stands for a token without text: a part of a character, or the end

# What a pane's own controls tell: the pane's number, and for a strength which part and how much.
PANE_SCRIPT = """
const pane = () => element.querySelector('.pane')?.dataset.pane;
element.addEventListener('input', (event) => {
  const slider = event.target.closest('.strength input');
  if (slider) slider.nextElementSibling.textContent = String(Number(slider.value)).replace('-', '−');
});
element.addEventListener('change', (event) => {
  const slider = event.target.closest('.strength input');
  if (slider) trigger('strength', {pane: pane(), part: slider.dataset.part, value: slider.value});
});
element.addEventListener('click', (event) => {
  if (event.target.closest('.remove')) trigger('remove', {pane: pane()});
  const best = event.target.closest('[data-best]');
  if (best) trigger('vote', {choice: 'win', place: best.dataset.best});
});
"""

TURNS_SCRIPT = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-act]');
  if (!button) return;
  const turn = {turn: button.dataset.turn};
  if (button.dataset.act === 'retry') trigger('retry', turn);
  else if (button.dataset.act === 'edit') trigger('edit', turn);
  else if (button.dataset.act === 'back') trigger('back', turn);
  else trigger('follow', turn);
});
"""


@dataclass(frozen=True, kw_only=True)
class Look:
    """How panes are drawn: whether answers come, and whether their tokens' probabilities are shown."""

    is_busy: bool = False
    shows_probabilities: bool = False


def pane(panes: Sequence[PaneState], index: int, conversation: Conversation, look: Look) -> str:
    """A pane: heading, strengths, conversation, and a line about the last answer. Where a vote is blind and not cast,
    a letter and the last answer, and nothing else.
    """
    shown = panes[index]
    path, ballot = conversation.path(), conversation.ballot
    letter = ballot.letter(shown.number) if ballot is not None else ""
    best = vote_bar.best(conversation, shown.number, shown.name, look.is_busy)
    if ballot is not None and letter and ballot.is_hidden:
        return _hidden(shown, letter, path[-1], look, best)
    head, name = _head(shown, look, len(panes) > 1, letter), markup.esc(shown.name)
    return (
        f'<article class="pane" data-pane="{shown.number}" style="--series:{shown.color}">{head}'
        f'<div class="chat" tabindex="0" aria-label="Conversation with {name}">{_said(shown, path, look)}</div>'
        f"<footer>{_about(panes, index, path)}{best}</footer></article>"
    )


def _hidden(shown: PaneState, letter: str, turn: Turn, look: Look, best: str) -> str:
    """Nothing that is the pane's own but what it answers."""
    said = _said(shown, [turn], Look(is_busy=look.is_busy))
    return (
        f'<article class="pane hidden-pane"><header><i class="dot"></i><h2>{letter}</h2></header>'
        f'<div class="chat" tabindex="0" aria-label="Answer {letter}">{said}</div><footer>{best}</footer></article>'
    )


def _head(shown: PaneState, look: Look, can_go: bool, letter: str = "") -> str:
    disabled = " disabled" if look.is_busy else ""
    name = markup.esc(shown.name)
    marks = "".join(_mark(part.fingerprint) for part in shown.parts) or '<span class="pane-kind">base</span>'
    sliders = "".join(
        f'<label class="strength"><span>{markup.esc(part.name) if len(shown.parts) > 1 else "Strength"}</span>'
        f'<input type="range" min="{LEAST_STRENGTH:g}" max="{MOST_STRENGTH:g}" step="0.1" data-part="{at}" '
        f'value="{part.strength:g}" aria-label="Strength of {markup.esc(part.name)}"{disabled}>'
        f"<output>{number(part.strength)}</output></label>"
        for at, part in enumerate(shown.parts)
    )
    was = f'<span class="was">{letter} was</span> ' if letter else ""
    remove = (
        f'<button type="button" class="remove" aria-label="Remove the pane {name}" title="Remove"{disabled}>×</button>'
    )
    return (
        f'<header><i class="dot"></i><h2 title="{name}">{was}{name}</h2>{marks}{remove if can_go else ""}'
        f"</header>{sliders and f'<div class=strengths>{sliders}</div>'}"
    )


def _mark(fingerprint: str) -> str:
    return f'<code title="the start of the weights&#x27; SHA-256">#{markup.esc(fingerprint)}</code>'


def _said(shown: PaneState, path: Sequence[Turn], look: Look) -> str:
    bubbles = []
    for turn in path:
        reply = turn.replies.get(shown.number)
        if reply is None:
            continue
        bubbles.append(f'<div class="bubble user">{markup.esc(turn.question)}</div>')
        is_awaited = look.is_busy and turn is path[-1]
        if is_awaited and shown.waiting:
            bubbles.append(markup.loading(shown.waiting))
        elif reply.text or is_awaited:
            bubbles.append(_answer(reply, look, is_awaited and not reply.is_done))
    return "".join(bubbles) or '<p class="pane-empty">Ask something below.</p>'


def _answer(reply: Reply, look: Look, is_growing: bool) -> str:
    is_split = look.shows_probabilities and bool(reply.pieces)
    kind = f"bubble assistant{' growing' if is_growing else ''}{' tokens' if is_split else ''}"
    return f'<div class="{kind}">{tokens(reply) if is_split else markup.esc(reply.text)}</div>'


def tokens(reply: Reply) -> str:
    """The answer's tokens. Beside each, once the answer is there, what it and the base held likely in its place."""
    spans = []
    for at, piece in enumerate(reply.pieces):
        facts = ""
        if reply.is_over:
            base = reply.base[at] if at < len(reply.base) else None
            told = orjson.dumps({"own": _row(piece.token), "base": base and _row(base)}).decode()
            facts = f' tabindex="{-1 if at else 0}" data-token="{markup.esc(told)}"'
        chance = piece.token.probability
        spans.append(
            f'<span class="token{"" if piece.text else " silent"}" style="--p:{chance:.3f}"{facts}>'
            f"{markup.esc(piece.text or SILENT)}</span>"
        )
    return "".join(spans)


def _row(token: TokenProbability) -> list[object]:
    """A token's text, its probability, and the likeliest in its place."""
    rounded = [(other, round(probability, 4)) for other, probability in token.likeliest]
    return [token.text, round(token.probability, 4), rounded]


def _about(panes: Sequence[PaneState], index: int, path: Sequence[Turn]) -> str:
    reply = path[-1].replies.get(panes[index].number) if path else None
    if reply is None or not reply.tokens:
        return "&nbsp;"
    parts = [text.plural(reply.tokens, "token")]
    parts += [f"{reply.speed:.1f} tokens/s"] if reply.speed else []
    parts += [reply.made_with] if reply.made_with else []
    base = next((pane for pane in panes if pane.is_base), None)
    compared = path[-1].replies.get(base.number) if base is not None else None
    if compared is not None and compared.text and not panes[index].is_base:
        same = "same as the base" if reply.is_done and compared.is_done else "same as the base so far"
        parts.append(f"differs from the base at token {reply.differs_at}" if reply.differs_at else same)
    return " · ".join(f"<span>{markup.esc(part)}</span>" for part in parts)


def turns(conversation: Conversation, look: Look) -> str:
    """The messages of the conversation, with what can be done at each; nothing before the first."""
    path = conversation.path()
    if not conversation.turns:
        return ""
    rows = [_turn(at, turn, conversation, look) for at, turn in enumerate(path, 1)]
    ahead = conversation.ways(conversation.at)
    if ahead:
        target = path[-1].follower if path else ahead[-1].number
        words = text.plural(len(ahead), "way leads", "ways lead")
        button = _button("follow", target or ahead[-1].number, "Show what followed", "Show what followed", look)
        rows.append(f'<li class="ahead"><span class="said">{words} on from here.</span>{button}</li>')
    return f'<section aria-label="Messages"><ol class="turns">{"".join(rows)}</ol></section>'


def _turn(at: int, turn: Turn, conversation: Conversation, look: Look) -> str:
    number, question = turn.number, turn.question
    buttons = [
        _button("edit", number, "Edit", f"Edit message {at}", look),
        _button("retry", number, "Retry", f"Answer message {at} again with the next seed", look),
    ]
    if number != conversation.at:
        buttons.append(_button("back", number, "Continue from here", f"Continue from message {at}", look))
    return (
        f'<li><span class="said" title="{markup.esc(question)}">{markup.esc(question)}</span>'
        f'<span class="seed">seed {turn.seed}</span>{_switch(at, turn, conversation, look)}'
        f'<span class="acts">{"".join(buttons)}</span></li>'
    )


def _switch(at: int, turn: Turn, conversation: Conversation, look: Look) -> str:
    """`‹ 2 of 3 ›` where the conversation took several ways."""
    ways = conversation.ways(turn.parent)
    if len(ways) < 2:
        return ""
    place = ways.index(turn)
    before, after = ways[place - 1], ways[(place + 1) % len(ways)]
    return (
        f'<span class="ways">{_button("follow", before.number, "‹", f"Earlier branch at message {at}", look)}'
        f"<span>{place + 1} of {len(ways)}</span>"
        f"{_button('follow', after.number, '›', f'Later branch at message {at}', look)}</span>"
    )


def _button(act: str, turn: int, shown: str, name: str, look: Look) -> str:
    disabled = " disabled" if look.is_busy else ""
    return (
        f'<button type="button" class="as-button small plain" data-act="{act}" data-turn="{turn}" '
        f'aria-label="{markup.esc(name)}"{disabled}>{shown}</button>'
    )
