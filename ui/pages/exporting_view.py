"""Exports as pieces of HTML: every form with what it is for, where it stands, and what reading it back has shown.

Pure functions from what `jobs.service` answers. Buttons carry what they are for in `data-form` and `data-do`; whoever
puts them into a page listens.
"""

from __future__ import annotations

from collections.abc import Sequence

from jobs.service import Adapter, FormView, PushView
from ui import addresses, markup, text

PHASES = {
    "starting": "Starting",
    "writing": "Writing",
    "checking": "Reading it back in another process",
    "packing": "Packing",
    "uploading": "Uploading",
    "done": "Nearly done",
}
PUBLIC = (
    "The files of the form you choose, and a card: the adapter's name, its base and its licence, the settings, the "
    "held-out loss, how many rows it was trained on and their SHA-256, and the figure of the check. No row of the data."
)


def forms_html(adapter: Adapter, forms: Sequence[FormView]) -> str:
    """A line for each form."""
    items = "".join(_item(adapter, view) for view in forms)
    return f'<ul class="exports">{items}</ul>'


def push_html(push: PushView) -> str:
    """Where the last upload stands."""
    if push.state in ("waiting", "going on"):
        return markup.loading(f"{_doing(push.state, push.phase)} to {push.repo_id} …")
    if push.state == "failed":
        return markup.banner("Nothing was uploaded", push.sentence)
    if push.state == "done":
        link = f'<a href="{markup.esc(push.url)}" rel="noopener noreferrer" target="_blank">{markup.esc(push.url)}</a>'
        return f'<p class="card-hint" id="pushed">It is at {link}.</p>'
    return ""


def _item(adapter: Adapter, view: FormView) -> str:
    esc, form = markup.esc, view.form
    return (
        f'<li class="export {esc(view.state.replace(" ", "-"))}" data-form="{esc(form.key)}">'
        f"<div><strong>{esc(form.title)}</strong> <span>{esc(form.purpose)}</span>{_said(view)}</div>"
        f'<div class="export-actions">{_actions(adapter, view)}</div></li>'
    )


def _said(view: FormView) -> str:
    if view.state in ("waiting", "going on"):
        return f'<p role="status">{markup.esc(_doing(view.state, view.phase))} …</p>'
    if view.state == "failed":
        return f'<p class="export-failure" role="alert">{markup.esc(view.sentence)}</p>'
    if view.verdict is not None:
        return f'<p class="export-figure">{markup.esc(view.verdict.sentence)}</p>'
    return ""


def _doing(state: str, phase: str) -> str:
    return "Waits for another export" if state == "waiting" else PHASES.get(phase, phase)


def _actions(adapter: Adapter, view: FormView) -> str:
    if view.state in ("waiting", "going on"):
        return _button(view, "stop", "Stop")
    if view.state == "done":
        href = markup.esc(addresses.adapter_zip(adapter.id, view.form.key))
        size = markup.esc(text.size(view.bytes))
        return f'<a class="as-button small primary" href="{href}" download>Download<small>{size}</small></a>'
    return _button(view, "make", "Make" if view.state == "absent" else "Try again")


def _button(view: FormView, what: str, words: str) -> str:
    label = markup.esc(f"{words}: {view.form.title}")
    return f'<button class="as-button small" type="button" data-do="{what}" aria-label="{label}">{words}</button>'
