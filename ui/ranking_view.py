"""Who wins, as HTML: a sentence, and a row for each contestant with its win rate and its rating drawn. Every text is
escaped here. A base is gray, who answers in a pane has the pane's color, and others one of those that are left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

from jobs.service import votes
from ui import charts, markup, text
from ui.ballots import named
from ui.panes import COLORS

_HEADS = ("Who", "Votes", "Wins", "Ties", "Win rate", "Rating")
_LEGEND = (
    "Win rate: the share of its votes that each won, a tie half. Rating: strength on Elo's scale, where 400 points are "
    "odds of 10 to 1. The thin lines hold the truth 95 times in 100."
)


def ranking(
    ranked: Sequence[votes.Ranked], versus: votes.Versus | None, name: str, shown: Mapping[votes.Identity, str]
) -> str:
    """All of it; without votes, what to do. `shown` are the colors of those who answer in panes."""
    if not ranked or versus is None:
        of = f" on {name}" if name else ""
        return (
            f'<div class="empty small"><h2>There are no votes{markup.esc(of)} yet</h2><p>Ask two panes or more '
            "something, and say whose answer is the best; with Blind on, without knowing whose it is.</p></div>"
        )
    low = min(each.standing.rating_low for each in ranked)
    high = max(each.standing.rating_high for each in ranked)
    colors = _colors(ranked, shown)
    head = "".join(f'<th scope="col">{words}</th>' for words in _HEADS)
    rows = "".join(_row(each, color, low, high) for each, color in zip(ranked, colors, strict=True))
    return (
        f'<p class="ranking-says">{markup.esc(sentence(versus))}</p>'
        f'<table class="ranking"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
        f'<p class="card-hint">{_LEGEND}</p>'
    )


def sentence(versus: votes.Versus) -> str:
    """What the votes say of the two that matter most, and no more than they say."""
    one, other, found = named(versus.one), named(versus.other), versus.figures
    if not found.votes:
        return f"No vote says anything between {one} and {other}."
    rate, low, high = found.rate, found.low, found.high
    if found.more == 0 and rate < 0.5:
        one, other, rate, low = other, one, 1 - rate, 1 - high
    share, count = f"{100 * rate:.0f} %", text.plural(found.votes, "vote")
    if found.more == 0:
        return f"{one} is better than {other}: {share} of {count}, at least {100 * low:.0f} %."
    reach = f"{100 * low:.0f} to {100 * high:.0f} %"
    words = f"Not enough votes to tell {one} from {other}: {share} of {count} for {one} may mean anything from {reach}"
    if found.more is None:
        return f"{words}. At such a share not even 1,000 more would tell."
    return f"{words}. If the share stays as it is, {text.plural(found.more, 'more vote', 'more votes')} will tell."


def _colors(ranked: Sequence[votes.Ranked], shown: Mapping[votes.Identity, str]) -> list[str]:
    """Those who are in no pane get theirs by key, so that nobody's color changes with its place."""
    series = cycle([color for color in COLORS if color not in shown.values()] or COLORS)
    others = sorted(
        each.contestant.identity
        for each in ranked
        if not votes.is_base(each.contestant) and each.contestant.identity not in shown
    )
    by_key = dict(zip(others, series, strict=False)) | dict(shown)
    return [by_key.get(each.contestant.identity, charts.GRAY) for each in ranked]


def _row(each: votes.Ranked, color: str, low: float, high: float) -> str:
    at, contestant = each.standing, each.contestant
    mark = f" <code>#{markup.esc(contestant.fingerprint[:4])}</code>" if contestant.fingerprint else ""
    rate = _drawn(at.rate, at.rate_low, at.rate_high, is_bar=True)
    span = (high - low) or 1.0
    rating = _drawn(*((value - low) / span for value in (at.rating, at.rating_low, at.rating_high)), is_bar=False)
    share = f"{100 * at.rate:.0f} %"
    reach = f"{100 * at.rate_low:.0f} to {100 * at.rate_high:.0f} %"
    figures = "".join(
        f'<td data-head="{head}">{value:,}</td>'
        for head, value in (("Votes", at.votes), ("Wins", at.wins), ("Ties", at.ties))
    )
    return (
        f'<tr style="--series:{color}"><th scope="row"><i class="dot"></i>{markup.esc(named(contestant))}{mark}</th>'
        f"{figures}"
        f'<td data-head="Win rate" class="drawn-cell">{rate}<span>{share} <small>{reach}</small></span></td>'
        f'<td data-head="Rating" class="drawn-cell">{rating}<span>{at.rating:.0f} '
        f"<small>{at.rating_low:.0f} to {at.rating_high:.0f}</small></span></td></tr>"
    )


def _drawn(value: float, low: float, high: float, is_bar: bool) -> str:
    """A bar from the left, or a dot, with a whisker; all are shares of the width."""
    mark = f'<i class="{"bar" if is_bar else "point"}" style="--at:{100 * value:.1f}%"></i>'
    half = '<i class="half"></i>' if is_bar else ""
    whisker = f'<i class="whisker" style="--from:{100 * low:.1f}%;--to:{100 * high:.1f}%"></i>'
    return f'<span class="drawn-rate" aria-hidden="true">{half}{mark}{whisker}</span>'
