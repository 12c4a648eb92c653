"""What a run will cost, in the Launch card: estimated at once, measured on request, with what would make it smaller.

Ids: `#cost`, in it a button a fix (`data-changes`); `#cost-measure`, `#cost-stop`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from core.config import RunConfig, parse, to_dict
from core.errors import ConfigError
from jobs.service import Cost, Dataset, RowFacts, Service
from ui import answers, forms
from ui.answers import News
from ui.pages import cost

LOOK_SECONDS = 1.0
_SCRIPT = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-changes]');
  if (button) trigger('fix', {changes: button.dataset.changes});
});
"""


@dataclass(frozen=True, kw_only=True)
class Widgets:
    """What stands in the part of the card."""

    cost: gr.HTML
    measure: gr.Button
    stop: gr.Button
    timer: gr.Timer

    @property
    def all(self) -> list[Any]:
        """What a look at the form changes."""
        return [self.cost, self.measure, self.stop, self.timer]


def build() -> Widgets:
    """Put the part into the open Blocks context."""
    shown = gr.HTML("", elem_id="cost", apply_default_css=False, js_on_load=_SCRIPT)
    with gr.Row(elem_classes=["actions"]):
        measure = gr.Button("Measure it", elem_id="cost-measure", size="sm", visible=False)
        stop = gr.Button("Stop measuring", elem_id="cost-stop", size="sm", visible=False)
    return Widgets(cost=shown, measure=measure, stop=stop, timer=gr.Timer(LOOK_SECONDS, active=False))


class CostCard:
    """The handlers; `read` makes a config of the form's values, None where it is not complete."""

    def __init__(
        self,
        service: Service,
        widgets: Widgets,
        fields: dict[str, Component],
        read: Callable[..., RunConfig | None],
    ) -> None:
        self.service, self.widgets, self._fields, self._read = service, widgets, fields, read

    def of(self, config: RunConfig | None, dataset: Dataset | None) -> Cost | None:
        """What the form's run would cost; None where that is not known."""
        if config is None or dataset is None:
            return None
        return self.service.costs.of(config, self.rows(config, dataset), self.service.machine().memory_free_bytes)

    def rows(self, config: RunConfig, dataset: Dataset) -> RowFacts:
        """What is known of the dataset's rows, as the config's base model would read them."""
        profile = self.service.tokens.of(config.data, config.base_model, config.task).profile
        lengths = profile.lengths if profile is not None and profile.is_whole else None
        return RowFacts(rows=dataset.rows, lengths=lengths)

    def outlook(self, found: Cost | None, *, is_ready: bool) -> News:
        """What the form's run would cost, as far as that is `found`; nothing while the form is not ready."""
        widgets = self.widgets
        state = found.probe.state if found is not None else "absent"
        return {
            widgets.cost: cost.cost_html(found) if is_ready else "",
            widgets.measure: gr.update(visible=found is not None and state in ("absent", "failed")),
            widgets.stop: gr.update(visible=state == "going on"),
            widgets.timer: gr.update(active=state == "going on"),
        }

    def measure(self, *values: Any) -> News:
        """Take a trial step."""
        return self._after(self.service.probes.start, values)

    def stop(self, *values: Any) -> News:
        """Give it up."""
        return self._after(self.service.probes.stop, values)

    def look(self, *values: Any) -> News:
        """How far it is."""
        return self._after(None, values)

    def fix(self, event: gr.EventData, *values: Any) -> News:
        """One click: settings that make it smaller.

        Raises:
            ConfigError: what the browser sent is no such change.
        """
        config = self._read(*values)
        if config is None:
            return {}
        nested = to_dict(config)
        changes = _changes(str(event.changes))
        for path, value in changes.items():
            forms.put(nested, path, value)
        shown = forms.values(parse(nested), self.service.inspect_model(config.base_model).shapes)
        return {self._fields[path]: shown[path] for path in changes if path in self._fields}

    def _after(self, action: Callable[[RunConfig], object] | None, values: Sequence[Any]) -> News:
        config = self._read(*values)
        if config is None:
            return {self.widgets.timer: gr.update(active=False)}
        if action is not None:
            action(config)
        return self.outlook(self.of(config, self.service.data.get(config.data.dataset_id)), is_ready=True)


def wire(card: CostCard, banner: gr.HTML, form: Sequence[Component], as_sent: dict[str, Any]) -> list[Dependency]:
    """Connect the events; those after which the form is to be looked at anew."""
    widgets, tells = card.widgets, answers.tells(banner)
    outputs = [banner, *widgets.all]
    widgets.measure.click(tells(card.measure), list(form), outputs, **as_sent)
    widgets.stop.click(tells(card.stop), list(form), outputs, **as_sent)
    widgets.timer.tick(answers.tells(banner, clears=False)(card.look), list(form), outputs, **as_sent)
    fields = [banner, *card._fields.values()]
    return [widgets.cost.fix(tells(card.fix), list(form), fields, **as_sent)]


def _changes(text: str) -> dict[str, Any]:
    """The changes that a button carries; only settings of the form may be among them."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(forms.by_path(path) is not None for path in found):
        raise ConfigError("That change is not known", hint="Reload the page")
    return found
