"""How a run looks: pure functions from what the service and the story know to HTML."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from core.events import Finished, Started
from jobs.service import RESUMABLE_STATES, Run, Summary
from ui import markup, text
from ui.pages import queue
from ui.story import Story

_METHOD_TILES = {"lora": "LoRA", "full": "Full", "bitfit": "BitFit"}


def head(run: Run, names_device: bool = False) -> str:
    """The run's name, state and what it trains; where, if there are several devices."""
    config = run.config
    method = f"rank {config.lora.rank}" if config.method == "lora" else text.METHOD_WORDS[config.method]
    what = f"{queue.what(run)} · {method}{_on_device(run, names_device)}"
    return (
        f'<div class="run-head"><a class="back" href="/runs">All runs</a><h1>{markup.esc(run.name)}'
        f'<span id="run-state" data-state="{markup.esc(run.state)}">{markup.chip(run.state)}</span></h1>'
        f"<p>{markup.esc(what)}</p>{tags(run)}{_note(run)}</div>"
    )


def tags(run: Run) -> str:
    """The run's tags; nothing where it has none."""
    shown = "".join(f'<span class="tag">{markup.esc(tag)}</span>' for tag in run.tags)
    return f'<span class="tags">{shown}</span>' if shown else ""


def _note(run: Run) -> str:
    return f'<p class="run-note">{markup.esc(run.note)}</p>' if run.note else ""


def progress(run: Run, story: Story, now: datetime, waits: str = "Waiting for its turn") -> str:
    """The bar, the phase or step, and the times; the error card where the run failed, and what can be done where it
    rests. `waits` is what a queued run waits for.
    """
    words = waits if run.state == "queued" else _progress_words(run, story)
    bar = markup.progress(story.step, story.steps, "Steps done")
    if run.state in ("preparing", "queued"):
        bar = bar.replace('class="progress"', 'class="progress waiting"')
    times = " · ".join(markup.esc(part) for part in _times(run, story, now))
    return (
        f'{problem(run)}{bar}<p class="progress-words"><span>{markup.esc(words)}</span><span>{times}</span></p>'
        f"{_what_next(run)}"
    )


def result_word(run: Run) -> str:
    """What the run makes."""
    return "model" if run.config.method == "full" else "adapter"


def _what_next(run: Run) -> str:
    """What can be done with a run that rests unfinished."""
    if run.state not in RESUMABLE_STATES:
        return ""
    step, result = run.checkpoint_step, result_word(run)
    if step is None:
        saved = "It had saved no checkpoint: Resume begins with the first step."
    elif run.state == "paused":
        saved = f"Resume goes on after step {step:,}. Keep makes the {result} of what was learned until then."
    else:
        saved = (
            f"What it had learned by step {step:,} is saved: Resume goes on from there, or keep that as the {result}."
        )
    cancel = " Cancel gives the run up." if run.state == "paused" else ""
    return f'<p class="what-now">{saved}{cancel}</p>'


def problem(run: Run) -> str:
    """Why it failed or was paused, and what to do; nothing where somebody asked for it."""
    if run.silent_seconds is not None:
        return markup.banner(
            f"Nothing was heard from the worker for {text.duration(run.silent_seconds)}",
            "its process is there, but does nothing",
            "Wait if the machine was asleep or is swapping; else cancel the run and resume it",
        )
    if run.error is None or not run.is_at_rest:
        return ""
    return markup.banner(run.error.title, run.error.detail, run.error.hint)


def tiles(run: Run, story: Story) -> str:
    """The figures of the moment, or of the end: what was learned, and what it costs, alike for every method."""
    return markup.tiles([*_learning(run, story), *_costs(run, story)])


def _learning(run: Run, story: Story) -> list[tuple[str, str, str]]:
    last, curve = story.last, story.evaluation
    first = curve.y[0] if curve.y and curve.x[0] == 0 else None
    newest = curve.y[-1] if len(curve.y) > 1 else None
    smoothed = newest_loss(story)
    speed = story.end.tokens_per_second if isinstance(story.end, Finished) else story.tokens_per_second
    held_out = ("Held-out loss", text.loss(newest if newest is not None else first), _evaluation_note(first, newest))
    return [
        ("Training loss", text.loss(smoothed), "mean of the last 10 steps" if smoothed is not None else "no step yet"),
        held_out if story.accuracy is None else _accuracy(story),
        (
            "Tokens a second",
            f"{speed:,.0f}" if speed else "–",
            f"{text.count(last.tokens)} tokens {'in all' if run.has_ended else 'so far'}" if last else "",
        ),
        ("Memory", *_memory(story)),
    ]


def newest_loss(story: Story) -> float | None:
    """The training loss of the moment: a mean over the newest points of its curve; None before there is one."""
    newest = story.loss.y[-10:]
    return sum(newest) / len(newest) if newest else None


def peak_memory(story: Story) -> str:
    """The most that the process took."""
    return _memory(story)[0]


def _costs(run: Run, story: Story) -> list[tuple[str, str, str]]:
    start, end, saved = story.started, story.end, story.saved
    method = run.config.method
    trained = (text.count(start.trainable_parameters), _share_words(start)) if start else ("–", "known at the start")
    result = text.size(end.output_bytes) if isinstance(end, Finished) and end.output_bytes else "–"
    return [
        ("Method", _METHOD_TILES[method], f"rank {run.config.lora.rank}" if method == "lora" else ""),
        ("Trained numbers", *trained),
        (
            "Checkpoint",
            text.size(saved.bytes) if saved and saved.bytes else "–",
            f"after step {saved.step:,}" if saved else "none yet",
        ),
        ("Result", result, "a whole model" if method == "full" else "the adapter"),
    ]


def _accuracy(story: Story) -> tuple[str, str, str]:
    assert story.accuracy is not None
    before = "" if story.base_accuracy is None else f"before: {text.percent(story.base_accuracy)}, "
    return "Accuracy", text.percent(story.accuracy), f"{before}loss {text.loss(story.evaluation.y[-1])}"


def _memory(story: Story) -> tuple[str, str]:
    """The peak and what it is that of. What is sampled after each step can miss it; the end knows it."""
    end = story.end.peak_rss_bytes if isinstance(story.end, Finished) else 0
    peak, device = max(story.process_memory.y, default=0), max(story.device_memory.y, default=0)
    words = f"{text.size(device)} on the device" if device else "process, at its peak"
    return (text.size(max(peak, end)) if peak or end else "–"), words


def _share_words(start: Started) -> str:
    return f"{text.share(start.trainable_parameters, start.base_parameters)} of {text.count(start.base_parameters)}"


def verdict(run: Run, story: Story, *, is_appraised: bool = False) -> str:
    """One sentence on what the run has learned, once it is over, unless that was measured and stands elsewhere, and one
    on what can be done with the result.
    """
    end = story.end
    if run.state != "finished" or not isinstance(end, Finished):
        return ""
    return ("" if is_appraised else _learned(end, story)) + _what_now(run)


def _learned(end: Finished, story: Story) -> str:
    if end.base_eval_loss is not None and end.eval_loss is None:
        return (
            f'<p class="verdict">It was stopped after step {end.steps:,}, before it was measured again on rows it '
            f"never saw; the base model's loss on them is {text.loss(end.base_eval_loss)}.</p>"
        )
    if end.eval_loss is None or end.base_eval_loss is None:
        return '<p class="verdict">Done. No rows were held out, so nothing measured what it learned.</p>'
    learned = end.eval_loss < end.base_eval_loss
    words = "It learned" if learned else "It did not learn: the held-out loss did not fall"
    figures = f"{text.loss(end.base_eval_loss)} → {text.loss(end.eval_loss)} on rows it never saw"
    if story.accuracy is not None and story.base_accuracy is not None:
        figures = (
            f"{text.percent(story.base_accuracy)} → {text.percent(story.accuracy)} of the rows it never saw are named "
            f"right; loss {text.loss(end.base_eval_loss)} → {text.loss(end.eval_loss)}"
        )
    stopped = " It was stopped early." if end.stopped else ""
    return f'<p class="verdict{"" if learned else " bad"}"><strong>{words}:</strong> {figures}.{stopped}</p>'


def _what_now(run: Run) -> str:
    """What is different about a result that is not an adapter for chat."""
    parts = []
    if run.config.method == "full":
        parts.append("This is a whole model, which can be the base model of a new run.")
    if run.config.task == "classification":
        parts.append("A classifier names a class and has no words to chat with, so the Playground does not offer it.")
    return f'<p class="what-now">{" ".join(parts)}</p>' if parts else ""


def timeline(story: Story) -> str:
    """Phases and notes in order."""
    phases = [line.partition("\t") for line in story.phases]
    items = [
        f"<li><strong>{markup.esc(text.PHASE_WORDS.get(name, name))}</strong> {markup.esc(detail)}</li>"
        for name, _, detail in phases
    ]
    items += [f'<li class="note">{markup.esc(note)}</li>' for note in story.notes]
    if story.saved is not None:
        items.append(f"<li><strong>Checkpoint</strong> saved after step {story.saved.step:,}</li>")
    return f'<ul class="timeline">{"".join(items)}</ul>' if items else '<p class="card-hint">Nothing yet.</p>'


def run_list(runs: Sequence[tuple[Run, Summary]], now: datetime, names_device: bool = False) -> str:
    """The runs as links, each with a box to choose it by; those under way say where, if there are several devices."""
    items = "".join(_run_item(run, summary, now, names_device) for run, summary in runs)
    return f'<ul class="run-list">{items}</ul>'


def _run_item(run: Run, summary: Summary, now: datetime, names_device: bool) -> str:
    what, esc = f"{queue.what(run)}{_on_device(run, names_device)}", markup.esc
    return (
        f'<li class="run-item" data-id="{esc(run.id)}"><label class="pick-label"><input class="pick" '
        f'type="checkbox" value="{esc(run.id)}"><span class="visually-hidden">Select {esc(run.name)}</span>'
        f'</label><a href="/runs?run={esc(run.id)}"><span class="run-name"><strong>{esc(run.name)}</strong>'
        f"<small>{esc(what)}</small>{tags(run)}</span>"
        f"{markup.chip(run.state)}{markup.sparkline(summary.loss)}"
        f'<span class="run-figure">{markup.esc(_figure(run, summary))}</span>'
        f'<span class="run-when">{markup.esc(text.ago(run.created_at, now))}</span></a></li>'
    )


def _on_device(run: Run, names_device: bool) -> str:
    return f" · on {text.device(run.device)}" if names_device and run.device else ""


def _figure(run: Run, summary: Summary) -> str:
    if run.state == "queued":  # where several wait, the queue shows them
        return queue.place(0, 1)
    if run.state in ("running", "pausing", "paused", "stopping") and summary.steps:
        return f"step {summary.step:,} of {summary.steps:,}"
    if summary.eval_loss is not None:
        return f"{text.loss(summary.base_eval_loss)} → {text.loss(summary.eval_loss)}"
    return f"{text.plural(summary.step, 'step')}" if summary.step else ""


def _progress_words(run: Run, story: Story) -> str:
    if story.steps and (story.step or run.state != "preparing"):
        return f"Step {story.step:,} of {story.steps:,}"
    if story.phase and not run.is_at_rest:
        detail = f": {story.phase.detail}" if story.phase.detail else ""
        return f"{text.PHASE_WORDS.get(story.phase.phase, story.phase.phase)}{detail}"
    return "Starting the worker" if not run.is_at_rest else "No step was made"


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
