"""Small pieces of HTML. Every text that comes in is escaped here; what goes out may be put into a `gr.HTML`."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from ui import text


def esc(value: object) -> str:
    """`value` as text that no browser takes for markup, in an attribute neither."""
    return html.escape(str(value), quote=True)


def chip(state: str) -> str:
    """A run's state as a colored word."""
    return f'<span class="chip {esc(state)}">{esc(text.STATE_WORDS.get(state, state))}</span>'


def heading(title: str, hint: str = "", number: int | None = None) -> str:
    """A card's heading, with its number where the cards are steps."""
    step = f'<span class="step-number">{number}</span>' if number else ""
    more = f'<p class="card-hint">{esc(hint)}</p>' if hint else ""
    return f'<div class="card-head"><h2>{step}{esc(title)}</h2>{more}</div>'


def page_heading(title: str, hint: str = "") -> str:
    """The page's own heading."""
    more = f"<p>{esc(hint)}</p>" if hint else ""
    return f'<div class="page-head"><h1>{esc(title)}</h1>{more}</div>'


def banner(title: str, detail: str = "", hint: str = "") -> str:
    """What went wrong, where, and what to do."""
    parts = [f"<strong>{esc(title)}</strong>"]
    parts += [f"<span>{esc(detail)}</span>"] if detail else []
    parts += [f'<span class="what-to-do">{esc(hint)}.</span>'] if hint else []
    return f'<div class="banner" role="alert">{"".join(parts)}</div>'


def empty(title: str, hint: str, link: str = "", link_text: str = "") -> str:
    """A page that has nothing to show yet, and the one click that changes it."""
    action = f'<a class="as-button primary" href="{esc(link)}">{esc(link_text)}</a>' if link else ""
    return f'<div class="empty"><h2>{esc(title)}</h2><p>{esc(hint)}</p>{action}</div>'


def loading(what: str) -> str:
    """A page or a part of it that is on its way."""
    return f'<div class="loading" role="status"><span class="spinner"></span>{esc(what)}</div>'


def tile(label: str, value: str, note: str = "") -> str:
    """One figure with its name."""
    more = f'<span class="tile-note">{esc(note)}</span>' if note else ""
    return (
        f'<div class="tile"><span class="tile-label">{esc(label)}</span>'
        f'<span class="tile-value">{esc(value)}</span>{more}</div>'
    )


def tiles(rows: Iterable[tuple[str, str, str]]) -> str:
    """Figures side by side."""
    return f'<div class="tiles">{"".join(tile(*row) for row in rows)}</div>'


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and values, one pair a line."""
    rows = "".join(f"<div><dt>{esc(name)}</dt><dd>{esc(value)}</dd></div>" for name, value in pairs)
    return f'<dl class="facts">{rows}</dl>'


def progress(done: int, total: int, label: str) -> str:
    """A bar that a screen reader can read as well."""
    percent = min(100.0, 100 * done / total) if total else 0.0
    return (
        f'<div class="progress" role="progressbar" aria-label="{esc(label)}" aria-valuemin="0" '
        f'aria-valuemax="{total}" aria-valuenow="{done}"><span style="width:{percent:.2f}%"></span></div>'
    )


def sparkline(values: Sequence[float]) -> str:
    """A curve without axes, from at least two values; drawn in the current text color."""
    if len(values) < 2:
        return '<span class="sparkline"></span>'
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    across = 96 / (len(values) - 1)
    points = " ".join(f"{2 + at * across:.1f},{24 - 20 * (value - low) / span:.1f}" for at, value in enumerate(values))
    return (
        '<svg class="sparkline" viewBox="0 0 100 28" preserveAspectRatio="none" aria-hidden="true">'
        f'<polyline points="{points}"/></svg>'
    )
