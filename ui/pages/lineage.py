"""Where an adapter is from, in a line: a file, a folder, the hub, or other adapters."""

from __future__ import annotations

from collections.abc import Collection

from core.adapters.ways import WAYS
from jobs.service import Origin
from ui import markup, text


def line(origin: Origin, ids: Collection[str]) -> str:
    """Where an adapter without a run is from, in a line; a parent among `ids` can be followed."""
    if origin.kind == "trained":
        return ""
    parents = [
        f'<a href="/library?find={markup.esc(parent.id)}">{markup.esc(parent.name)}</a>'
        if parent.id in ids
        else markup.esc(parent.name)
        for parent in origin.parents
    ]
    if origin.kind == "uploaded":
        words = f"from {markup.esc(origin.place)}"
    elif origin.kind == "shrunk":
        wanted = f"rank {origin.rank}" if origin.rank else f"{_share(origin.target_energy)} of each change"
        words = f"{parents[0]} at {wanted}{_kept(origin)}"
    else:
        weights = (text.number(parent.weight) for parent in origin.parents)
        words = " + ".join(f"{weight} × {parent}" for weight, parent in zip(weights, parents, strict=True))
        words += f" · {_way(origin)}{_kept(origin) if origin.how != 'concat' else ''}"
    return f'<p class="lineage">{words}</p>'


def _way(origin: Origin) -> str:
    if origin.how == "concat":
        return "exact sum"
    if origin.how == "svd":
        return f"sum at rank {origin.rank}"
    density = f", density {text.number(origin.density)}" if origin.density is not None else ""
    return f"{WAYS[origin.how].title}, rank {origin.rank}{density}"


def _kept(origin: Origin) -> str:
    return f", keeps {_share(origin.energy)} of the energy" if origin.energy is not None else ""


def _share(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.4g} %"
