"""What the Runs page is made of, and what one visitor's page shows of it already."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gradio as gr


@dataclass(frozen=True, kw_only=True)
class RunWidgets:
    """Everything on the page that handlers answer for: the list's, one run's, and those of a comparison."""

    banner: gr.HTML
    timer: gr.Timer
    seen: gr.State

    list_view: gr.Column
    run_queue: gr.HTML
    groups: gr.HTML
    search: gr.Textbox
    tags: gr.HTML
    run_list: gr.HTML

    run_view: gr.Column
    head: gr.HTML
    progress: gr.HTML
    verdict: gr.HTML
    tiles: gr.HTML
    learned: gr.HTML
    pause: gr.Button
    stop: gr.Button
    cancel: gr.Button
    resume: gr.Button
    keep: gr.Button
    download: gr.Button
    compare: gr.Button
    as_base: gr.Button
    again: gr.Button
    tools: gr.HTML
    loss: gr.HTML
    perplexity: gr.HTML
    accuracy: gr.HTML
    rate: gr.HTML
    norm: gr.HTML
    memory: gr.HTML
    speed: gr.HTML
    samples: gr.HTML
    settings: gr.HTML
    checkpoints: gr.HTML
    timeline: gr.HTML
    log: gr.HTML
    own_tags: gr.Textbox
    own_note: gr.Textbox
    save_notes: gr.Button
    notes_saved: gr.HTML

    compare_view: gr.Column
    compare_head: gr.HTML
    compared_loss: gr.HTML
    compared_evaluation: gr.HTML
    differences: gr.HTML

    @property
    def all(self) -> list[Any]:
        """Every widget, as an event's outputs."""
        return [getattr(self, name) for name in self.__dataclass_fields__]


@dataclass(kw_only=True)
class Seen:
    """What one visitor's page shows already. `run_id` is empty while it shows the list, or the one group of a sweep
    that `group_id` names, or the runs that are `compared`. `is_appraised_now` says that it is being measured what the
    run learned, for which the page goes on looking. `words`, `tag` and `page` say which part of the list.
    """

    run_id: str = ""
    group_id: str = ""
    compared: tuple[str, ...] = ()
    state: str = ""
    is_appraised_now: bool = False
    version: int = -1
    html: str | None = None
    queue: str | None = None
    groups: str = ""
    tags: str = ""
    words: str = ""
    tag: str = ""
    page: int = 0
    told: dict[str, int] = field(default_factory=dict)

    def is_news(self, name: str, html: str) -> bool:
        """Whether that is not what was last shown under this name; from now on it is."""
        now = hash(html)  # not the text itself: a session is kept for each open tab
        is_new = self.told.get(name) != now
        self.told[name] = now
        return is_new
