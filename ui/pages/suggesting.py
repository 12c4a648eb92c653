"""The line that offers settings for as many rows as there are, and the sentence on each.

Ids: `#suggestion`, in it `#take-suggestion`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from core.models.shapes import LinearShape
from core.suggest import Data, Suggestion, suggest, width_of
from jobs.service import Dataset
from ui import forms, markup, text
from ui.settings import METHOD

_SCRIPT = """
element.addEventListener('click', (event) => { if (event.target.closest('#take-suggestion')) trigger('take'); });
"""
_LABELS = {
    "optim.learning_rate": "Learning rate",
    "optim.batch_size": "Batch size",
    "optim.epochs": "Epochs",
    "optim.evaluations": "Evaluations",
}
_CAUTION = "A place to begin, not the best that there is: the held-out loss says whether to go on."


def box() -> gr.HTML:
    """The line, empty so far; its event `take` says that the person wants it."""
    return gr.HTML("", elem_id="suggestion", apply_default_css=False, js_on_load=_SCRIPT)


def suggestion(
    dataset: Dataset, form: Mapping[str, Any], shapes: Sequence[LinearShape], mean_tokens: float | None = None
) -> Suggestion:
    """What suits the dataset's rows but those held out, for the form's method and rank."""
    held_out = form["data.holdout"] if isinstance(form["data.holdout"], int | float) else 0.0
    data = Data(rows=max(1, round(dataset.rows * (1 - min(0.5, max(0.0, held_out))))), mean_tokens=mean_tokens)
    rank = int(form["lora.rank"]) if isinstance(form["lora.rank"], int | float) else 8
    return suggest(data, method=form[METHOD], rank=rank, width=width_of(shapes))


def taken(found: Suggestion) -> dict[str, Any]:
    """What the widgets show once it is taken, by setting path. The rate is the standard one, so that its box is empty,
    and a number of steps gives way to the epochs.
    """
    return {
        "optim.learning_rate": "",
        "optim.steps": "",
        "optim.batch_size": found.batch_size,
        "optim.epochs": found.epochs,
        "optim.evaluations": found.evaluations,
    }


def line(dataset: Dataset | None, found: Suggestion | None, form: Mapping[str, Any]) -> str:
    """`For 80 rows: batch 8, 5 epochs, 10 evaluations.` with the reasons, and the click that takes it unless it is in
    the form already; nothing while there is no dataset.
    """
    if dataset is None or found is None:
        return ""
    rate = f", learning rate {text.number(float(f'{found.learning_rate:.2g}'))}" if found.learning_rate else ""
    what = (
        f"batch {found.batch_size}, {text.number(found.epochs)} {'epoch' if found.epochs == 1 else 'epochs'}, "
        f"{text.plural(found.evaluations, 'evaluation')}{rate}"
    )
    is_in = all(_same(form[path], value) for path, value in taken(found).items())
    action = (
        '<span class="taken"><span aria-hidden="true">✓ </span>in the form</span>'
        if is_in
        else '<button id="take-suggestion" class="as-button small" type="button">Take it</button>'
    )
    reasons = "".join(
        f"<li><strong>{markup.esc(_LABELS[path])}</strong> {markup.esc(words)}.</li>"
        for path, words in found.reasons.items()
    )
    return (
        f'<div class="suggestion"><p><span>For {text.plural(dataset.rows, "row")}: {markup.esc(what)}.</span> '
        f"{action}</p><details><summary>Why these</summary><ul>{reasons}<li>{_CAUTION}</li></ul></details></div>"
    )


def _same(shown: Any, wanted: Any) -> bool:
    return forms.bare(shown) == forms.bare(wanted)
