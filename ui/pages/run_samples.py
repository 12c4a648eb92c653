"""What a run wrote and what it keeps, as HTML: answers to its prompts after so many steps, and its checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from core.events import Sample
from jobs.service import Run, SavedCheckpoint
from ui import addresses, markup, text

# The slider chooses whose answers are shown; at its end it stays with the newest.
SAMPLES_SCRIPT = """
let at = null;
const show = () => {
  const slider = element.querySelector('.sample-slider');
  if (!slider) return;
  const steps = [...element.querySelectorAll('.sample-step')].reverse();
  slider.value = at === null ? steps.length - 1 : Math.min(at, steps.length - 1);
  steps.forEach((step, number) => { step.hidden = number !== Number(slider.value); });
  element.querySelector('.sample-tools output').value = steps[slider.value].dataset.words;
};
element.addEventListener('input', (event) => {
  if (!event.target.matches('.sample-slider')) return;
  at = Number(event.target.value) === Number(event.target.max) ? null : Number(event.target.value);
  show();
});
watch('value', show);
show();
"""
CHECKPOINTS_SCRIPT = """
element.addEventListener('click', (event) => { if (event.target.closest('[data-verify]')) trigger('verify', {}); });
"""
PROOF_WORDS = {
    "verified": "Verified: every byte is as it was written",
    "not verified": "Not verified; its files have the sizes they had",
    "damaged": "Damaged: it is passed over",
}


def samples(found: Sequence[Sample]) -> str:
    """The answers, step by step, the newest first; nothing where the run asks nothing, or has not yet."""
    if not found:
        return ""
    by_step: dict[int, dict[int, Sample]] = {}
    for sample in found:
        by_step.setdefault(sample.step, {})[sample.number] = sample
    steps = sorted(by_step, reverse=True)
    sections = "".join(_step(step, by_step[step], is_newest=step == steps[0]) for step in steps)
    return (
        '<div class="card-head"><h2>Samples</h2><p class="card-hint">The same prompts as the run goes on, answered '
        "with the likeliest words</p></div>"
        f'<label class="sample-tools"><span>After</span><input class="sample-slider" type="range" min="0" '
        f'max="{len(steps) - 1}" value="{len(steps) - 1}" aria-label="Step whose answers are shown">'
        f"<output>{_after(steps[0])}</output></label>{sections}"
    )


def _step(step: int, answers: dict[int, Sample], *, is_newest: bool) -> str:
    items = "".join(
        f'<div class="sample"><p class="sample-prompt">{markup.esc(sample.prompt)}</p>'
        f'<p class="sample-text">{markup.esc(sample.text) or "<i>It ended at once, without a word.</i>"}</p></div>'
        for _, sample in sorted(answers.items())
    )
    hidden = "" if is_newest else " hidden"
    words = _after(step)
    return f'<div class="sample-step" data-step="{step}" data-words="{words}"{hidden}>{items}</div>'


def _after(step: int) -> str:
    return f"step {step:,}" if step else "no step: the base model"


def checkpoints(found: Sequence[SavedCheckpoint], now: datetime) -> str:
    """The checkpoints, newest first, with the click that reads them through."""
    if not found:
        return '<p class="card-hint">None yet: one is written after each evaluation.</p>'
    rows = "".join(
        f"<tr><td>After step {each.step:,}</td><td>{text.size(each.bytes)}</td>"
        f"<td>{markup.esc(text.ago(each.written_at, now))}</td>"
        f'<td class="proof {each.proof.replace(" ", "-")}">{PROOF_WORDS[each.proof]}</td></tr>'
        for each in found
    )
    heads = "".join(f'<th scope="col">{words}</th>' for words in ("Checkpoint", "Size", "Written", "State"))
    button = '<button class="as-button small" type="button" data-verify="">Verify</button>'
    can_verify = any(each.proof == "not verified" for each in found)
    return (
        f'<div class="table-holder" tabindex="0"><table class="figures"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{button if can_verify else ''}"
    )


def chart_tools(run: Run) -> str:
    """What is chosen about all charts, in the browser alone, and the run's figures as files."""
    links = "".join(
        f'<a href="{markup.esc(addresses.history(run.id, form))}" download>{form.upper()}</a>'
        for form in ("csv", "json")
    )
    return f'<div class="chart-tools">{SMOOTHING}{LOG_AXIS}<span class="chart-files">All figures: {links}</span></div>'


SMOOTHING = (
    '<label>Smoothing <input type="range" min="0" max="100" step="5" value="50" data-chart="smoothing">'
    "<output>50 %</output></label>"
)
LOG_AXIS = '<label><input type="checkbox" data-chart="log"> Logarithmic axis</label>'
TOOLS_SCRIPT = """
const show = () => {
  const tools = element.querySelector('.chart-tools');
  if (!tools) return;
  if (!window.workbenchCharts) return setTimeout(show, 50);
  workbenchCharts.show(tools);
};
watch('value', show);
show();
"""
