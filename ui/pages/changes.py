"""What of the form differs from the standard values: how much, a way back for each setting and for all, and under each
widget what was measured about it.

Ids: `#changes` the line with how many differ; `#about-…` what stands under the widget `#setting-…`. A button with
`data-standard` takes one setting back, or all of them. Gradio's hints are plain text, so what stands under the widgets
comes with the page in a `<template>`, from which `static/settings.js` puts a copy into each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from core.models.shapes import LinearShape
from ui import forms, markup, text
from ui.evidence import EVIDENCE
from ui.settings import SETTINGS, TASK, Setting

ALL = "all"
_SCRIPT = """
document.addEventListener('click', (event) => {
  const button = event.target.closest?.('[data-standard]');
  if (button) trigger('standard', {setting: button.dataset.standard});  // Gradio takes a `path` for a file's
});
"""


def box() -> gr.HTML:
    """The line, empty so far; its event `standard` says which `setting` is to go back."""
    return gr.HTML(line(()), elem_id="changes", apply_default_css=False, js_on_load=_SCRIPT)


def line(changed: Sequence[Setting]) -> str:
    """`3 settings changed: rank, alpha, seed`, and the way back."""
    if not changed:
        return '<p class="changes" role="status">Every setting has its standard value.</p>'
    names = ", ".join(setting.label for setting in changed)
    button = f'<button class="as-button small" type="button" data-standard="{ALL}">All back to standard</button>'
    return (
        f'<p class="changes" role="status"><span><strong>{text.plural(len(changed), "setting")} changed</strong>: '
        f"{markup.esc(names)}</span>{button}</p>"
    )


def notes() -> gr.HTML:
    """What stands under the widgets, as a template from which the page's script takes it."""
    rows = "".join(_note(setting) for setting in SETTINGS)
    return gr.HTML(f'<template id="notes">{rows}</template>', apply_default_css=False, elem_classes=["notes"])


def back(path: str, shapes: Sequence[LinearShape]) -> dict[str, Any]:
    """The standard values, by setting path, of the setting at `path` or of `ALL` but the task, which follows from the
    dataset; none for a path that names no setting.
    """
    standard = forms.standards(shapes)
    wanted = [setting.path for setting in SETTINGS if path in (ALL, setting.path) and setting.path != TASK]
    return {name: standard[name] for name in wanted}


def _note(setting: Setting) -> str:
    parts = [] if setting.path == TASK else [_back_button(setting)]
    if setting.path in EVIDENCE:
        parts.append(f"<details><summary>Evidence</summary><p>{markup.esc(EVIDENCE[setting.path])}</p></details>")
    return f'<div class="about" id="{setting.note_id}" data-for="{setting.elem_id}">{"".join(parts)}</div>'


def _back_button(setting: Setting) -> str:
    name = markup.esc(f"{setting.label}: back to standard, {forms.standard_words(setting)}")
    data = f'data-standard="{setting.path}"'
    return f'<button class="back" type="button" {data} aria-label="{name}">Back to standard</button>'
