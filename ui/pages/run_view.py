"""How a run looks: pure functions from what the service and the story know to HTML."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from core.events import Finished
from jobs.service import ENDED_STATES, Run
from ui import forms, markup, text
from ui.story import Story


def head(run: Run) -> str:
    """The run's name, state and what it trains."""
    what = f"{run.dataset_name} → {text.base_model(run.config.base_model)} · rank {run.config.lora.rank}"
    return (
        f'<div class="run-head"><a class="back" href="/runs">All runs</a><h1>{markup.esc(run.name)}'
        f'<span id="run-state" data-state="{markup.esc(run.state)}">{markup.chip(run.state)}</span></h1>'
        f"<p>{markup.esc(what)}</p></div>"
    )


def progress(run: Run, story: Story, now: datetime) -> str:
    """The bar, the phase or step, and the times; the error card where the run failed."""
    words = _progress_words(run, story)
    bar = markup.progress(story.step, story.steps, "Steps done")
    if run.state in ("preparing", "queued"):
        bar = bar.replace('class="progress"', 'class="progress waiting"')
    times = " · ".join(markup.esc(part) for part in _times(run, story, now))
    return f'{problem(run)}{bar}<p class="progress-words"><span>{markup.esc(words)}</span><span>{times}</span></p>'


def problem(run: Run) -> str:
    """Why it failed and what to do; nothing where it did not."""
    if run.error is None or run.state not in ENDED_STATES:
        return ""
    return markup.banner(run.error.title, run.error.detail, run.error.hint)


def tiles(run: Run, story: Story) -> str:
    """The figures of the moment, or of the end."""
    last, curve = story.last, story.evaluation
    first = curve.y[0] if curve.y and curve.x[0] == 0 else None
    newest = curve.y[-1] if len(curve.y) > 1 else None
    smoothed = sum(story.loss.y[-10:]) / len(story.loss.y[-10:]) if story.loss.y else None
    speed = story.end.tokens_per_second if isinstance(story.end, Finished) else story.tokens_per_second
    peak = max(story.process_memory.y, default=0)
    device = max(story.device_memory.y, default=0)
    rows = [
        ("Training loss", text.loss(smoothed), "mean of the last 10 steps" if smoothed is not None else "no step yet"),
        ("Held-out loss", text.loss(newest if newest is not None else first), _evaluation_note(first, newest)),
        (
            "Tokens a second",
            f"{speed:,.0f}" if speed else "–",
            f"{text.count(last.tokens)} tokens {'in all' if run.has_ended else 'so far'}" if last else "",
        ),
        (
            "Memory",
            text.size(peak) if peak else "–",
            f"{text.size(device)} on the device" if device else "process, at its peak",
        ),
    ]
    return markup.tiles(rows)


def verdict(run: Run, story: Story) -> str:
    """One sentence on what the run has learned, once it is over."""
    end = story.end
    if run.state != "finished" or not isinstance(end, Finished):
        return ""
    if end.eval_loss is None or end.base_eval_loss is None:
        return '<p class="verdict">Done. No rows were held out, so nothing measured what it learned.</p>'
    learned = end.eval_loss < end.base_eval_loss
    words = "It learned" if learned else "It did not learn: the held-out loss did not fall"
    figures = f"{text.loss(end.base_eval_loss)} → {text.loss(end.eval_loss)} on rows it never saw"
    stopped = " It was stopped early." if end.stopped else ""
    return f'<p class="verdict{"" if learned else " bad"}"><strong>{words}:</strong> {figures}.{stopped}</p>'


def settings(run: Run, story: Story) -> str:
    """The run's own settings, as it was launched, and what the engine made of them."""
    shown = forms.values(run.config, ())
    pairs = [("Dataset", run.dataset_name), ("Base model", text.base_model(run.config.base_model))]
    pairs += [(row.label, _setting_words(run, row, shown[row.path])) for row in forms.SETTINGS]
    if run.config.optim.learning_rate is None and story.learning_rate.y:
        pairs.append(("Highest learning rate", text.number(float(f"{max(story.learning_rate.y):.3g}"))))
    if story.started:
        start = story.started
        rows = f"{start.train_rows:,} trained, {start.eval_rows:,} held out"
        trained = f"{text.count(start.trainable_parameters)} of {text.count(start.base_parameters)}"
        pairs += [
            ("Rows", rows),
            ("Trainable parameters", trained),
            ("Device", f"{start.device}, {start.compute_dtype}"),
        ]
    return markup.facts([*pairs, ("Run id", run.id)])


def timeline(story: Story) -> str:
    """Phases and notes in order."""
    phases = [line.partition("\t") for line in story.phases]
    items = [
        f"<li><strong>{markup.esc(text.PHASE_WORDS.get(name, name))}</strong> {markup.esc(detail)}</li>"
        for name, _, detail in phases
    ]
    items += [f'<li class="note">{markup.esc(note)}</li>' for note in story.notes]
    if story.saved_step is not None:
        items.append(f"<li><strong>Checkpoint</strong> saved after step {story.saved_step:,}</li>")
    return f'<ul class="timeline">{"".join(items)}</ul>' if items else '<p class="card-hint">Nothing yet.</p>'


def run_list(runs: Sequence[tuple[Run, Story]], now: datetime) -> str:
    """All runs as links, newest first."""
    return f'<ul class="run-list">{"".join(_run_item(run, story, now) for run, story in runs)}</ul>'


def _run_item(run: Run, story: Story, now: datetime) -> str:
    return (
        f'<li><a href="/runs?run={markup.esc(run.id)}"><span class="run-name"><strong>{markup.esc(run.name)}</strong>'
        f"<small>{markup.esc(run.dataset_name)} → {markup.esc(text.base_model(run.config.base_model))}</small></span>"
        f"{markup.chip(run.state)}{markup.sparkline(story.loss.y)}"
        f'<span class="run-figure">{markup.esc(_figure(run, story))}</span>'
        f'<span class="run-when">{markup.esc(text.ago(run.created_at, now))}</span></a></li>'
    )


def _figure(run: Run, story: Story) -> str:
    if run.state in ("running", "stopping") and story.steps:
        return f"step {story.step:,} of {story.steps:,}"
    if len(story.evaluation.y) > 1:
        return f"{text.loss(story.evaluation.y[0])} → {text.loss(story.evaluation.y[-1])}"
    return f"{text.plural(story.step, 'step')}" if story.step else ""


def _progress_words(run: Run, story: Story) -> str:
    if run.state == "queued":
        return "Waiting for its turn"
    if story.steps and (story.step or run.state != "preparing"):
        return f"Step {story.step:,} of {story.steps:,}"
    if story.phase and not run.has_ended:
        detail = f": {story.phase.detail}" if story.phase.detail else ""
        return f"{text.PHASE_WORDS.get(story.phase.phase, story.phase.phase)}{detail}"
    return "Starting the worker" if not run.has_ended else "No step was made"


def _times(run: Run, story: Story, now: datetime) -> list[str]:
    if run.started_at is None:
        return []
    until = text.aware(run.ended_at) if run.ended_at else now
    parts = [f"{text.duration((until - text.aware(run.started_at)).total_seconds())} elapsed"]
    left = story.seconds_left
    if run.state == "running" and left is not None:
        parts.append(f"about {text.duration(left)} left")
    return parts


def _evaluation_note(first: float | None, newest: float | None) -> str:
    if first is None:
        return "no rows held out, or not measured yet"
    return f"base model: {text.loss(first)}" if newest is not None else "the base model, before training"


def _setting_words(run: Run, setting: forms.Setting, value: object) -> str:
    if setting.path == forms.TARGETS:
        return text.targets(run.config.lora.targets)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value == "":
        return setting.unset
    if isinstance(value, float):
        return text.number(value)
    return {choice: words for words, choice in setting.choices}.get(value, str(value))
