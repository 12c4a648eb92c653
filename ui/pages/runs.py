"""The Runs page: all runs, or one run as it goes on. It only ever reads; a run does not know who is looking.

`/runs` lists, `/runs?run=ID` follows one, `/runs?group=ID` shows the runs of one sweep side by side. Ids: `#run-queue`
(`ui.pages.queue`), `#run-groups` (`ui.pages.sweep_view`), `#run-list`, `#run-head` with
`#run-state` (its `data-state` is the state's word), `#run-progress`, `#run-tiles`, `#run-verdict`; `#pause-run`,
`#stop-run`, `#cancel-run`, `#resume-run`, `#keep-run`, `#download-adapter`, `#compare`, `#use-as-base`, `#again`;
`#chart-loss`, `#chart-rate`, `#chart-memory`, `#chart-speed`; `#run-settings`, `#run-timeline`, `#run-log`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import gradio as gr

from core.errors import NotFound, RunError
from jobs.service import ENDED_STATES, RESUMABLE_STATES, Run, Service
from ui import addresses, answers, charts, markup
from ui.answers import News
from ui.pages import frame, queue, run_view, sweep_view
from ui.story import Stories, Story

TICK_SECONDS = 1.0
LOG_LINES = 60
LISTED_RUNS = 50


def build(page: gr.Blocks, service: Service, stories: Stories) -> None:
    """Put the page into the open Blocks context."""
    banner = frame.header(page, service, stories)
    with gr.Column(elem_id="run-list-view") as list_view:
        gr.HTML(markup.page_heading("Runs", "A run goes on by itself: close the page, or come back tomorrow."))
        run_queue = gr.HTML("", elem_id="run-queue", apply_default_css=False, js_on_load=queue.SCRIPT)
        groups = sweep_view.place()
        run_list = gr.HTML(markup.loading("Reading the runs"), elem_id="run-list", apply_default_css=False)
    with gr.Column(visible=False, elem_id="run-view") as run_view_column:
        parts = _run_parts()
    widgets = Widgets(
        banner=banner, list_view=list_view, run_queue=run_queue, groups=groups, run_list=run_list,
        run_view=run_view_column, timer=gr.Timer(TICK_SECONDS), seen=gr.State(None), **parts,
    )  # fmt: skip
    _wire(page, RunsPage(service, stories, widgets))


@dataclass(frozen=True, kw_only=True)
class Widgets:
    """Everything on the page that handlers answer for."""

    banner: gr.HTML
    list_view: gr.Column
    run_queue: gr.HTML
    groups: gr.HTML
    run_list: gr.HTML
    run_view: gr.Column
    timer: gr.Timer
    seen: gr.State
    head: gr.HTML
    progress: gr.HTML
    verdict: gr.HTML
    tiles: gr.HTML
    pause: gr.Button
    stop: gr.Button
    cancel: gr.Button
    resume: gr.Button
    keep: gr.Button
    download: gr.Button
    compare: gr.Button
    as_base: gr.Button
    again: gr.Button
    loss: gr.HTML
    rate: gr.HTML
    memory: gr.HTML
    speed: gr.HTML
    settings: gr.HTML
    timeline: gr.HTML
    log: gr.HTML

    @property
    def all(self) -> list[Any]:
        """Every widget, as an event's outputs."""
        return [getattr(self, name) for name in self.__dataclass_fields__]


@dataclass(kw_only=True)
class Seen:
    """What one visitor's page shows already. `run_id` is empty while it shows the list, or the one group of a sweep
    that `group_id` names.
    """

    run_id: str = ""
    state: str = ""
    version: int = -1
    html: str | None = None
    queue: str | None = None
    group_id: str = ""
    groups: str = ""


class RunsPage:
    """The page's handlers."""

    def __init__(self, service: Service, stories: Stories, widgets: Widgets) -> None:
        self.service = service
        self.stories = stories
        self.widgets = widgets

    @functools.cached_property
    def gpus(self) -> int:
        """How many GPUs there are; the first look at them takes seconds."""
        return len(self.service.machine().gpus)

    def open(self, request: gr.Request) -> News:
        """A visitor arrives, at the list, at one run or at the runs of one sweep."""
        asked = request.query_params
        seen = Seen(run_id=asked.get("run", ""), group_id=asked.get("group", ""))
        try:
            return {self.widgets.seen: seen, **self.look(seen)}
        except NotFound as error:
            seen = Seen()
            return {self.widgets.banner: answers.explain(error), self.widgets.seen: seen, **self.look(seen)}

    def look(self, seen: Seen | None) -> News:
        """What is new since the last look."""
        if seen is None:
            return {}
        if seen.run_id:
            return self._look_at_run(seen)
        return self._look_at_group(seen) if seen.group_id else self._look_at_list(seen)

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

    def move(self, seen: Seen, event: gr.EventData) -> News:
        """Let a waiting run change places with others."""
        self.service.reorder_run(str(event.id), queue.STEPS[str(event.to)])
        return self.look(seen)

    def prioritize(self, seen: Seen, event: gr.EventData) -> News:
        """Say how urgent a waiting run is."""
        run = self.service.run(str(event.id))
        if run.state != "queued":
            raise RunError(f"The run {run.name} is not in the queue: it is {run.state}")
        self.service.set_priority(run.id, int(event.priority))
        return self.look(seen)

    def end_group(self, seen: Seen, event: gr.EventData) -> News:
        """Give up what waits of a sweep, or end it as a whole."""
        sweep_view.end(self.service, event)
        return self.look(seen)

    def _look_at_list(self, seen: Seen) -> News:
        waiting, everything = self.service.queue(), self.service.runs()
        groups = sweep_view.newest_groups(self.service, everything)
        elsewhere = {run.id for run in waiting} if len(waiting) > 1 else set()
        elsewhere |= {outcome.run.id for group in groups for outcome in group.outcomes}
        runs = [run for run in everything if run.id not in elsewhere][:LISTED_RUNS]
        told = [(run, self.stories.of(run.id)) for run in runs]
        listed = run_view.run_list(told, _now(), self.gpus > 1) if told else "" if everything else _no_runs()
        return self._listed(seen, listed, queue.section(waiting, self.gpus), sweep_view.sections(groups))

    def _look_at_group(self, seen: Seen) -> News:
        shown = sweep_view.section(self.service.sweeps.group(seen.group_id))
        return self._listed(seen, "", '<p class="run-head"><a class="back" href="/runs">All runs</a></p>', shown)

    def _listed(self, seen: Seen, listed: str, queued: str, groups: str) -> News:
        """What of the list has changed."""
        news: News = {}
        if listed != seen.html:
            news[self.widgets.run_list] = seen.html = listed
        if queued != seen.queue:
            news[self.widgets.run_queue] = seen.queue = queued
        if groups != seen.groups:
            news[self.widgets.groups] = seen.groups = groups
        return news

    def _look_at_run(self, seen: Seen) -> News:
        widgets, run = self.widgets, self.service.run(seen.run_id)
        story = self.stories.of(run.id)
        waits = queue.waits(run.id, self.service.queue(), self.gpus) if run.state == "queued" else ""
        news: News = {widgets.progress: run_view.progress(run, story, _now(), waits)}
        if seen.version == -1:
            news |= {widgets.list_view: gr.update(visible=False), widgets.run_view: gr.update(visible=True)}
        if run.state != seen.state:
            news |= self._state_news(run)
        if (story.version, run.state) != (seen.version, seen.state):
            news |= self._story_news(run, story)
        seen.version, seen.state = story.version, run.state
        return news

    def _state_news(self, run: Run) -> News:
        widgets = self.widgets
        is_active = run.state not in ENDED_STATES
        has_result, is_model = run.adapter_id is not None, run.config.method == "full"
        is_resumable, is_kept = run.state in RESUMABLE_STATES, run.wish == "keep"
        zip_link = addresses.adapter_zip(run.adapter_id) if run.adapter_id else None
        can_chat = has_result and run.config.task == "chat"
        what, name = "base" if is_model else "adapters", run_view.result_word(run)
        of_checkpoint = "" if run.state == "paused" else " of the last checkpoint"
        return {
            widgets.head: run_view.head(run, run.device is not None and self.gpus > 1),
            widgets.pause: gr.update(visible=run.state in ("queued", "preparing", "running") and not is_kept),
            widgets.stop: gr.update(visible=run.state in ("preparing", "running", "pausing") and not is_kept),
            widgets.cancel: gr.update(visible=is_active),
            widgets.resume: gr.update(visible=is_resumable),
            widgets.keep: gr.update(
                visible=is_resumable and run.checkpoint_step is not None, value=f"Keep the {name}{of_checkpoint}"
            ),
            widgets.download: gr.update(visible=has_result, link=zip_link, value=f"Download {name}"),
            widgets.compare: gr.update(visible=can_chat, link=f"/playground?{what}={run.adapter_id}"),
            widgets.as_base: gr.update(visible=has_result and is_model, link=f"/?base={run.adapter_id}"),
            widgets.again: gr.update(visible=not is_active, link=f"/?from={run.id}"),
            widgets.timer: gr.Timer(active=is_active),
        }

    def _story_news(self, run: Run, story: Story) -> News:
        widgets = self.widgets
        news: News = {
            widgets.tiles: run_view.tiles(run, story),
            widgets.verdict: run_view.verdict(run, story),
            widgets.settings: run_view.settings(run, story),
            widgets.timeline: run_view.timeline(story),
            widgets.log: _log_html(self.service.log_tail(run.id, LOG_LINES)),
        }
        if story.last:
            news[widgets.loss] = charts.as_text(charts.loss(story, run.id))
            news[widgets.rate] = charts.as_text(charts.learning_rate(story, run.id))
            news[widgets.memory] = charts.as_text(charts.memory(story, run.id))
            news[widgets.speed] = charts.as_text(charts.speed(story, run.id))
        return news


def _run_parts() -> dict[str, Any]:
    """One run's part of the page."""
    with gr.Row(elem_classes=["run-top"]):
        head = gr.HTML(markup.loading("Reading the run"), elem_id="run-head", apply_default_css=False)
        with gr.Row(elem_classes=["actions"], elem_id="run-actions"):
            actions = _action_buttons()
    with gr.Column(elem_classes=["card", "run-now"]):
        html = {
            name: gr.HTML("", elem_id=f"run-{name}", apply_default_css=False)
            for name in ("verdict", "progress", "tiles")
        }
    with gr.Row(elem_classes=["charts"]):
        curves = {
            "loss": charts.chart("chart-loss", "Loss"),
            "speed": charts.chart("chart-speed", "Tokens a second"),
            "memory": charts.chart("chart-memory", "Memory"),
            "rate": charts.chart("chart-rate", "Learning rate"),
        }
    with gr.Column(elem_classes=["details"]):
        for name, words in (("settings", "Settings"), ("timeline", "Phases and notes"), ("log", "Log")):
            with gr.Accordion(words, open=False, elem_id=f"run-{name}", elem_classes=["folded"]):
                html[name] = gr.HTML("", apply_default_css=False)
    return {"head": head, **actions, **html, **curves}


def _action_buttons() -> dict[str, gr.Button]:
    def button(words: str, elem_id: str, variant: Any = "secondary", **more: Any) -> gr.Button:
        return gr.Button(
            words, variant=variant, elem_id=elem_id, visible=False, size="md", scale=0, min_width=40, **more
        )

    return {
        "resume": button("Resume", "resume-run", "primary"),
        "keep": button("Keep the adapter", "keep-run"),
        "pause": button("Pause", "pause-run"),
        "stop": button("Stop and keep", "stop-run"),
        "cancel": button("Cancel", "cancel-run", "stop"),
        "compare": button("Compare in Playground", "compare", "primary", link="/playground"),
        "download": button("Download adapter", "download-adapter", link="/library"),
        "as_base": button("Use as base model", "use-as-base", link="/"),
        "again": button("Start from these settings", "again", link="/"),
    }


def _wire(page: gr.Blocks, handlers: RunsPage) -> None:
    """Connect the widgets' events with the handlers."""
    widgets, quick = handlers.widgets, frame.QUICK
    tells = answers.tells(widgets.banner)
    page.load(tells(handlers.open), None, widgets.all, **quick)
    quietly = answers.tells(widgets.banner, clears=False)
    widgets.timer.tick(quietly(handlers.look), widgets.seen, widgets.all, **quick)
    clicks: list[tuple[gr.Button, Callable[[Seen], News]]] = [
        (widgets.pause, handlers.pause), (widgets.stop, handlers.stop), (widgets.cancel, handlers.cancel),
        (widgets.resume, handlers.resume), (widgets.keep, handlers.keep),
    ]  # fmt: skip
    for button, handler in clicks:
        button.click(tells(handler), widgets.seen, widgets.all, trigger_mode="once", **quick)
    widgets.run_queue.move(tells(handlers.move), widgets.seen, widgets.all, **quick)
    widgets.run_queue.prioritize(tells(handlers.prioritize), widgets.seen, widgets.all, **quick)
    widgets.groups.end_group(tells(handlers.end_group), widgets.seen, widgets.all, **quick)


def _no_runs() -> str:
    return markup.empty("No runs yet", "A run appears here as soon as you launch it.", "/", "Set up a run")


def _log_html(log: str) -> str:
    return (
        f'<pre class="log" tabindex="0">{markup.esc(log)}</pre>'
        if log
        else '<p class="card-hint">The log is empty so far.</p>'
    )


def _now() -> datetime:
    return datetime.now(UTC)
