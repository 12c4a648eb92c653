"""The Runs page: all runs, one run as it goes on, or several over each other. It only ever reads; a run does not know
who is looking.

`/runs` lists (`ui.pages.run_listing`), `/runs?run=ID` follows one (`ui.pages.run_page`), `/runs?group=ID` shows the
runs of one sweep side by side (`ui.pages.sweep_view`), and `/runs?compare=ID,ID` draws several over each other
(`ui.pages.run_compare`). Ids: `#run-queue` (`ui.pages.queue`), `#run-groups`, `#run-search`, `#run-tags`, `#run-list`;
`#run-head` with `#run-state` (its `data-state` is the state's word), `#run-progress`, `#run-tiles`, `#run-verdict`,
`#run-learned` (`ui.pages.run_learned`); `#pause-run`, `#stop-run`, `#cancel-run`, `#resume-run`, `#keep-run`,
`#download-adapter`, `#compare`, `#use-as-base`, `#again`; `#chart-tools`, `#chart-loss` and the other charts;
`#run-samples`, `#run-notes`, `#run-settings`, `#run-checkpoints`, `#run-timeline`, `#run-log`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import gradio as gr

from core.errors import ConfigError, NotFound, RunError
from jobs.service import Run, Service
from ui import answers, markup
from ui.answers import News
from ui.pages import frame, queue, run_compare, run_page, sweep_view
from ui.pages.run_compare import Comparison
from ui.pages.run_listing import LIST_SCRIPT, TAGS_SCRIPT, Listing
from ui.pages.run_page import OneRun
from ui.pages.run_state import RunWidgets, Seen
from ui.story import Stories

__all__ = ["RunsPage", "Seen", "build"]

TICK_SECONDS = 1.0


def build(page: gr.Blocks, service: Service, stories: Stories) -> None:
    """Put the page into the open Blocks context."""
    banner = frame.header(page, service, stories)
    with gr.Column(elem_id="run-list-view") as list_view:
        gr.HTML(markup.page_heading("Runs", "A run goes on by itself: close the page, or come back tomorrow."))
        with gr.Row(elem_classes=["run-finder"]):
            search = gr.Textbox(
                show_label=False, placeholder="Search by name, dataset, tag, state …",
                elem_id="run-search", max_length=200, container=False, label="Search runs",
            )  # fmt: skip
            tags = gr.HTML("", elem_id="run-tags", apply_default_css=False, js_on_load=TAGS_SCRIPT)
        run_queue = gr.HTML("", elem_id="run-queue", apply_default_css=False, js_on_load=queue.SCRIPT)
        groups = sweep_view.place()
        run_list = gr.HTML(
            markup.loading("Reading the runs"), elem_id="run-list", apply_default_css=False, js_on_load=LIST_SCRIPT
        )
    with gr.Column(visible=False, elem_id="run-view") as run_view:
        one = run_page.place()
    with gr.Column(visible=False, elem_id="compare-view") as compare_view:
        several = run_compare.place()
    widgets = RunWidgets(
        banner=banner, list_view=list_view, search=search, tags=tags, run_queue=run_queue, groups=groups,
        run_list=run_list, run_view=run_view, compare_view=compare_view, timer=gr.Timer(TICK_SECONDS),
        seen=gr.State(None), **one, **several,
    )  # fmt: skip
    _wire(page, RunsPage(service, stories, widgets))


class RunsPage:
    """The page's handlers."""

    def __init__(self, service: Service, stories: Stories, widgets: RunWidgets) -> None:
        self.service, self.widgets = service, widgets
        self.listing = Listing(service, stories, widgets)
        self.one = OneRun(service, stories, widgets)
        self.comparison = Comparison(service, stories, widgets)

    @functools.cached_property
    def gpus(self) -> int:
        """How many GPUs there are; the first look at them takes seconds."""
        return len(self.service.machine().gpus)

    def open(self, request: gr.Request) -> News:
        """A visitor arrives: at the list, at one run, at the runs of one sweep, or at several to compare."""
        asked = request.query_params
        seen = Seen(run_id=asked.get("run", ""), group_id=asked.get("group", ""))
        try:
            if asked.get("compare"):
                seen.compared = run_compare.asked_for(asked["compare"])
            return {self.widgets.seen: seen, **self.look(seen)}
        except (NotFound, ConfigError) as error:
            seen = Seen()
            return {self.widgets.banner: answers.explain(error), self.widgets.seen: seen, **self.look(seen)}

    def look(self, seen: Seen | None) -> News:
        """What is new since the last look."""
        if seen is None:
            return {}
        if seen.run_id:
            return self.one.look(seen, self.gpus)
        if seen.compared:
            return self.comparison.look(seen)
        return self.listing.look_at_group(seen) if seen.group_id else self.listing.look(seen, self.gpus)

    def tick(self, seen: Seen | None, words: str) -> News:
        """What is new since the last look; words that were typed while the page was on its way are heeded here."""
        if seen is not None and not seen.run_id and not seen.compared and self.listing.is_other_search(seen, words):
            return self.search(seen, words)
        return self.look(seen)

    def stop(self, seen: Seen) -> News:
        """Finish the step and keep what was learned."""
        self.service.stop_run(seen.run_id)
        return self.look(seen)

    def pause(self, seen: Seen) -> News:
        """Let it give the machine back, to go on when it is resumed."""
        self.service.pause_run(seen.run_id)
        return self.look(seen)

    def cancel(self, seen: Seen) -> News:
        """Give the run up."""
        self.service.cancel_run(seen.run_id)
        return self.look(seen)

    def resume(self, seen: Seen) -> News:
        """Go on from the last checkpoint."""
        self.service.resume_run(seen.run_id)
        return {**self.look(seen), self.widgets.timer: gr.Timer(active=True)}

    def keep(self, seen: Seen) -> News:
        """End with what the last checkpoint holds."""
        self.service.keep_run(seen.run_id)
        return {**self.look(seen), self.widgets.timer: gr.Timer(active=True)}

    def appraise(self, seen: Seen) -> News:
        """Let it be measured what the run learned."""
        return self.one.appraise(seen, self.gpus)

    def desist(self, seen: Seen) -> News:
        """Give that up."""
        return self.one.desist(seen, self.gpus)

    def put_notes(self, seen: Seen, tags: str, note: str) -> News:
        """Keep what was typed about the run."""
        return self.one.put_notes(seen, tags, note, self.gpus)

    def search(self, seen: Seen | None, words: str) -> News:
        """Show the runs that have these words; nothing before the page knows what it shows."""
        return {} if seen is None else self.listing.search(seen, words, self.gpus)

    def filter(self, seen: Seen, event: gr.EventData) -> News:
        """Show the runs that have a tag."""
        return self.listing.filter(seen, str(event.tag), self.gpus)

    def turn(self, seen: Seen, event: gr.EventData) -> News:
        """Show newer or older runs."""
        return self.listing.turn(seen, 1 if int(event.by) > 0 else -1, self.gpus)

    def move(self, seen: Seen, event: gr.EventData) -> News:
        """Let a waiting run change places with others."""
        self.service.reorder_run(str(event.id), queue.STEPS[str(event.to)])
        return self.look(seen)

    def prioritize(self, seen: Seen, event: gr.EventData) -> News:
        """Say how urgent a waiting run is."""
        run: Run = self.service.run(str(event.id))
        if run.state != "queued":
            raise RunError(f"The run {run.name} is not in the queue: it is {run.state}")
        self.service.set_priority(run.id, int(event.priority))
        return self.look(seen)

    def end_group(self, seen: Seen, event: gr.EventData) -> News:
        """Give up what waits of a sweep, or end it as a whole."""
        sweep_view.end(self.service, event)
        return self.look(seen)


def _wire(page: gr.Blocks, handlers: RunsPage) -> None:
    """Connect the widgets' events with the handlers."""
    widgets, quick = handlers.widgets, frame.QUICK
    tells = answers.tells(widgets.banner)
    page.load(tells(handlers.open), None, widgets.all, **quick)
    quietly = answers.tells(widgets.banner, clears=False)
    looked_for = [widgets.seen, widgets.search]
    widgets.timer.tick(quietly(handlers.tick), looked_for, widgets.all, **quick)
    clicks: list[tuple[gr.Button, Callable[[Seen], News]]] = [
        (widgets.pause, handlers.pause), (widgets.stop, handlers.stop), (widgets.cancel, handlers.cancel),
        (widgets.resume, handlers.resume), (widgets.keep, handlers.keep),
    ]  # fmt: skip
    for button, handler in clicks:
        button.click(tells(handler), widgets.seen, widgets.all, trigger_mode="once", **quick)
    found = [widgets.banner, widgets.run_list, widgets.run_queue, widgets.groups, widgets.tags]
    widgets.search.change(tells(handlers.search), looked_for, found, trigger_mode="always_last", **quick)
    widgets.tags.filter(tells(handlers.filter), widgets.seen, found, **quick)
    widgets.run_list.turn(tells(handlers.turn), widgets.seen, found, **quick)
    widgets.run_queue.move(tells(handlers.move), widgets.seen, widgets.all, **quick)
    widgets.run_queue.prioritize(tells(handlers.prioritize), widgets.seen, widgets.all, **quick)
    widgets.groups.end_group(tells(handlers.end_group), widgets.seen, widgets.all, **quick)
    widgets.checkpoints.verify(tells(handlers.one.verify), widgets.seen, [widgets.banner, widgets.checkpoints], **quick)
    widgets.learned.appraise(tells(handlers.appraise), widgets.seen, widgets.all, trigger_mode="once", **quick)
    widgets.learned.desist(tells(handlers.desist), widgets.seen, widgets.all, trigger_mode="once", **quick)
    typed = [widgets.seen, widgets.own_tags, widgets.own_note]
    saved = [widgets.banner, widgets.head, widgets.own_tags, widgets.notes_saved]
    widgets.save_notes.click(tells(handlers.put_notes), typed, saved, **quick)
