"""What fills the form of the Train page in at once: standard values, an earlier run's, a file's, a suggestion's.

`Filling` are the handlers, and `wire` connects them. Nothing is launched by them, and the person sees what came in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.events import Dependency

from core.config import RunConfig
from core.errors import DataError, NotFound
from jobs.service import Dataset
from ui import answers, markup
from ui.answers import News
from ui.pages import changes, copying, frame, run_files, suggesting
from ui.settings import Setting

if TYPE_CHECKING:
    from ui.pages.train import Form, Outlook, TrainPage


def card() -> dict[str, Any]:
    """The widgets, by their names among the page's: a menu, two buttons, a word on what came in."""
    menu = copying.menu()
    with gr.Row(elem_classes=["actions", "settings-files"]):
        save, load = run_files.save_link(), run_files.load_button()
    filled = gr.HTML("", elem_id="filled", apply_default_css=False)
    return {"earlier": menu, "save_settings": save, "load_settings": load, "filled": filled}


class Filling:
    """The handlers. Each returns the news for the widgets that change."""

    def __init__(self, page: TrainPage, read: Callable[..., Form]) -> None:
        self.widgets = page.widgets
        self._page, self._read, self._service = page, read, page.service

    def open(self, chosen: str | None = None) -> News:
        """The menu of earlier runs, for a visitor who arrives, perhaps with one of them in mind."""
        return {self.widgets.earlier: copying.update(self._service.runs(), datetime.now(UTC), chosen)}

    def outlook(self, form: Form, outlook: Outlook, changed: Sequence[Setting]) -> News:
        """What the lines say of the form as it is now, with these settings `changed`."""
        shapes = outlook.card.shapes if outlook.card is not None else ()
        dataset, widgets = outlook.dataset, self.widgets
        found = None
        if dataset is not None:
            found = suggesting.suggestion(dataset, form.settings, shapes, self._mean_tokens(outlook.config, dataset))
        return {
            widgets.changes: changes.line(changed),
            widgets.suggestion: suggesting.line(dataset, found, form.settings),
            widgets.save_settings: run_files.saved(outlook.config if dataset is not None else None),
        }

    def to_standard(self, event: gr.EventData, *values: Any) -> News:
        """One setting, or all of them, back to the standard value."""
        form = self._read(*values)
        shapes = self._service.inspect_model(form.base_model).shapes if form.base_model else ()
        return self._shown(changes.back(str(event.setting), shapes))

    def copy(self, run_id: str | None) -> News:
        """The form filled in as an earlier run had it."""
        if not run_id:
            return {}
        run = self._service.run(run_id)
        return self._fill(run.config, f"the settings of {run.name}")

    def load(self, path: str | None, *values: Any) -> News:
        """The form filled in as a file says."""
        if not path:
            return {}
        form = self._read(*values)
        config = run_files.read(path, name=form.run_name or "run", dataset_id=form.dataset_id or "none")
        return {**self._fill(config, "the settings of the file"), self.widgets.run_name: config.name}

    def take(self, *values: Any) -> News:
        """The suggestion, as it is for the form now.

        Raises:
            DataError: no dataset is chosen.
        """
        form = self._read(*values)
        if not form.dataset_id:
            raise DataError("No dataset is chosen", hint="Drop a file or take an example")
        shapes = self._service.inspect_model(form.base_model).shapes if form.base_model else ()
        dataset, config = self._service.data.get(form.dataset_id), self._page.config_of(*values)
        found = suggesting.suggestion(dataset, form.settings, shapes, self._mean_tokens(config, dataset))
        return self._shown(suggesting.taken(found))

    def _mean_tokens(self, config: RunConfig | None, dataset: Dataset) -> float | None:
        """Of a row, where its tokens have been counted."""
        return self._page.cost.rows(config, dataset).mean(config.data.max_tokens) if config is not None else None

    def _fill(self, config: RunConfig, what: str) -> News:
        """The form as `config` has it; where its dataset is gone, the one that is chosen stays."""
        try:
            news = self._page.data.chosen(self._service.data.get(config.data.dataset_id))
            words = f"The form has {what}."
        except NotFound:
            news, words = {}, f"The form has {what}; their dataset is not here, so the one above stays."
        said = f'<p class="card-hint" role="status">{markup.esc(words)}</p>'
        return {**news, **self._page.settings_of(config), self.widgets.filled: said}

    def _shown(self, values: dict[str, Any]) -> News:
        return {self.widgets.fields[path]: value for path, value in values.items()}


def wire(filling: Filling, as_sent: dict[str, Any]) -> list[Dependency]:
    """Connect the events; those after which the form is to be looked at anew."""
    widgets = filling.widgets
    tells = answers.tells(widgets.banner)
    fields = [widgets.banner, *widgets.fields.values()]
    everything = [*widgets.opened, widgets.run_name]
    loaded = widgets.load_settings.upload(
        tells(filling.load), [widgets.load_settings, *widgets.form], everything, **frame.QUICK
    )
    return [
        widgets.changes.standard(tells(filling.to_standard), widgets.form, fields, **as_sent),
        widgets.suggestion.take(tells(filling.take), widgets.form, fields, **as_sent),
        widgets.earlier.input(tells(filling.copy), widgets.earlier, everything, **as_sent),
        loaded,
    ]
