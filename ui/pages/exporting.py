"""The Library's panel that takes one adapter elsewhere: forms made and checked one by one, and the upload to the hub.

Ids: `#export-panel`, in it `#export-name`, `#export-forms` with one `.export` and its `data-form` for each,
`#push-repo`, `#push-form`, `#push-private`, `#push`, `#push-status`, `#export-close`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from jobs.service import Adapter, Service
from ui import answers, markup
from ui.answers import News
from ui.pages import exporting_view, frame

LOOK_SECONDS = 1.0
# A click on a button of a form goes to the server with the form and what is to be done.
_SCRIPT = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-do]');
  if (!button) return;
  const form = button.closest('.export').dataset.form;
  if (button.dataset.do === 'make') trigger('make', {form});
  else trigger('halt', {form});
});
"""


@dataclass(frozen=True, kw_only=True)
class Widgets:
    """What stands in the panel."""

    panel: gr.Column
    name: gr.HTML
    forms: gr.HTML
    repo: gr.Textbox
    form: gr.Dropdown
    private: gr.Checkbox
    push: gr.Button
    status: gr.HTML
    close: gr.Button
    chosen: gr.State
    timer: gr.Timer

    @property
    def all(self) -> list[Component]:
        """What a handler may change."""
        return [self.panel, self.name, self.forms, self.form, self.status, self.chosen, self.timer]  # type: ignore[list-item]


def build() -> Widgets:
    """Put the panel into the open Blocks context, out of sight."""
    with gr.Column(visible=False, elem_id="export-panel", elem_classes=["card"]) as panel:
        name = gr.HTML("", elem_id="export-name", apply_default_css=False)
        forms = gr.HTML("", elem_id="export-forms", apply_default_css=False, js_on_load=_SCRIPT)
        gr.HTML(markup.heading("Push to the hub", exporting_view.PUBLIC), apply_default_css=False)
        with gr.Row(elem_classes=["push-bar"]):
            repo = gr.Textbox("", label="Repository", placeholder="my-account/my-adapter", elem_id="push-repo", scale=3)
            form = gr.Dropdown([], label="Form", elem_id="push-form", scale=2)
            private = gr.Checkbox(True, label="Private", elem_id="push-private", scale=0, min_width=110)
            push = gr.Button("Push to the hub", elem_id="push", size="md", scale=0, min_width=150)
        status = gr.HTML("", elem_id="push-status", apply_default_css=False)
        close = gr.Button("Close", elem_id="export-close", size="sm")
    return Widgets(
        panel=panel, name=name, forms=forms, repo=repo, form=form, private=private, push=push, status=status,
        close=close, chosen=gr.State(""), timer=gr.Timer(LOOK_SECONDS, active=False),
    )  # fmt: skip


class ExportPanel:
    """The handlers. Each returns the news for the widgets that change."""

    def __init__(self, service: Service, widgets: Widgets) -> None:
        self.service, self.widgets = service, widgets

    def open(self, event: gr.EventData) -> News:
        """Show the panel for the adapter that was clicked."""
        adapter = self.service.adapter(str(event.id))
        widgets, forms = self.widgets, self.service.exports.forms(adapter.id)
        choices = [(view.form.title, view.form.key) for view in forms]
        return {
            **self.look(adapter.id),
            widgets.panel: gr.update(visible=True),
            widgets.name: markup.heading(
                f"Take {adapter.name} elsewhere", "Each export is read back before you get it."
            ),
            widgets.form: gr.update(choices=choices, value=choices[0][1]),
            widgets.chosen: adapter.id,
        }

    def look(self, adapter_id: str) -> News:
        """Where everything stands; it is looked at again while something goes on."""
        widgets = self.widgets
        if not adapter_id:
            return {widgets.timer: gr.update(active=False)}
        forms, push = self.service.exports.forms(adapter_id), self.service.exports.pushed(adapter_id)
        goes_on = any(state in ("waiting", "going on") for state in (push.state, *(view.state for view in forms)))
        return {
            widgets.forms: exporting_view.forms_html(self.service.adapter(adapter_id), forms),
            widgets.status: exporting_view.push_html(push),
            widgets.timer: gr.update(active=goes_on),
        }

    def make(self, adapter_id: str, event: gr.EventData) -> News:
        """Make one form."""
        self.service.exports.start(adapter_id, str(event.form))
        return self.look(adapter_id)

    def halt(self, adapter_id: str, event: gr.EventData) -> News:
        """Give one up."""
        self.service.exports.stop(adapter_id, str(event.form))
        return self.look(adapter_id)

    def push(self, adapter_id: str, repo_id: str, form: str, private: bool) -> News:
        """Upload one form."""
        self.service.exports.push(adapter_id, repo_id or "", form, private)
        return self.look(adapter_id)

    def close(self) -> News:
        """Put the panel out of sight; what goes on goes on."""
        widgets = self.widgets
        return {widgets.panel: gr.update(visible=False), widgets.chosen: "", widgets.timer: gr.update(active=False)}


def wire(service: Service, widgets: Widgets, banner: gr.HTML, asked: Callable[..., Any]) -> None:
    """Connect the panel; `asked` is the event that carries the id of an adapter to open it for."""
    panel, tells, outputs = ExportPanel(service, widgets), answers.tells(banner), [banner, *widgets.all]
    chosen, quick = widgets.chosen, frame.QUICK
    asked(tells(panel.open), None, outputs, **quick)
    widgets.forms.make(tells(panel.make), [chosen], outputs, **quick)
    widgets.forms.halt(tells(panel.halt), [chosen], outputs, **quick)
    values = [chosen, widgets.repo, widgets.form, widgets.private]
    gr.on([widgets.push.click, widgets.repo.submit], tells(panel.push), values, outputs, **quick)
    widgets.close.click(tells(panel.close), None, outputs, **quick)
    widgets.timer.tick(answers.tells(banner, clears=False)(panel.look), [chosen], outputs, **quick)


def button(adapter: Adapter) -> str:
    """What opens the panel; a whole model, which was trained in full, is one already."""
    if adapter.method == "full":
        return ""
    return '<button class="as-button small plain formats" type="button">Other formats</button>'
