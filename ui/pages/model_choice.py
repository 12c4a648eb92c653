"""What is offered as a base model, and what is said of one: words for `service.models`.

A model's facts are a `.model-facts`, with a `.banner` where something is in the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from jobs.service import ModelChoice, ModelFacts
from ui import markup, text

_GROUPS = {"trained": "trained here", "folder": "folder", "hub": "downloaded before"}


def options(choices: Sequence[ModelChoice], now: datetime) -> list[tuple[str, str]]:
    """What a menu shows for each choice, and the name that stands for it in a config."""
    return [(_label(choice, now), choice.ref) for choice in choices]


def facts(known: ModelFacts) -> str:
    """What is known of a base model, what is in the way of using it, and what to do about that."""
    parts = [known.source.title]
    parts += [known.architecture] if known.architecture else []
    parts += [f"{text.count(known.parameters)} parameters"] if known.parameters is not None else []
    parts += [_size(known)]
    parts += [f"licence {known.licence}"] if known.licence else []
    parts += ["gated"] if known.is_gated else []
    line = f'<p class="model-line">{" · ".join(markup.esc(part) for part in parts)}</p>'
    if known.url:
        url = markup.esc(known.url)
        line += f'<p class="card-hint">Its page: <a href="{url}" rel="noreferrer">{url}</a></p>'
    if known.remark:
        line += f'<p class="card-hint">{markup.esc(known.remark)}.</p>'
    if known.problem is not None:
        line += markup.banner(known.problem.title, known.problem.detail, known.problem.hint)
    return f'<div class="model-facts">{line}</div>'


def _size(known: ModelFacts) -> str:
    size = f"{text.size(known.bytes)} " if known.bytes is not None else ""
    if known.is_here:
        return f"{size}on this machine"
    return f"{size}to download when the run starts" if size else "downloaded when the run starts"


def _label(choice: ModelChoice, now: datetime) -> str:
    words = [choice.title]
    if choice.used_at is not None:
        words.append(f"used by {choice.run_name}, {text.ago(choice.used_at, now)}")
    elif choice.group in _GROUPS:
        words.append(_GROUPS[choice.group])
    if choice.problem:
        words.append("no longer there")
    elif not choice.is_here:
        words.append("not on this machine yet")
    return " · ".join(words)
