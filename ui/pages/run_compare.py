"""Several runs over each other: their curves on one axis, what they came to, and where their settings differ.

`/runs?compare=ID,ID`. Ids: `#compare-head` with the choice of what is across, `#compared-loss`, `#compared-evaluation`,
`#compare-table`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from core.errors import ConfigError
from jobs.service import Run, Service
from ui import charts, markup, run_charts, text
from ui.answers import News
from ui.pages import run_view
from ui.pages.run_listing import MOST_COMPARED
from ui.pages.run_samples import LOG_AXIS, SMOOTHING, TOOLS_SCRIPT
from ui.pages.run_settings import own_settings
from ui.pages.run_state import RunWidgets, Seen
from ui.story import Stories, Story

_Told = tuple[Run, Story]
_ACROSS = (("step", "Steps"), ("tokens", "Tokens"), ("seconds", "Time"))


def asked_for(text_of_ids: str) -> tuple[str, ...]:
    """The ids in an address, each once.

    Raises:
        ConfigError: there are too few or too many.
    """
    ids = tuple(dict.fromkeys(part.strip() for part in text_of_ids.split(",") if part.strip()))
    if not 2 <= len(ids) <= MOST_COMPARED:
        title = f"{text.plural(len(ids), 'run')} cannot be compared"
        raise ConfigError(title, hint=f"Choose 2 to {MOST_COMPARED} in the list")
    return ids


class Comparison:
    """What the page shows of several runs."""

    def __init__(self, service: Service, stories: Stories, widgets: RunWidgets) -> None:
        self.service, self.stories, self.widgets = service, stories, widgets

    def look(self, seen: Seen) -> News:
        """What is new about the runs since the last look.

        Raises:
            NotFound: there is no such run.
        """
        widgets = self.widgets
        told = [(run, self.stories.of(run.id)) for run in map(self.service.run, seen.compared)]
        version = sum(story.version for _, story in told)
        state = " ".join(run.state for run, _ in told)
        news: News = {}
        if seen.version == -1:
            news |= {
                widgets.list_view: gr.update(visible=False),
                widgets.compare_view: gr.update(visible=True),
                widgets.compare_head: _head(told),
            }
        if (version, state) != (seen.version, seen.state):
            training, held_out = run_charts.compared(told)
            news[widgets.compared_loss] = charts.as_text(training)
            if any(story.evaluation.x for _, story in told):
                news[widgets.compared_evaluation] = charts.as_text(held_out)
            table = figures(told) + differences([run for run, _ in told])
            if seen.is_news("table", table):
                news[widgets.differences] = table
        if state != seen.state:
            news[widgets.timer] = gr.Timer(active=not all(run.is_at_rest for run, _ in told))
        seen.version, seen.state = version, state
        return news


def _head(told: Sequence[_Told]) -> str:
    buttons = "".join(
        f'<label><input type="radio" name="across" value="{value}" data-chart="across"> {words}</label>'
        for value, words in _ACROSS
    )
    return (
        f'<div class="run-head"><a class="back" href="/runs">All runs</a><h1>{len(told)} runs compared</h1></div>'
        f'<div class="chart-tools"><fieldset class="across"><legend>Across</legend>{buttons}</fieldset>'
        f"{SMOOTHING}{LOG_AXIS}</div>"
    )


def figures(told: Sequence[_Told]) -> str:
    """What each run came to, a column a run."""
    rows: list[tuple[str, Callable[[Run, Story], str]]] = [
        ("State", lambda run, _: text.STATE_WORDS[run.state]),
        ("Steps", lambda _, story: f"{story.step:,}"),
        ("Training loss", lambda _, story: text.loss(run_view.newest_loss(story))),
        ("Held-out loss", lambda _, story: text.loss(story.evaluation.y[-1] if story.evaluation.y else None)),
        ("Accuracy", lambda _, story: text.percent(story.shares.y[-1]) if story.shares.y else "–"),
        ("Tokens", lambda _, story: text.count(story.last.tokens) if story.last else "–"),
        ("Time in steps", lambda _, story: text.duration(story.last.seconds) if story.last else "–"),
        ("Tokens a second", lambda _, story: f"{story.tokens_per_second:,.0f}" if story.tokens_per_second else "–"),
        ("Peak memory", lambda _, story: run_view.peak_memory(story)),
        ("Trained numbers", lambda _, story: text.count(story.started.trainable_parameters) if story.started else "–"),
    ]
    return _table("What they came to", told, [(name, [say(run, story) for run, story in told]) for name, say in rows])


def differences(runs: Sequence[Run]) -> str:
    """The settings that are not the same in all runs."""
    shown = [own_settings(run) for run in runs]
    names = dict.fromkeys(name for settings in shown for name in settings)
    rows = [(name, [settings.get(name, "–") for settings in shown]) for name in names]
    different = [(name, values) for name, values in rows if len(set(values)) > 1]
    if not different:
        return (
            '<h2 class="table-title">Settings that differ</h2><p class="card-hint">None: all of them are the same.</p>'
        )
    return _table("Settings that differ", [(run, None) for run in runs], different)


def _table(title: str, told: Sequence[tuple[Run, Any]], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    heads = "".join(
        f'<th scope="col"><a href="/runs?run={markup.esc(run.id)}"><i class="dot" style="--series:'
        f'{charts.SERIES[at % len(charts.SERIES)]}"></i>{markup.esc(run.name)}</a></th>'
        for at, (run, _) in enumerate(told)
    )
    body = "".join(
        f'<tr><th scope="row">{markup.esc(name)}</th>'
        + "".join(f"<td>{markup.esc(value)}</td>" for value in values)
        + "</tr>"
        for name, values in rows
    )
    return (
        f'<h2 class="table-title">{title}</h2><div class="table-holder" tabindex="0"><table class="figures compared">'
        f"<thead><tr><td></td>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def place() -> dict[str, Any]:
    """The comparison's part of the page."""
    head = gr.HTML(
        markup.loading("Reading the runs"), elem_id="compare-head", apply_default_css=False, js_on_load=TOOLS_SCRIPT
    )
    with gr.Row(elem_classes=["charts"]):
        loss = charts.chart("compared-loss", "Training loss")
        evaluation = charts.chart("compared-evaluation", "Loss on held-out rows")
    with gr.Column(elem_classes=["card"]):
        table = gr.HTML("", elem_id="compare-table", apply_default_css=False)
    return {
        "compare_head": head,
        "compared_loss": loss,
        "compared_evaluation": evaluation,
        "differences": table,
    }
