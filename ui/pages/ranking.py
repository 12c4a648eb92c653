"""Who wins, on the Playground: of all votes or those on one prompt set, and the votes as data.

Ids: `#who-wins`, in it `#ranking-set`, `#ranking`, `#votes-dataset`, `#votes-status`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from jobs.service import Service
from ui import addresses, answers, markup, ranking_view, text
from ui.answers import News
from ui.ballots import colors_of
from ui.pages import frame
from ui.pages.playground_desk import Talk

ALL = ""


@dataclass(frozen=True, kw_only=True)
class Widgets:
    """What stands in the panel."""

    panel: gr.Accordion
    which: gr.Dropdown
    ranking: gr.HTML
    use: gr.Button
    status: gr.HTML

    @property
    def all(self) -> list[Any]:
        """What an answer changes."""
        return [self.which, self.ranking, self.use, self.status]


def build() -> Widgets:
    """Put the panel into the open Blocks context."""
    with gr.Accordion("Who wins?", open=False, elem_id="who-wins", elem_classes=["folded"]) as panel:
        which = gr.Dropdown([("All votes", ALL)], value=ALL, label="Votes", elem_id="ranking-set", interactive=True)
        shown = gr.HTML(markup.loading("Counting the votes"), elem_id="ranking", apply_default_css=False)
        use = gr.Button("Use as a dataset", elem_id="votes-dataset", size="md", visible=False, elem_classes=["narrow"])
        status = gr.HTML("", elem_id="votes-status", apply_default_css=False)
    return Widgets(panel=panel, which=which, ranking=shown, use=use, status=status)


class RankingDesk:
    """The handlers."""

    def __init__(self, service: Service, widgets: Widgets) -> None:
        self.service, self.widgets = service, widgets

    def show(self, set_id: str | None, talk: Talk) -> News:
        """Who wins of these votes."""
        votes, widgets = self.service.votes, self.widgets
        sets = votes.prompt_sets()
        chosen = set_id if set_id in {each.id for each in sets} else ALL
        name = next((each.name for each in sets if each.id == chosen), "")
        ranked = votes.ranking(chosen or None)
        colors = colors_of(talk.panes, talk.base)
        shown = ranking_view.ranking(ranked, votes.comparison(chosen or None), name, colors)
        choices = [("All votes", ALL), *((each.name, each.id) for each in sets)]
        can_export = any(each.standing.wins for each in ranked)
        if can_export:
            link = markup.esc(addresses.votes_file(chosen))
            button = f'<a class="as-button small" href="{link}" download>Download the votes as JSONL</a>'
            shown += f'<p class="votes-file">{button}</p>'
        return {
            widgets.which: gr.update(choices=choices, value=chosen),
            widgets.ranking: shown,
            widgets.use: gr.update(visible=can_export),
            widgets.status: "",
        }

    def use(self, set_id: str | None) -> News:
        """Make a dataset of the votes, as the Train page would of the downloaded file.

        Raises:
            ConfigError: no vote prefers an answer.
            NotFound: there is no such set.
        """
        name = self.service.votes.prompt_set(set_id).name if set_id else "All"
        path = self.service.votes.export(name, set_id or None)
        dataset = self.service.data.add(path, name=f"{name[:60]} votes")
        words = f"{text.plural(dataset.rows, 'pair')}, read as {dataset.row_format}: {dataset.name}."
        tick, link = '<span class="tick" aria-hidden="true">✓</span>', '<a href="/">Train on it</a>'
        return {self.widgets.status: f'<p class="note-line" role="status">{tick}{markup.esc(words)} {link}</p>'}


def wire(desk: RankingDesk, banner: gr.HTML, talk: gr.State, votes: list[Any]) -> None:
    """Count anew when the panel is opened, and after every one of the events in `votes`."""
    widgets, quick = desk.widgets, frame.QUICK
    inputs, outputs = [widgets.which, talk], [banner, *widgets.all]
    looks = answers.tells(banner, clears=False)(desk.show)
    for event in (widgets.panel.expand, widgets.which.input):
        event(looks, inputs, outputs, **quick)
    for dependency in votes:
        dependency.then(looks, inputs, outputs, **quick)
    widgets.use.click(answers.tells(banner)(desk.use), widgets.which, outputs, show_progress="hidden",
                      api_visibility="private", trigger_mode="once")  # fmt: skip
