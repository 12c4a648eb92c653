"""Several values at once, on the Train page: what is typed, what runs it makes, and that Launch means all of them.

`card` puts the widgets into the open context, `Sweeping` answers for them. Everything is a part of the page's form: the
values of `SweepWidgets.form` come with the others, and what changes them changes `SweepWidgets.outlook`.

Ids: `#sweep` the accordion; `#sweep-lora-rank` and the like one text a setting, `#sweep-budget`, `#sweep-alpha`;
`#sweep-target-choices` its `[data-add]` buttons; `#sweep-plan` the runs, with `data-runs` how many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from core.config import RunConfig
from core.errors import ConfigError, UserError
from core.models import targets as target_rules
from core.models.shapes import LinearShape
from core.sweep import BUDGET, PATHS, TARGETS, Skipped
from jobs.service import FLAGS, Estimate, Service, lists, sweeps
from ui import markup, text
from ui.answers import News
from ui.settings import by_path

FOLLOWS, STAYS = "follows", "stays"
# What each field takes, under its label; that of the targets depends on the model.
HINTS = {
    "lora.rank": "Such as 4, 8, 16",
    "lora.alpha": "Such as 8, 16, 32; empty, it is as chosen below",
    "optim.learning_rate": "Such as 1e-4, 3e-4, 1e-3",
    "optim.epochs": "Such as 1, 2, 4",
    "quant.bits": "Such as 16, 4",
    "seed": "Such as 1, 2, 3: tells luck from gain",
}
BUDGET_HINT = "Such as 1M or 500k: each run gets the highest rank that stays within it, unless ranks are given"
ALPHA_HINT = "Following keeps alpha ÷ rank, the update's strength; the paper leaves alpha as it is"
LONGEST_TEXT = 2000

# A click adds the choice to what is typed, as if it had been typed.
SCRIPT = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-add]');
  const field = document.querySelector('#sweep-lora-targets input, #sweep-lora-targets textarea');
  if (!button || !field) return;
  const typed = field.value.split(',').map((part) => part.trim()).filter(Boolean);
  if (!typed.includes(button.dataset.add)) typed.push(button.dataset.add);
  field.value = typed.join(', ');
  field.dispatchEvent(new Event('input', {bubbles: true}));
});
"""


@dataclass(frozen=True, kw_only=True)
class SweepWidgets:
    """The accordion's widgets: `axes` by setting path."""

    axes: Mapping[str, gr.Textbox]
    budget: gr.Textbox
    alpha: gr.Radio
    choices: gr.HTML
    plan: gr.HTML

    @property
    def form(self) -> list[Component]:
        """What `Typed.read` takes, in this order."""
        return [*self.axes.values(), self.budget, self.alpha]

    @property
    def outlook(self) -> list[Component]:
        """What any change of the form changes."""
        return [*self.axes.values(), self.budget, self.choices, self.plan]


@dataclass(frozen=True, kw_only=True)
class Typed:
    """What a person has typed for several runs."""

    axes: Mapping[str, str]
    budget: str = ""
    keeps_scale: bool = True

    @classmethod
    def read(cls, *values: Any) -> Typed:
        """From the values of `SweepWidgets.form`; a form without them asks for one run."""
        if not values:
            return cls(axes={})
        *axes, budget, alpha = values
        typed = {path: str(value or "") for path, value in zip(PATHS, axes, strict=True)}
        return cls(axes=typed, budget=str(budget or ""), keeps_scale=alpha != STAYS)

    @property
    def is_asked(self) -> bool:
        """Whether several runs are asked for."""
        return any(words.strip() for words in (*self.axes.values(), self.budget))

    @property
    def varies_rank(self) -> bool:
        """Whether the runs need not have the form's own rank."""
        return any(words.strip() for words in (self.axes.get("lora.rank", ""), self.budget))

    @property
    def options(self) -> dict[str, str]:
        """The same on the command line: each option's name and what follows it."""
        typed = {flag.name: lists.read_names(self.axes.get(flag.path, "")) for flag in FLAGS}
        found = {name: ",".join(values) for name, values in typed.items() if values}
        found |= {"--budget": self.budget.strip()} if self.budget.strip() else {}
        return found | ({"--keep-alpha": ""} if found and not self.keeps_scale else {})


@dataclass(frozen=True, kw_only=True)
class SweepOutlook:
    """What would come of it: the runs, or what is wrong; neither where one is asked for or the form is not ready."""

    plan: sweeps.Plan | None = None
    problem: UserError | None = None
    epochs: float = 1.0  # the form's own, by which times are scaled


def card() -> SweepWidgets:
    """The accordion in the Launch card."""
    with gr.Accordion("Several values at once", open=False, elem_id="sweep"):
        gr.HTML(
            '<p class="card-hint">Values with commas between make a run each, in every combination; '
            "they queue as one group. Leave all empty for a single run.</p>",
            apply_default_css=False,
        )
        axes = {path: _field(path) for path in PATHS[:1]}
        choices = gr.HTML("", elem_id="sweep-target-choices", apply_default_css=False, js_on_load=SCRIPT)
        with gr.Row(elem_classes=["sweep-fields"]):
            axes |= {path: _field(path) for path in PATHS[1:]}
        budget = gr.Textbox(
            "", label="Parameter budget", info=BUDGET_HINT, placeholder="none", elem_id="sweep-budget", max_length=40
        )
        alpha = gr.Radio(
            [("Follows the rank", FOLLOWS), ("Stays", STAYS)],
            value=FOLLOWS, label="Alpha, where the rank varies", info=ALPHA_HINT,
            elem_id="sweep-alpha", elem_classes=["segmented"],
        )  # fmt: skip
        plan = gr.HTML("", elem_id="sweep-plan", apply_default_css=False)
    return SweepWidgets(axes=axes, budget=budget, alpha=alpha, choices=choices, plan=plan)


class Sweeping:
    """The handlers' part of the page."""

    def __init__(self, service: Service, widgets: SweepWidgets) -> None:
        self.service = service
        self.widgets = widgets

    def look(self, typed: Typed, config: RunConfig | None) -> SweepOutlook:
        """The runs that would be made of `config`, the form's own run."""
        if not typed.is_asked or config is None:
            return SweepOutlook()
        try:
            return SweepOutlook(plan=self._plan(typed, config), epochs=config.optim.epochs)
        except UserError as error:
            return SweepOutlook(problem=error)

    def news(
        self,
        typed: Typed,
        outlook: SweepOutlook,
        *,
        method: str,
        shapes: Sequence[LinearShape] = (),
        seconds_a_run: float | None = None,
    ) -> News:
        """What the accordion says now: each field its hint or what is wrong with it, and the runs. `seconds_a_run` is
        how long the form's own run takes, where that is known.
        """
        widgets, problem = self.widgets, outlook.problem
        at = problem.field if isinstance(problem, ConfigError) else ""
        faulty = next((path for path in (*PATHS, BUDGET) if at == path or at.startswith(f"{path}.")), "")
        if faulty in widgets.axes and not typed.axes.get(faulty, "").strip():
            faulty = ""  # it is a fault of the form's own setting, which says so itself
        words = _fault(problem) if problem is not None else ""
        news: News = {
            widget: _told(words if path == faulty else _hint(path, shapes), path == faulty, _applies(path, method))
            for path, widget in widgets.axes.items()
        }
        news[widgets.budget] = _told(
            words if faulty == BUDGET else BUDGET_HINT, faulty == BUDGET, _applies("lora.rank", method)
        )
        news[widgets.choices] = _choices(shapes) if _applies(TARGETS, method) else ""
        news[widgets.plan] = plan_html(typed, outlook, seconds_a_run, is_said=bool(faulty))
        return news

    def submit(self, typed: Typed, config: RunConfig, key: str) -> str:
        """Queue the runs, once for each `key`; the group's id.

        Raises:
            UserError: as `Sweeps.plan` and `Sweeps.submit`.
        """
        return self.service.sweeps.submit(self._plan(typed, config).configs, key)

    def _plan(self, typed: Typed, config: RunConfig) -> sweeps.Plan:
        return self.service.sweeps.plan(config, typed.axes, typed.budget, typed.keeps_scale)


def launch_label(typed: Typed, outlook: SweepOutlook) -> str:
    """`Launch 6 runs`, or what is missing for it; empty where one run is asked for."""
    if not typed.is_asked:
        return ""
    problem = outlook.problem
    if isinstance(problem, ConfigError) and problem.field == BUDGET:
        return "Check the budget"
    if isinstance(problem, ConfigError) and (setting := by_path(problem.field)) is not None:
        return f"Check {setting.label.lower()}"
    if problem is not None:
        return "Too many runs" if isinstance(problem, ConfigError) else "Not ready yet"
    if outlook.plan is None:
        return ""
    count = len(outlook.plan.configs)
    return f"Launch {text.plural(count, 'run')}" if count else "No run stays within the budget"


def plan_html(typed: Typed, outlook: SweepOutlook, seconds_a_run: float | None = None, is_said: bool = False) -> str:
    """The runs with what each trains, and those left out; or what is wrong, unless a field says it already."""
    if not typed.is_asked or (outlook.problem is not None and is_said):
        return ""
    if outlook.problem is not None:
        return markup.banner(outlook.problem.title, outlook.problem.detail, outlook.problem.hint)
    if outlook.plan is None:
        return '<p class="card-hint">The runs are listed once the form above is complete.</p>'
    plan = outlook.plan
    rows = "".join(_row(config, found) for config, found in zip(plan.configs, plan.estimates, strict=True))
    table = (
        '<div class="table-holder" tabindex="0"><table class="figures"><thead><tr><th scope="col">Run</th>'
        f'<th scope="col">Trainable</th></tr></thead><tbody>{rows}</tbody></table></div>'
    )
    head = f'<p class="sweep-count" data-runs="{len(plan.configs)}">{_count(plan, outlook.epochs, seconds_a_run)}</p>'
    return head + (table if plan.configs else "") + _left_out(plan.skipped)


def _count(plan: sweeps.Plan, epochs: float, seconds_a_run: float | None) -> str:
    count = len(plan.configs)
    words = [f"<strong>{text.plural(count, 'run')}</strong>{', one behind the other' if count > 1 else ''}"]
    if seconds_a_run is not None and count:
        runs = sum(config.optim.epochs / epochs for config in plan.configs)
        words.append(f"about {text.duration(seconds_a_run * runs)} in all")
    return " · ".join(words)


def _row(config: RunConfig, estimate: Estimate | None) -> str:
    trained = "–" if estimate is None else text.count(estimate.trainable_parameters)
    return f"<tr><td>{markup.esc(config.name)}</td><td>{trained}</td></tr>"


def _left_out(skipped: Sequence[Skipped]) -> str:
    items = "".join(f"<li><strong>{markup.esc(one.name)}</strong>: {markup.esc(one.why)}</li>" for one in skipped)
    return f'<p class="card-hint">Left out:</p><ul class="left-out">{items}</ul>' if items else ""


def _field(path: str) -> gr.Textbox:
    setting = by_path(path)
    assert setting is not None
    elem_id = "sweep-" + path.replace(".", "-").replace("_", "-")
    return gr.Textbox(
        "", label=setting.label, info=_hint(path, ()), placeholder="one value", elem_id=elem_id, max_length=LONGEST_TEXT
    )


def _hint(path: str, shapes: Sequence[LinearShape]) -> str:
    if path != TARGETS:
        return HINTS[path]
    names = [*target_rules.suggestions(shapes)[:1], *_pair(shapes)] or ["q_proj", "q_proj+v_proj"]
    return f"A plus joins those of one run: {', '.join([*names, sweeps.ALL_ATTENTION])}"


def _pair(shapes: Sequence[LinearShape]) -> list[str]:
    """The two that the paper adapts (section 4.2), where the model calls its layers so."""
    known = target_rules.suggestions(shapes)
    pairs = (("q_proj", "v_proj"), ("query", "value"))
    return ["+".join(pair) for pair in pairs if set(pair) <= set(known)]


def _choices(shapes: Sequence[LinearShape]) -> str:
    """A button for each usual choice of targets."""
    if not shapes:
        return ""
    names = [*target_rules.suggestions(shapes), *_pair(shapes), sweeps.ALL_ATTENTION, "all linear"]
    buttons = "".join(
        f'<button class="as-button small" type="button" data-add="{markup.esc(name)}">{markup.esc(name)}</button>'
        for name in names
    )
    return f'<div class="choices" role="group" aria-label="Add a choice of targets">{buttons}</div>'


def _told(words: str, is_faulty: bool, is_shown: bool) -> Any:
    return gr.update(
        info=words, elem_classes=["faulty"] if is_faulty else [], visible=True if is_shown else "hidden"
    )  # one that is not shown stays in the page and keeps its value


def _fault(problem: UserError) -> str:
    return ". ".join(part for part in (problem.title, problem.hint) if part)


def _applies(path: str, method: str) -> bool:
    setting = by_path(path)
    return setting is not None and method in setting.methods
