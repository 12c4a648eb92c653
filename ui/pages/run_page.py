"""One run as it goes on: its part of the Runs page, and what is new in it at each look."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import gradio as gr

from core.errors import UserError
from jobs.service import ENDED_STATES, RESUMABLE_STATES, RowFacts, Run, Service
from ui import addresses, charts, markup, run_charts
from ui.answers import News
from ui.charts import Figure
from ui.pages import queue, run_learned, run_samples, run_settings, run_view
from ui.pages.run_state import RunWidgets, Seen
from ui.story import Stories, Story

LOG_LINES = 60
_CHARTS = {
    "loss": ("chart-loss", "Loss"),
    "perplexity": ("chart-perplexity", "Perplexity on held-out rows"),
    "accuracy": ("chart-accuracy", "Accuracy on held-out rows"),
    "rate": ("chart-rate", "Learning rate"),
    "norm": ("chart-norm", "Gradient norm"),
    "memory": ("chart-memory", "Memory: measured, over the estimate by part"),
    "speed": ("chart-speed", "Tokens a second"),
}


class OneRun:
    """What the page shows of one run."""

    def __init__(self, service: Service, stories: Stories, widgets: RunWidgets) -> None:
        self.service, self.stories, self.widgets = service, stories, widgets
        self._parts: dict[str, dict[str, int]] = {}  # estimates of memory, by run; a run's settings never change

    def look(self, seen: Seen, gpus: int) -> News:
        """What is new about the run since the last look.

        Raises:
            NotFound: there is no such run.
        """
        widgets, run = self.widgets, self.service.run(seen.run_id)
        story = self.stories.of(run.id)
        waits = queue.waits(run.id, self.service.queue(), gpus) if run.state == "queued" else ""
        news: News = {widgets.progress: run_view.progress(run, story, _now(), waits)}
        if seen.version == -1:
            news |= self._opened(run)
        if run.state != seen.state:
            news |= self.state_news(run, gpus)
        if (story.version, run.state) != (seen.version, seen.state):
            news |= self._story_news(seen, run, story)
        news |= self._learned_news(seen, run, story)
        seen.version, seen.state = story.version, run.state
        return news

    def appraise(self, seen: Seen, gpus: int) -> News:
        """Let it be measured what the run learned.

        Raises:
            RunError: it cannot be just now.
        """
        self.service.appraisals.start(seen.run_id)
        return self.look(seen, gpus)

    def desist(self, seen: Seen, gpus: int) -> News:
        """Give that up."""
        self.service.appraisals.stop(seen.run_id)
        return self.look(seen, gpus)

    def put_notes(self, seen: Seen, tags: str, note: str, gpus: int) -> News:
        """Keep what was typed about the run.

        Raises:
            ConfigError: it is too long, or holds what cannot be shown.
        """
        run = self.service.notes.put(seen.run_id, (tags or "").split(","), note or "")
        widgets = self.widgets
        return {
            widgets.head: run_view.head(run, run.device is not None and gpus > 1),
            widgets.own_tags: gr.update(value=", ".join(run.tags)),
            widgets.notes_saved: '<p class="card-hint" role="status">Saved.</p>',
        }

    def verify(self, seen: Seen) -> News:
        """Read the run's checkpoints through."""
        return {self.widgets.checkpoints: run_samples.checkpoints(self.service.history.verify(seen.run_id), _now())}

    def _opened(self, run: Run) -> News:
        widgets = self.widgets
        is_classifier = run.config.task == "classification"
        return {
            widgets.list_view: gr.update(visible=False),
            widgets.run_view: gr.update(visible=True),
            widgets.tools: run_samples.chart_tools(run),
            widgets.perplexity: gr.update(visible=not is_classifier),
            widgets.own_tags: gr.update(value=", ".join(run.tags)),
            widgets.own_note: gr.update(value=run.note),
        }

    def state_news(self, run: Run, gpus: int = 0) -> News:
        """What follows from the run's state: its head, and what can be done with it."""
        widgets = self.widgets
        is_active = run.state not in ENDED_STATES
        has_result, is_model = run.adapter_id is not None, run.config.method == "full"
        is_resumable, is_kept = run.state in RESUMABLE_STATES, run.wish == "keep"
        zip_link = addresses.adapter_zip(run.adapter_id) if run.adapter_id else None
        can_chat = has_result and run.config.task == "chat"
        what, name = "base" if is_model else "adapters", run_view.result_word(run)
        of_checkpoint = "" if run.state == "paused" else " of the last checkpoint"
        return {
            widgets.head: run_view.head(run, run.device is not None and gpus > 1),
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

    def _story_news(self, seen: Seen, run: Run, story: Story) -> News:
        """Of the texts those that have changed, and the curves."""
        widgets = self.widgets
        texts = {
            "tiles": run_view.tiles(run, story),
            "settings": run_settings.settings(run, story),
            "timeline": run_view.timeline(story),
            "samples": run_samples.samples(story.samples),
            "checkpoints": run_samples.checkpoints(self.service.history.checkpoints(run.id), _now()),
            "log": _log_html(self.service.log_tail(run.id, LOG_LINES)),
        }
        texts |= {name: charts.as_text(figure) for name, figure in self._figures(run, story).items()}
        return {getattr(widgets, name): value for name, value in texts.items() if seen.is_news(name, value)}

    def _learned_news(self, seen: Seen, run: Run, story: Story) -> News:
        """What it learned, where it is; the page goes on looking while that is measured."""
        view, widgets = self.service.appraisals.of(run), self.widgets
        steps = {each.step for each in self.service.checkpoints.of(run.id)} if view.appraisal is not None else ()
        texts = {
            "learned": run_learned.card(run, view, story.appraising, steps),
            "verdict": run_view.verdict(run, story, is_appraised=view.appraisal is not None),
        }
        news: News = {getattr(widgets, name): value for name, value in texts.items() if seen.is_news(name, value)}
        is_going_on = view.state == "going on"
        if is_going_on != seen.is_appraised_now:
            news[widgets.timer] = gr.Timer(active=is_going_on or run.state not in ENDED_STATES)
            seen.is_appraised_now = is_going_on
        return news

    def _figures(self, run: Run, story: Story) -> dict[str, Figure]:
        """The charts that there is something to draw in."""
        figures = {"perplexity": run_charts.perplexity(story, run.id), "accuracy": run_charts.accuracy(story, run.id)}
        if story.last or story.evaluation.x:
            figures["loss"] = run_charts.loss(story, run.id)
        if story.last:
            figures |= {
                "rate": run_charts.learning_rate(story, run.id),
                "norm": run_charts.gradient_norm(story, run.id),
                "memory": run_charts.memory(story, run.id, self._parts_of(run, story)),
                "speed": run_charts.speed(story, run.id),
            }
        return {name: figure for name, figure in figures.items() if figure is not None}

    def _parts_of(self, run: Run, story: Story) -> dict[str, int]:
        """The memory of the run by part, as it was estimated; nothing where its base model or dataset has gone."""
        if run.id not in self._parts:
            self._parts[run.id] = self._estimated(run)
        parts = self._parts[run.id]
        return {name: size for name, size in parts.items() if not (story.device_memory.x and name == "process")}

    def _estimated(self, run: Run) -> dict[str, int]:
        config = run.config
        try:
            profile = self.service.tokens.of(config.data, config.base_model, config.task).profile
            lengths = profile.lengths if profile is not None and profile.is_whole else None
            rows = RowFacts(rows=self.service.data.get(config.data.dataset_id).rows, lengths=lengths)
            estimate = self.service.costs.estimate(config, rows)
        except (UserError, OSError):
            return {}
        return {} if estimate is None else estimate.parts


def place() -> dict[str, Any]:
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
    html["learned"] = gr.HTML(
        "", elem_id="run-learned", elem_classes=["learned-card"], apply_default_css=False,
        js_on_load=run_learned.SCRIPT,
    )  # fmt: skip
    html["tools"] = gr.HTML("", elem_id="chart-tools", apply_default_css=False, js_on_load=run_samples.TOOLS_SCRIPT)
    with gr.Row(elem_classes=["charts"]):
        curves = {name: charts.chart(elem_id, title) for name, (elem_id, title) in _CHARTS.items()}
    html["samples"] = gr.HTML(
        "", elem_id="run-samples", elem_classes=["samples"], apply_default_css=False,
        js_on_load=run_samples.SAMPLES_SCRIPT,
    )  # fmt: skip
    with gr.Column(elem_classes=["details"]):
        notes = _notes()
        for name, words, script in (
            ("settings", "Settings", None),
            ("checkpoints", "Checkpoints", run_samples.CHECKPOINTS_SCRIPT),
            ("timeline", "Phases and notes", None),
            ("log", "Log", None),
        ):
            with gr.Accordion(words, open=False, elem_id=f"run-{name}", elem_classes=["folded"]):
                html[name] = gr.HTML("", apply_default_css=False, js_on_load=script)
    return {"head": head, **actions, **html, **curves, **notes}


def _notes() -> dict[str, Any]:
    """Where tags and a note are typed."""
    with gr.Accordion("Tags and note", open=False, elem_id="run-notes", elem_classes=["folded"]):
        tags = gr.Textbox(
            label="Tags", info="With commas between; the list of runs can be searched for them", elem_id="run-own-tags",
            max_length=400, placeholder="baseline, style",
        )  # fmt: skip
        note = gr.Textbox(label="Note", elem_id="run-own-note", lines=3, max_length=4000)
        with gr.Row(elem_classes=["actions"]):
            save = gr.Button("Save", elem_id="run-save-notes", size="md", scale=0, min_width=90)
            saved = gr.HTML("", elem_id="run-notes-saved", apply_default_css=False)
    return {"own_tags": tags, "own_note": note, "save_notes": save, "notes_saved": saved}


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


def _log_html(log: str) -> str:
    return (
        f'<pre class="log" tabindex="0">{markup.esc(log)}</pre>'
        if log
        else '<p class="card-hint">The log is empty so far.</p>'
    )


def _now() -> datetime:
    return datetime.now(UTC)
