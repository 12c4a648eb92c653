"""Plain pictures of figures as SVG text: bars, shares and lines. The same figures give the same text.

They are small enough to be read in a diff and need no library. They bring their own light background, so that they can
be read on a dark page, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, MARGIN = 760, 16
LABELS, FIGURES = 330, 90  # the width left of the bars, and right of them
BAR, GAP, TITLE = 22, 10, 44
INK, FAINT, PAPER, LINE = "#1f2937", "#6b7280", "#ffffff", "#e5e7eb"
OURS, THEIRS = "#2563eb", "#9ca3af"
COLORS = ("#2563eb", "#f59e0b", "#10b981", "#8b5cf6", "#ef4444", "#9ca3af", "#14b8a6", "#64748b")
FONT = "font-family='system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar: its name, how long it is, what is written at its end, and whether it is ours."""

    label: str
    value: float
    text: str
    is_ours: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """What runs along an edge; with `is_log` each doubling is as wide as the next."""

    title: str
    is_log: bool = False


def bars(title: str, given: Sequence[Bar], mark: tuple[float, str] | None = None) -> str:
    """Horizontal bars from zero; `mark` draws a line at a value, with its name below."""
    longest = max([bar.value for bar in given] + ([mark[0]] if mark else []))
    room = WIDTH - 2 * MARGIN - LABELS - FIGURES
    parts, y = [_text(MARGIN, 28, title, size=16, weight=600)], TITLE
    for bar in given:
        long = room * bar.value / longest
        middle = y + BAR / 2 + 5
        parts += [
            _text(MARGIN + LABELS - 10, middle, bar.label, anchor="end"),
            _box(MARGIN + LABELS, y, max(long, 1), BAR, OURS if bar.is_ours else THEIRS),
            _text(MARGIN + LABELS + long + 8, middle, bar.text, weight=600 if bar.is_ours else 400),
        ]
        y += BAR + GAP
    if mark:
        x = MARGIN + LABELS + room * mark[0] / longest
        parts.append(_line([(x, TITLE - 6), (x, y)], INK, dashed=True))
        parts.append(_text(x, y + 14, mark[1], anchor="middle", color=FAINT, size=12))
        y += 20
    return _picture(parts, y + MARGIN)


def shares(title: str, rows: Mapping[str, Mapping[str, float]]) -> str:
    """One bar a row, each of the same length, divided by shares that are 1 together; a legend names the colors."""
    kinds = list(dict.fromkeys(kind for row in rows.values() for kind in row))
    colors = {kind: COLORS[index % len(COLORS)] for index, kind in enumerate(kinds)}
    left = 80
    room = WIDTH - 2 * MARGIN - left
    parts, y = [_text(MARGIN, 28, title, size=16, weight=600)], TITLE
    for label, row in rows.items():
        x = float(MARGIN + left)
        parts.append(_text(x - 10, y + BAR / 2 + 5, label, anchor="end"))
        for kind, share in row.items():
            wide = room * share
            parts.append(_box(x, y, wide, BAR, colors[kind]))
            if wide > 34:
                parts.append(_text(x + wide / 2, y + 16, f"{share:.0%}", anchor="middle", color=PAPER, size=12))
            x += wide
        y += BAR + GAP
    return _picture([*parts, *_legend(kinds, colors, y + 4)], y + 24 * _legend_lines(kinds) + MARGIN)


def lines(title: str, x: Axis, y_title: str, given: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Lines through points, from zero upwards; each point has a dot. The first line is solid, others are dashed."""
    frame = _Frame.around(x, [point for line in given.values() for point in line])
    colors = {name: COLORS[index] for index, name in enumerate(given)}
    parts = [_text(MARGIN, 28, title, size=16, weight=600), _text(MARGIN, TITLE + 2, y_title, color=FAINT, size=12)]
    parts += frame.drawn()
    for name, line in given.items():
        spots = [frame.spot(point) for point in line]
        parts.append(_line(spots, colors[name], wide=2.5, dashed=name != next(iter(given))))
        parts += [f"<circle cx='{a:.1f}' cy='{b:.1f}' r='3.5' fill='{colors[name]}'/>" for a, b in spots]
    if len(given) == 1:
        return _picture(parts, frame.bottom + 38 + MARGIN)
    legend = frame.bottom + 52
    return _picture([*parts, *_legend(list(given), colors, legend)], legend + 24 * _legend_lines(list(given)) + MARGIN)


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """Where points lie: `places` along the axis `x`, and from zero to `ceiling` upwards, in steps of `step`."""

    x: Axis
    places: tuple[float, ...]
    ceiling: float
    step: float
    left = MARGIN + 56.0
    right = WIDTH - MARGIN - 20.0
    top = TITLE + 12.0
    bottom = TITLE + 252.0

    @classmethod
    def around(cls, x: Axis, points: Sequence[tuple[float, float]]) -> _Frame:
        ceiling, step = _round_up(max(value for _, value in points))
        return cls(x=x, places=tuple(sorted({at for at, _ in points})), ceiling=ceiling, step=step)

    def spot(self, point: tuple[float, float]) -> tuple[float, float]:
        low, high, at = (self._along(place) for place in (self.places[0], self.places[-1], point[0]))
        share = (at - low) / (high - low) if high > low else 0.5
        up = (self.bottom - self.top) * point[1] / self.ceiling
        return self.left + (self.right - self.left) * share, self.bottom - up

    def _along(self, place: float) -> float:
        return math.log(place) if self.x.is_log else place

    def drawn(self) -> list[str]:
        """The levels, and the names of all places."""
        parts = []
        for index in range(round(self.ceiling / self.step) + 1):
            level = self.spot((self.places[0], index * self.step))[1]
            parts.append(_line([(self.left, level), (self.right, level)], LINE))
            parts.append(_text(self.left - 8, level + 4, f"{index * self.step:g}", anchor="end", color=FAINT, size=12))
        for place in self.places:
            along = self.spot((place, 0))[0]
            parts.append(_text(along, self.bottom + 18, f"{place:,g}", anchor="middle", color=FAINT, size=12))
        middle = (self.left + self.right) / 2
        return [*parts, _text(middle, self.bottom + 38, self.x.title, anchor="middle", color=FAINT, size=12)]


def _round_up(highest: float) -> tuple[float, float]:
    """A round number from `highest` on, and the step that divides it into at most six parts."""
    step = 10.0 ** math.floor(math.log10(highest))
    step = next(step * part for part in (0.2, 0.25, 0.5, 1, 2) if highest / (step * part) <= 6)
    return math.ceil(highest / step) * step, step


def _legend(names: Sequence[str], colors: Mapping[str, str], y: float) -> list[str]:
    parts = []
    for index, name in enumerate(names):
        x, line = MARGIN + (index % 4) * 180, y + 24 * (index // 4)
        parts += [_box(x, line, 12, 12, colors[name]), _text(x + 18, line + 11, name, size=12)]
    return parts


def _legend_lines(names: Sequence[str]) -> int:
    return -(-len(names) // 4)


def _text(
    x: float, y: float, words: str, *, size: int = 13, weight: int = 400, anchor: str = "start", color: str = INK
) -> str:
    style = f"font-size='{size}' font-weight='{weight}' text-anchor='{anchor}' fill='{color}'"
    return f"<text x='{x:.1f}' y='{y:.1f}' {style}>{escape(words)}</text>"


def _box(x: float, y: float, wide: float, high: float, color: str) -> str:
    return f"<rect x='{x:.1f}' y='{y:.1f}' width='{wide:.1f}' height='{high}' rx='2' fill='{color}'/>"


def _line(points: Sequence[tuple[float, float]], color: str, *, wide: float = 1, dashed: bool = False) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashes = " stroke-dasharray='5 4'" if dashed else ""
    return f"<polyline points='{path}' fill='none' stroke='{color}' stroke-width='{wide}'{dashes}/>"


def _picture(parts: Sequence[str], high: float) -> str:
    size = f"width='{WIDTH}' height='{high:.0f}' viewBox='0 0 {WIDTH} {high:.0f}'"
    paper = f"<rect width='{WIDTH}' height='{high:.0f}' rx='8' fill='{PAPER}'/>"
    body = "\n".join((paper, *parts))
    return f"<svg xmlns='http://www.w3.org/2000/svg' {size} {FONT}>\n{body}\n</svg>\n"
