"""What every page has: the navigation bar, the machine's line in it, and places for what goes wrong.

Ids: `#machine` the machine's line, `#storage` what is said while nothing can be saved, `#banner` the error.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from core.errors import UserError
from jobs.service import Machine, Service
from ui import markup, text
from ui.story import Stories

# For events that answer at once: no queue, no progress overlay, and no entry in Gradio's public list of functions.
QUICK: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
MACHINE_SECONDS = 4.0


def header(page: gr.Blocks, service: Service, stories: Stories) -> gr.HTML:
    """Put the page's top in place; returns the banner for its errors."""
    gr.Navbar(main_page_name="Train")
    status = gr.HTML("", elem_id="machine", apply_default_css=False)
    storage = gr.HTML("", elem_id="storage", apply_default_css=False)

    def look() -> tuple[str, str]:
        return machine_now(service, stories), storage_now(service)

    page.load(look, outputs=[status, storage], **QUICK)
    gr.Timer(MACHINE_SECONDS).tick(look, outputs=[status, storage], **QUICK)
    return gr.HTML("", elem_id="banner", apply_default_css=False)


def storage_now(service: Service) -> str:
    """A banner while nothing can be saved."""
    problem = service.storage_problem()
    return markup.banner(problem) if problem else ""


def machine_now(service: Service, stories: Stories) -> str:
    """The machine's line."""
    try:
        machine = service.machine()
        return machine_line(machine, _step_words(machine, stories))
    except UserError:  # a line that is looked at in passing is no place for errors; the page has one
        return ""


def machine_line(machine: Machine, step_words: str) -> str:
    """`CPU, 2 cores · 18 GB free · captain-r8, step 140 of 300`."""
    parts = [markup.esc(_device(machine)), f"{text.size(machine.memory_free_bytes)} free"]
    if not machine.active_runs:
        parts.append("idle")
    else:
        run, *others = machine.active_runs
        words = markup.esc(f"{run.name}{step_words}{f' and {len(others)} more' if others else ''}")
        parts.append(f'<a href="/runs?run={markup.esc(run.id)}"><i class="pulse"></i>{words}</a>')
    return f'<p class="machine">{"".join(f"<span>{part}</span>" for part in parts)}</p>'


def _device(machine: Machine) -> str:
    first, *others = machine.gpus or (f"CPU, {text.plural(machine.cpu_count, 'core')}",)
    if not others:
        return first
    are_alike = all(other == first for other in others)
    return f"{len(machine.gpus)} × {first}" if are_alike else f"{len(machine.gpus)} GPUs"


def _step_words(machine: Machine, stories: Stories) -> str:
    if not machine.active_runs:
        return ""
    story = stories.of(machine.active_runs[0].id)
    return f", step {story.step:,} of {story.steps:,}" if story.steps else ""
