"""A dataset as the model will see it: how long its rows are, what the token limit cuts, and any row token by token.

The limit is a line in the histogram: `ui/static/data.js` lets it be dragged, or moved by the arrow keys, and writes it
to the setting.
"""

from __future__ import annotations

from collections.abc import Sequence

from core.data.tokens.profile import Cut, TokenProfile
from core.data.tokens.view import Piece
from jobs.service import TokenProfileView
from ui import markup, text

BINS = 48
_WIDTH, _HEIGHT, _BASE = 640, 132, 112  # the picture's units; the bars stand on the base
LONGEST_VIEW = 3000  # tokens of a row that are drawn
_NAMED = 8


def summary(profile: TokenProfile, cut: Cut, rows: int) -> str:
    """Exact totals, and what the limit takes away; of the rows counted so far."""
    so_far = "" if profile.is_whole else f" in the first {profile.rows_done:,} of {rows:,} rows"
    learned = f"{text.count(profile.total_trained)} of them learned"
    words = f"{text.count(profile.total_tokens)} tokens{so_far}, {learned}; the longest row has {profile.longest:,}."
    return f'<p class="token-totals">{markup.esc(words)}</p>{_cut(cut)}{_remarks(profile.remarks)}'


def lengths(profile: TokenProfile, limit: int) -> str:
    """How many rows have how many tokens, with the limit as a line."""
    if not profile.rows_done:
        return ""
    histogram = profile.histogram(BINS, max(profile.longest, min(limit, 2 * profile.longest)))
    last, most = int(histogram.edges[-1]), int(histogram.rows.max())
    bars = "".join(
        _bar(at, int(count), most, (int(histogram.edges[at]), int(histogram.edges[at + 1])), limit)
        for at, count in enumerate(histogram.rows)
        if count
    )
    place = _WIDTH * min(limit / last, 1.0)
    words = f"Token limit: {limit:,}"
    line = (
        f'<g class="limit" role="slider" tabindex="0" aria-label="Token limit" aria-valuemin="8" '
        f'aria-valuemax="{last}" aria-valuenow="{limit}" aria-valuetext="{words}" transform="translate({place:.1f} 0)">'
        f'<rect class="grip" x="-9" y="0" width="18" height="{_BASE}"/><line y1="0" y2="{_BASE}"/></g>'
    )
    marks = "".join(
        f'<text x="{_WIDTH * share:.0f}" y="{_HEIGHT - 4}" text-anchor="{anchor}">{last * share:,.0f}</text>'
        for share, anchor in ((0, "start"), (0.5, "middle"), (1, "end"))
    )
    return (
        f'<figure class="lengths"><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" data-last="{last}" '
        f'role="group" aria-label="Rows by their length in tokens">{bars}{line}{marks}</svg>'
        f"<figcaption>Rows by length in tokens. The line is the limit: drag it, or use the arrow keys. "
        f"<strong>{words}</strong></figcaption></figure>"
    )


def view(pieces: Sequence[Piece], source_row: int) -> str:
    """A row, token by token: what is learned is colored, what is special is named, what is cut is struck out."""
    drawn = "".join(_piece(piece) for piece in pieces[:LONGEST_VIEW])
    rest = len(pieces) - LONGEST_VIEW
    more = f'<p class="card-hint">{rest:,} more tokens</p>' if rest > 0 else ""
    learned = sum(piece.is_trained and not piece.is_cut for piece in pieces)
    kinds = (("trained", "learned"), ("special", "special token"), ("cut", "beyond the limit"))
    legend = "".join(f'<span class="tok {key}">{words}</span>' for key, words in kinds)
    total = f"Row {source_row:,}: {len(pieces):,} tokens, {learned:,} learned"
    return (
        f'<p class="token-legend">{legend}</p><p class="card-hint">{total}</p>'
        f'<div class="token-view" tabindex="0" aria-label="The tokens of row {source_row}">{drawn}</div>{more}'
    )


def state(found: TokenProfileView, rows: int) -> str:
    """Where the counting stands; nothing once it is done."""
    if found.state == "counting":
        done = found.profile.rows_done if found.profile is not None else 0
        bar = markup.progress(round(100 * found.share_done), 100, "How many rows are counted")
        return markup.loading(f"Counting tokens: {done:,} of {rows:,} rows") + bar
    if found.state == "absent":
        return f'<p class="card-hint">The tokens of {rows:,} rows are not counted yet; it may take minutes.</p>'
    return markup.banner(found.sentence) if found.state == "failed" else _hint(found.sentence)


def waits(has_dataset: bool) -> str:
    """What has to be chosen first."""
    what = "a base model, and check the settings marked below" if has_dataset else "a dataset and a base model"
    return _hint(f"Choose {what}: then each row is shown as the model will see it.")


def _hint(words: str) -> str:
    return f'<p class="card-hint">{markup.esc(words)}</p>' if words else ""


def _cut(cut: Cut) -> str:
    if not cut.rows_cut and not cut.rows_without_labels:
        return f'<p class="token-cut good">No row is longer than the limit of {cut.limit:,} tokens.</p>'
    parts = []
    if cut.rows_cut:
        lost = f"{text.count(cut.tokens_cut)} tokens go, {text.count(cut.trained_cut)} of them answers"
        named = _rows(cut.first_cut, cut.rows_cut)
        parts.append(f"{text.plural(cut.rows_cut, 'row')} cut at {cut.limit:,} tokens ({lost}): {named}")
    if cut.rows_without_labels:
        named = _rows(cut.first_without_labels, cut.rows_without_labels)
        parts.append(f"{text.plural(cut.rows_without_labels, 'row')} left with nothing to learn, and left out: {named}")
    return "".join(f'<p class="token-cut warn">{markup.esc(part)}.</p>' for part in parts)


def _rows(first: Sequence[int], count: int) -> str:
    named = ", ".join(f"{row:,}" for row in first[:_NAMED])
    return f"row{'s' if count > 1 else ''} {named}{' …' if count > _NAMED else ''}"


def _remarks(remarks: Sequence[str]) -> str:
    return "".join(map(_hint, remarks))


def _bar(at: int, count: int, most: int, span: tuple[int, int], limit: int) -> str:
    width = _WIDTH / BINS
    height = max(2.0, (_BASE - 8) * count / most)
    kind = "cut" if span[0] > limit else "kept"
    title = f"{span[0]:,} to {span[1] - 1:,} tokens: {text.plural(count, 'row')}"
    return (
        f'<rect class="{kind}" x="{at * width + 0.5:.1f}" y="{_BASE - height:.1f}" width="{width - 1:.1f}" '
        f'height="{height:.1f}"><title>{markup.esc(title)}</title></rect>'
    )


def _piece(piece: Piece) -> str:
    known = {"trained": piece.is_trained, "special": piece.is_special, "cut": piece.is_cut}
    kinds = [name for name, holds in known.items() if holds]
    words = markup.esc(piece.text).replace("\n", '<i class="line-end">↵</i>\n')
    part = f", part {piece.part} of {piece.parts}" if piece.parts > 1 else ""
    if piece.part > 1:
        words = '<i class="line-end">·</i>'
    return f'<span class="tok {" ".join(kinds)}" title="token {piece.id}{part}">{words}</span>'
