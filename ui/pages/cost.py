"""What a run will cost, as pieces of HTML: memory by part beside what was measured, time, disk, and what would help.

Pure functions from what `jobs.service` answers. A part of the bar is told by its words and its figure beside it as much
as by its color. A fix's button carries its changes as JSON in `data-changes`; whoever puts it into a page listens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from jobs.service import Cost, Fix, Memory, ProbeView
from ui import markup, text

PART_WORDS = {
    "weights": ("Weights", "the base model, frozen or not"),
    "adapter": ("Adapter", "what is trained beside it, in fp32"),
    "gradients": ("Gradients", "one number for each that is trained"),
    "optimizer": ("Optimizer", "AdamW's two moments of each"),
    "activations": ("Activations", "what the backward pass needs of the rows that go through at once"),
    "logits": ("Logits", "a score for every word of the vocabulary, a few positions at a time"),
    "process": ("Process", "Python, torch and their libraries"),
}
FIT_WORDS = {
    "fits": "Fits",
    "tight": "Fits if the estimate is right; a trial step tells",
    "does not fit": "Does not fit",
    "unknown": "Whether it fits is not known",
}
PROBE_PHASES = {
    **text.PHASE_WORDS,
    "starting": "Starting",
    "trying": "Taking a trial step on the longest rows",
}


def cost_html(cost: Cost | None) -> str:
    """All of it; where the base model is not here yet, that."""
    if cost is None:
        return _hint("Known once the base model is on this machine.")
    parts = [memory_bar(cost.memory), probe_html(cost.probe), markup.facts(facts(cost)), fixes_html(cost.fixes)]
    return f'<section class="cost" aria-label="What it will cost">{"".join(parts)}</section>'


def memory_line(memory: Memory) -> str:
    """`1.6 GB of 18 GB free, measured`; `12 GB where 9.0 GB are free, estimated`."""
    free = "" if memory.free_bytes is None else f" of {text.size(memory.free_bytes)} free"
    if memory.fit == "does not fit" and memory.free_bytes is not None:
        free = f" where {text.size(memory.free_bytes)} are free"
    where = " on the GPU" if memory.is_on_gpu else ""
    return f"{text.size(memory.bytes)}{free}{where}, {memory.how}"


def memory_bar(memory: Memory) -> str:
    """The parts beside each other on the scale of what is free, and under them a line for each."""
    parts = [(name, size) for name, size in _parts(memory) if size]
    whole = max(memory.bytes, sum(size for _, size in parts), memory.free_bytes or 0) or 1
    spans = "".join(
        f'<span class="cost-part {name}" style="width:{100 * size / whole:.2f}%"></span>' for name, size in parts
    )
    verdict = f"<strong>{markup.esc(FIT_WORDS[memory.fit])}</strong>"
    head = f'<p class="cost-head {memory.fit.replace(" ", "-")}">{verdict} {markup.esc(memory_line(memory))}</p>'
    marks = _marks(memory, whole)
    bar = f'<div class="cost-bar" role="img" aria-label="{markup.esc(_said(memory, parts))}">{spans}{marks}</div>'
    return head + bar + _table(parts)


def probe_html(probe: ProbeView) -> str:
    """Where the trial step stands, in a sentence."""
    if probe.state == "going on":
        detail = f" ({probe.detail})" if probe.detail else ""
        return markup.loading(f"{PROBE_PHASES.get(probe.phase, probe.phase)}{detail} …")
    if probe.state == "failed":
        return markup.banner("The trial step did not finish", probe.sentence)
    if probe.state == "absent" or probe.figures is None:
        return _hint("A trial step takes the longest rows through once and measures memory and time.")
    figures = probe.figures
    beside = " A run went on beside it, so it was slower than it will be." if figures.is_beside_run else ""
    words = (
        f"Measured on a batch of {text.plural(figures.tokens, 'token')} (rows of up to {figures.longest:,}): "
        f"{text.size(figures.peak_bytes)} at the peak, {figures.seconds:.1f} s a step, "
        f"{figures.tokens_per_second:.0f} tokens a second.{beside}"
    )
    return _hint(words)


def facts(cost: Cost) -> list[tuple[str, str]]:
    """Time and disk, each with where its figure comes from."""
    duration, disk = cost.duration, cost.disk
    if duration.seconds is None:
        time = duration.sentence[:1].upper() + duration.sentence[1:]
    else:
        time = f"about {text.duration(duration.seconds)} for {text.plural(duration.steps, 'step')}, {duration.sentence}"
    room = f"up to {text.size(disk.needed_bytes)} of {text.size(disk.free_bytes)} free, estimated"
    return [("Time", time), ("Disk", room if disk.fits else f"Does not fit: {room}")]


def fixes_html(fixes: Iterable[Fix]) -> str:
    """What would make it smaller, each with a button; nothing where there is nothing to offer."""
    rows = "".join(map(_fix, fixes))
    if not rows:
        return ""
    return f'<h3 class="cost-fixes-head">What would make it smaller</h3><ul class="cost-fixes">{rows}</ul>'


def _fix(fix: Fix) -> str:
    changes = markup.esc(json.dumps(dict(fix.changes)))
    enough = "fits then" if fix.is_enough else "not enough by itself"
    takes = f"{text.size(fix.total_bytes)}, estimated; {enough}"
    return (
        f'<li><button class="as-button small" type="button" data-changes="{changes}">{markup.esc(fix.title)}</button>'
        f'<span>{markup.esc(fix.sentence)}.</span> <span class="cost-takes">{markup.esc(takes)}</span></li>'
    )


def _parts(memory: Memory) -> list[tuple[str, int]]:
    parts = list(memory.estimate.parts.items())
    return [(name, size) for name, size in parts if not (memory.is_on_gpu and name == "process")]


def _marks(memory: Memory, whole: int) -> str:
    """Lines at what was measured and at what is free."""
    places = [("measured", memory.measured_bytes), ("free", memory.free_bytes)]
    return "".join(
        f'<i class="cost-mark {name}" style="left:{min(100.0, 100 * size / whole):.2f}%"></i>'
        for name, size in places
        if size is not None
    )


def _said(memory: Memory, parts: list[tuple[str, int]]) -> str:
    """What the bar shows, as a sentence."""
    words = ", ".join(f"{PART_WORDS[name][0].lower()} {text.size(size)}" for name, size in parts)
    return f"Estimated: {words}. In all {memory_line(memory)}."


def _table(parts: list[tuple[str, int]]) -> str:
    rows = "".join(
        f'<tr><th scope="row"><i class="cost-key {name}" aria-hidden="true"></i>{PART_WORDS[name][0]}</th>'
        f'<td class="cost-figure">{text.size(size)}</td><td>{PART_WORDS[name][1]}</td></tr>'
        for name, size in parts
    )
    return (
        '<details class="cost-table"><summary>By part, estimated</summary>'
        f'<table><caption class="visually-hidden">Memory by part, estimated</caption>{rows}</table></details>'
    )


def _hint(words: str) -> str:
    return f'<p class="card-hint">{markup.esc(words)}</p>'
