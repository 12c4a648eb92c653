"""How far each module moved, as a map: a row for each kind of module, a column for each layer, darker where more moved.

Colors alone tell nobody anything: the map has a legend with figures, each cell says its own when it is pointed at, what
is at fault has a sign and is named below, and so are the modules that moved most.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from core.analysis.appraisal import Module
from ui import markup, text

MOST_NAMED = 8
_LAYER = re.compile(r"(?:^|\.)(\d+)\.")  # the first number in a module's name is its block's
_SIGNS = {"unmoved": "○", "exploding": "▲", "not finite": "✕"}
_FAULTS = {"unmoved": "never moved", "exploding": "moved too far", "not finite": "holds numbers that are not finite"}


def heat(modules: Sequence[Module]) -> str:
    """The map with its legend and words; nothing where no module was measured."""
    if not modules:
        return ""
    inner = [(place, module) for module in modules if (place := _place(module.name)) is not None]
    layers = sorted({layer for (layer, _), _ in inner})
    outer = [module for module in modules if _place(module.name) is None]
    most = max((module.share for module in modules if module.share is not None and not module.fault), default=0.0)
    cells = {place: _cell(module, most) for place, module in inner}
    names = _short(list(dict.fromkeys(kind for (_, kind), _ in inner)))
    rows = "".join(
        f'<span class="heat-name">{markup.esc(short)}</span>'
        f'<span class="heat-row">{"".join(cells.get((layer, kind), _NO_CELL) for layer in layers)}</span>'
        for kind, short in names.items()
    )
    outer_names = _short([module.name for module in outer])
    others = "".join(
        f'<span class="heat-name">{markup.esc(outer_names[module.name])}</span>'
        f'<span class="heat-row">{_cell(module, most)}</span>'
        for module in outer
    )
    alone = f'<div class="heat alone" aria-hidden="true">{others}</div>' if outer else ""
    grid = f'<div class="heat" aria-hidden="true" style="--layers:{len(layers)}">{rows}{_numbers(layers)}</div>'
    return (
        '<h3>How far each module moved</h3><p class="card-hint">The change beside the weight that it changes, '
        f"‖ΔW‖ / ‖W₀‖</p>{grid if inner else ''}{alone}{_legend(most, modules)}{_words(modules)}"
    )


_NO_CELL = '<i class="none"></i>'


def _place(name: str) -> tuple[int, str] | None:
    """The number of a module's block, and what it is called in each; None outside the blocks."""
    found = _LAYER.search(name)
    return (int(found[1]), name[found.end() :]) if found else None


def _short(kinds: Sequence[str]) -> dict[str, str]:
    """The last part of each name, or all of it where two end alike."""
    ends = [kind.rpartition(".")[2] for kind in kinds]
    return {kind: end if ends.count(end) == 1 else kind for kind, end in zip(kinds, ends, strict=True)}


def _cell(module: Module, most: float) -> str:
    words = markup.esc(f"{module.name}: {_says(module)}")
    if module.fault:
        return f'<i class="{module.fault.replace(" ", "-")}" title="{words}">{_SIGNS[module.fault]}</i>'
    if module.share is None:
        return f'<i class="none" title="{words}"></i>'
    strength = 100 * module.share / most if most else 0.0
    return f'<i style="--heat:{strength:.0f}%" title="{words}"></i>'


def _says(module: Module) -> str:
    if module.unmeasured:
        return f"not measured: {module.unmeasured}"
    share = "" if module.share is None else text.share(module.share, 1)
    parts = [share or "its weight is zero"]
    if module.fault:
        parts = [_FAULTS[module.fault], "" if module.fault == "unmoved" else share]
    if module.unmoved_parts:
        parts.append(f"{module.unmoved_parts} of {module.parts} experts never moved")
    return ", ".join(part for part in parts if part)


def _numbers(layers: Sequence[int]) -> str:
    """Numbers below the first and the last column."""
    if not layers:
        return ""
    last = f"<span>{layers[-1]}</span>" if len(layers) > 1 else ""
    return f'<span class="heat-name">layer</span><span class="heat-ends"><span>{layers[0]}</span>{last}</span>'


def _legend(most: float, modules: Sequence[Module]) -> str:
    found = {module.fault for module in modules}
    signs = "".join(
        f'<span><i class="{fault.replace(" ", "-")}">{sign}</i>{_FAULTS[fault]}</span>'
        for fault, sign in _SIGNS.items()
        if fault in found
    )
    scale = f'<span>0<i class="scale"></i>{text.share(most, 1)}</span>' if most else ""
    return f'<p class="heat-legend">{scale}{signs}</p>'


def _words(modules: Sequence[Module]) -> str:
    """The map in words: what is at fault, else what moved most."""
    faulty = [module for module in modules if module.fault]
    unmeasured = sum(bool(module.unmeasured) for module in modules)
    parts = []
    if faulty:
        named = "".join(
            f"<li>{_SIGNS[module.fault]} <code>{markup.esc(module.name)}</code> {markup.esc(_says(module))}</li>"
            for module in faulty[:MOST_NAMED]
        )
        more = f"<li>and {len(faulty) - MOST_NAMED:,} more</li>" if len(faulty) > MOST_NAMED else ""
        parts.append(f'<ul class="at-fault">{named}{more}</ul>')
    ranked = sorted((module for module in modules if module.share), key=lambda module: -(module.share or 0.0))
    moved = ", ".join(f"<code>{markup.esc(module.name)}</code> {text.share(module.share or 0.0, 1)}"
                      for module in ranked[:2])  # fmt: skip
    if moved:
        least = f"; least, {text.share(ranked[-1].share or 0.0, 1)}" if len(ranked) > 2 else ""
        parts.append(f'<p class="card-hint">Moved most: {moved}{least}.</p>')
    idle = [module for module in modules if module.unmoved_parts and not module.fault]
    if idle:
        count = sum(module.unmoved_parts for module in idle)
        parts.append(f'<p class="card-hint">{text.plural(count, "expert")} never moved: no token came to them.</p>')
    if unmeasured:
        parts.append(f'<p class="card-hint">{text.plural(unmeasured, "module")} could not be measured.</p>')
    return "".join(parts)
