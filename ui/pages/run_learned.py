"""Did it learn? The card of a run's page that shows what was measured beside the base, as HTML, in each of its states.

Id: `#run-learned`. Its buttons trigger `appraise` and `desist`.
"""

from __future__ import annotations

from collections.abc import Collection

from core.analysis.appraisal import Answer, Appraisal, Side
from core.analysis.verdict import Verdict, judge
from jobs.service import ENDED_STATES, AppraisalView, Run
from ui import markup, text
from ui.pages import module_heat

SCRIPT = """
element.addEventListener('click', (event) => {
  if (event.target.closest('[data-appraise]')) trigger('appraise', {});
  if (event.target.closest('[data-desist]')) trigger('desist', {});
});
"""
_PHASES = {"starting": "Starting", "measuring": "Asking base and adapter the same rows"}
_HEAD = (
    '<div class="card-head"><h2>Did it learn?</h2><p class="card-hint">Base and result answer the same rows, some that '
    "were trained on and some that never were</p></div>"
)


def card(run: Run, view: AppraisalView, share_done: float | None, steps: Collection[int]) -> str:
    """The card in its state.

    Args:
        share_done: how far the run's own worker is with measuring, while it does.
        steps: of which checkpoints are kept.
    """
    body = _body(run, view, share_done, steps)
    return f'<section class="learned" data-state="{view.state.replace(" ", "-")}">{_HEAD}{body}</section>'


def _body(run: Run, view: AppraisalView, share_done: float | None, steps: Collection[int]) -> str:
    if view.state == "too soon":
        return _too_soon(run, share_done)
    if view.state == "going on":
        return _going_on(view)
    problem = "" if view.problem is None else markup.banner(view.problem.title, view.problem.detail, view.problem.hint)
    if view.appraisal is None:
        hint = f'<p class="card-hint">It was not measured yet.{_cost(run)}</p>' if not problem else ""
        return f"{problem}{hint}{_button('Measure', 'primary')}"
    return f"{problem}{_measured(run, view.appraisal, steps)}"


def _too_soon(run: Run, share_done: float | None) -> str:
    if share_done is not None:
        return markup.loading("Measuring what it learned") + _bar(share_done)
    if run.state in ENDED_STATES:
        return '<p class="card-hint">Only a run that has finished is measured. Resume it, or keep what it learned.</p>'
    return '<p class="card-hint">This is measured when the run has made its last step.</p>'


def _cost(run: Run) -> str:
    if run.config.method == "full":
        return " For a whole model the base is loaded first, then the model: this takes a while."
    return " Base and adapter are loaded for it, which takes a moment."


def _going_on(view: AppraisalView) -> str:
    words = _PHASES.get(view.phase) or text.PHASE_WORDS.get(view.phase, view.phase)
    bar = "" if view.share_done is None else _bar(view.share_done)
    return f'{markup.loading(words)}{bar}<button class="as-button small" type="button" data-desist="">Stop</button>'


def _bar(share_done: float) -> str:
    return markup.progress(round(100 * share_done), 100, "Measured")


def _button(words: str, kind: str) -> str:
    return f'<button class="as-button {kind}" type="button" data-appraise="">{words}</button>'


def _measured(run: Run, appraisal: Appraisal, steps: Collection[int]) -> str:
    notes = "".join(f'<p class="card-hint">{markup.esc(note)}.</p>' for note in appraisal.notes)
    cut = '<p class="card-hint">Time was up before all chosen rows were asked.</p>' if appraisal.is_cut else ""
    return (
        f"{_verdict(run, judge(appraisal), steps)}{_losses(appraisal)}{cut}{_answers(appraisal.answers)}"
        f"{_modules(appraisal)}{notes}"
        f'<p class="learned-foot"><span>Measured after step {appraisal.step:,} in '
        f"{appraisal.seconds:.1f} s</span>{_button('Measure again', 'small')}</p>"
    )


def _verdict(run: Run, verdict: Verdict, steps: Collection[int]) -> str:
    reason = f" {markup.esc(verdict.reason)}." if verdict.reason else ""
    mark = ":" if reason else "."
    advice = "".join(f"<li>{markup.esc(words)}</li>" for words in verdict.advice)
    link = ""
    if verdict.better_step is not None and verdict.better_step in steps:
        address = markup.esc(f"/playground?adapters={run.id}:{verdict.better_step},{run.adapter_id}")
        link = f'<a class="as-button small" href="{address}">Talk to step {verdict.better_step:,} beside the end</a>'
    elif verdict.better_step is not None:
        link = (
            '<p class="card-hint">That checkpoint is not kept any more; a run keeps the newest ones, as many as its '
            "settings say.</p>"
        )
    return (
        f'<p class="verdict {verdict.level}" role="status"><strong>{markup.esc(verdict.headline)}{mark}</strong>'
        f"{reason}</p>{f'<ul class=advice>{advice}</ul>' if advice else ''}{link}"
    )


def _losses(appraisal: Appraisal) -> str:
    """Both sides as bars, base over result, and their figures."""
    sides = [("Held-out rows", appraisal.held_out), ("Trained rows", appraisal.trained)]
    shown = [(name, side) for name, side in sides if side is not None]
    if not shown:
        return ""
    most = max(max(side.base_loss, side.loss) for _, side in shown) or 1.0
    unit = "token" if appraisal.answers_are == "tokens" else "row"
    parts = "".join(_side(name, side, most, unit) for name, side in shown)
    hint = (
        f"Nats a {unit}; a difference is given with its 95 % interval. KL says how far the words have moved away from "
        "the base's, wherever to."
    )
    return f'<h3>Loss</h3><div class="sides">{parts}</div><p class="card-hint">{hint}</p>'


def _side(name: str, side: Side, most: float, unit: str) -> str:
    sampled = "" if side.rows == side.all_rows else f" of {side.all_rows:,}"
    rows = f"{side.rows:,}{sampled} · {text.plural(side.answers, f'trained {unit}')}"
    bars = "".join(
        f'<div class="{kind}"><span>{words}</span><span class="loss-bar"><i style="width:{100 * loss / most:.1f}%"></i>'
        f"</span><b>{text.loss(loss)}</b></div>"
        for kind, words, loss in (("of-base", "Base", side.base_loss), ("of-result", "After", side.loss))
    )
    margin = "" if side.margin is None else f" ± {side.margin:.3f}"
    right = f"{text.percent(side.base_accuracy)} → {text.percent(side.accuracy)}"
    difference = f"{-side.gain:+.3f}".replace("-", "−")
    facts = markup.facts([("Difference", f"{difference}{margin}"), ("KL", f"{side.kl:.3f}"), (f"Right {unit}s", right)])
    return f'<div class="side"><h4>{name} <small>{rows}</small></h4><div class="loss-bars">{bars}</div>{facts}</div>'


def _answers(answers: Collection[Answer]) -> str:
    """What both say to the same prompts, side by side."""
    if not answers:
        return ""
    items = "".join(
        f'<div class="sample"><p class="sample-prompt">{markup.esc(answer.prompt)}</p><div class="before-after">'
        f"{_said('Base', answer.before)}{_said('After', answer.after)}</div></div>"
        for answer in answers
    )
    return f'<h3>Answers before and after</h3><p class="card-hint">With the likeliest words</p>{items}'


def _said(who: str, words: str) -> str:
    shown = markup.esc(words) or "<i>It ended at once, without a word.</i>"
    kind = "before" if who == "Base" else "after"
    return f'<div class="{kind}"><span>{who}</span><p class="sample-text">{shown}</p></div>'


def _modules(appraisal: Appraisal) -> str:
    return module_heat.heat(appraisal.modules)
