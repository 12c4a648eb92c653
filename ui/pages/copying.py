"""The menu "Settings of an earlier run": which runs it offers, and how each is told from the others.

Id: `#earlier-run`. Filling the form is `ui.pages.filling`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import gradio as gr

from jobs.service import Run
from ui import forms, text

MOST_RUNS = 100
LONGEST_CHANGES = 60


def menu() -> gr.Dropdown:
    """The menu, without runs so far; it is out of sight until there is one."""
    return gr.Dropdown(
        [],
        label="Settings of an earlier run",
        info="Choose one to fill the form in as it had it",
        elem_id="earlier-run",
        visible=False,
        interactive=True,
    )


def update(runs: Sequence[Run], now: datetime, chosen: str | None = None) -> Any:
    """The menu with `runs`, which come newest first; none chosen where `chosen` is not among those that it offers."""
    choices = [(words(run, now), run.id) for run in runs[:MOST_RUNS]]
    is_there = any(run_id == chosen for _, run_id in choices)
    return gr.update(choices=choices, value=chosen if is_there else None, visible=bool(choices))


def words(run: Run, now: datetime) -> str:
    """`captain-r8 · finished, 4 min ago · captain.jsonl · rank, seed`: the last are the settings that were changed."""
    state = text.STATE_WORDS.get(run.state, run.state).lower()
    changed = ", ".join(setting.label.lower() for setting in forms.changed(run.config)) or "all standard"
    if len(changed) > LONGEST_CHANGES:
        changed = changed[:LONGEST_CHANGES].rstrip(", ") + " …"
    return f"{run.name} · {state}, {text.ago(run.created_at, now)} · {run.dataset_name} · {changed}"
