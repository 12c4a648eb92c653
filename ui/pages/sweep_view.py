"""How the runs of a sweep look side by side: a heading with what is done, a chart and a table, as one piece of HTML.

A `gr.HTML` shows the newest groups at `#run-groups`, one `.sweep` with `data-id` each; `SCRIPT` draws their charts and
tells of clicks on `[data-end]`, which is waiting or all. It is sent when a run changes its state, not at each step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import gradio as gr

from jobs.service import Run, Service, sweeps
from ui import charts, markup, text
from ui.settings import by_path

LISTED_GROUPS = 6
SCRIPT = """
const options = {displayModeBar: false, responsive: true, doubleClick: 'reset'};
const draw = () => {
  const targets = element.querySelectorAll('.plot[data-figure]:not(.drawn)');
  if (targets.length && !window.Plotly) return setTimeout(draw, 100);
  for (const target of targets) {
    const figure = JSON.parse(target.dataset.figure);
    target.classList.add('drawn');
    Plotly.newPlot(target, figure.data, figure.layout, options);
  }
};
watch('value', () => requestAnimationFrame(draw));
draw();
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-end]');
  if (button) trigger('end_group', {id: button.closest('.sweep').dataset.id, end: button.dataset.end});
});
"""


def place() -> gr.HTML:
    """Where the groups are shown; nothing at first."""
    return gr.HTML("", elem_id="run-groups", apply_default_css=False, js_on_load=SCRIPT, head=charts.HEAD)


def newest_groups(service: Service, runs: Iterable[Run], limit: int = LISTED_GROUPS) -> list[sweeps.Group]:
    """The groups among `runs`, which come newest first."""
    members: dict[str, list[Run]] = {}
    for run in runs:
        if run.group is not None and (run.group in members or len(members) < limit):
            members.setdefault(run.group, []).append(run)
    return [service.sweeps.side_by_side(group, found[::-1]) for group, found in members.items()]


def sections(groups: Iterable[sweeps.Group]) -> str:
    """The groups one below the other."""
    return "".join(map(section, groups))


def section(group: sweeps.Group) -> str:
    """One group."""
    head = f"sweep-head-{markup.esc(group.id)}"
    bar = markup.progress(group.finished, len(group.outcomes), f"Runs of {group.name} finished")
    return (
        f'<section class="sweep" data-id="{markup.esc(group.id)}" aria-labelledby="{head}"><div class="sweep-head">'
        f'<div><h2 id="{head}"><a href="/runs?group={markup.esc(group.id)}">{markup.esc(group.name)}</a></h2>'
        f"<p>{markup.esc(done_words(group))}</p></div>{_actions(group)}</div>{bar}"
        f'<div class="sweep-body">{_chart(group)}<div class="table-holder" tabindex="0">{_table(group)}'
        f"{_spreads(group)}</div></div></section>"
    )


def done_words(group: sweeps.Group) -> str:
    """`3 of 6 finished · 1 failed · rank and seed vary`."""
    states = [outcome.run.state for outcome in group.outcomes]
    words = [f"{group.finished} of {text.plural(len(states), 'run')} finished"]
    others = dict.fromkeys(state for state in states if state not in ("finished", "queued"))
    words += [f"{states.count(state)} {text.STATE_WORDS[state].lower()}" for state in others]
    names = [_label(path).lower() for path in group.axes]
    if names:
        listed = " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
        words.append(f"{listed} {'vary' if len(names) > 1 else 'varies'}")
    return " · ".join(words)


def _label(path: str) -> str:
    setting = by_path(path)
    return setting.label if setting is not None else path


def _actions(group: sweeps.Group) -> str:
    """What can be done with the group: end it, or begin with the best run's settings."""
    parts = []
    if group.waiting:
        words = f"Cancel the {group.waiting} that wait" if group.waiting > 1 else "Cancel the one that waits"
        parts.append(_button("waiting", words, group))
    if any(not outcome.run.is_at_rest and outcome.run.state != "queued" for outcome in group.outcomes):
        parts.append(_button("all", "Stop the group", group))
    if group.best is not None:
        link = f"/?from={markup.esc(group.best.run.id)}"
        parts.append(f'<a class="as-button small best-link" href="{link}">Start from the best</a>')
    return f'<div class="sweep-actions">{"".join(parts)}</div>'


def _button(end: str, words: str, group: sweeps.Group) -> str:
    name = markup.esc(f"{words}: {group.name}")
    return f'<button class="as-button small" type="button" data-end="{end}" aria-label="{name}">{words}</button>'


def _chart(group: sweeps.Group) -> str:
    """The loss over what varies, as soon as two points are there."""
    figure = charts.side_by_side(group)
    if figure is None:
        measured = any(outcome.run.eval_loss is not None for outcome in group.outcomes)
        if group.is_over and not measured:
            return '<p class="card-hint sweep-wait">No run measured a held-out loss, so none is the best.</p>'
        return '<p class="card-hint sweep-wait">The chart begins with the second run that finishes.</p>'
    label = f"Held-out loss by {_label(charts.axis_of(group)).lower()}"
    return (
        f'<div class="chart"><h3>{label}</h3><div class="plot" role="img" aria-label="{label}" '
        f'data-figure="{markup.esc(charts.as_text(figure))}"></div></div>'
    )


def _table(group: sweeps.Group) -> str:
    heads = ["Run", "Held-out loss", *map(_label, group.axes), "Trainable", "State"]
    best = group.best
    rows = "".join(_row(outcome, outcome is best) for outcome in group.outcomes)
    return _as_table(heads, rows)


def _row(outcome: sweeps.Outcome, is_best: bool) -> str:
    run = outcome.run
    mark = ' <span class="best">best</span>' if is_best else ""
    trained = "–" if outcome.trainable_parameters is None else text.count(outcome.trainable_parameters)
    values = "".join(f"<td>{markup.esc(value)}</td>" for value in outcome.values)
    return (
        f'<tr{" class=is-best" if is_best else ""}><td><a href="/runs?run={markup.esc(run.id)}">{markup.esc(run.name)}'
        f"</a>{mark}</td><td>{text.loss(run.eval_loss)}</td>{values}<td>{trained}</td><td>{markup.chip(run.state)}</td></tr>"
    )


def _spreads(group: sweeps.Group) -> str:
    """The mean of each choice over its seeds."""
    if not group.spreads:
        return ""
    heads = [_label(path) for path in group.axes if path != sweeps.SEED]
    rows = "".join(
        "<tr>" + "".join(f"<td>{markup.esc(value)}</td>" for value in spread.values) + f"<td>{_spread(spread)}</td>"
        f"<td>{spread.count}</td></tr>"
        for spread in group.spreads
    )
    note = '<p class="card-hint">Over the seeds. Each seed holds out other rows, so compare these, not single runs.</p>'
    return note + _as_table([*heads, "Mean ± spread", "Seeds"], rows)


def _spread(spread: sweeps.Spread) -> str:
    return text.loss(spread.mean) + ("" if spread.deviation is None else f" ± {spread.deviation:.3f}")


def _as_table(heads: Sequence[str], rows: str) -> str:
    head = "".join(f'<th scope="col">{markup.esc(words)}</th>' for words in heads)
    return f'<table class="figures"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'


def end(service: Service, event: Any) -> None:
    """A click on one of the buttons.

    Raises:
        NotFound: there is no such group.
    """
    if event.end == "all":
        service.sweeps.stop(str(event.id))
    else:
        service.sweeps.cancel_waiting(str(event.id))
