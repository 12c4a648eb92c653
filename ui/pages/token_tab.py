"""The tab that shows a dataset as the model will see it: counted once, then drawn for every limit.

Ids: `#tokens-state`, `#tokens-lengths`, `#tokens-count`, `#tokens-stop`, `#tokens-leave-KIND`, `#tokens-row`,
`#tokens-view`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr
from gradio.components import Component

from core.config import RunConfig
from jobs.service import Dataset, Intake, Service, TokenProfileView
from ui import answers, markup, text
from ui.answers import News
from ui.pages import tokens

LOOK_SECONDS = 1.0
LEFT_OUT = {"over_limit": "over the limit", "no_labels": "with nothing to learn"}
COUNTED_AT_ONCE = 20_000  # rows; more are counted when somebody asks for it


@dataclass(frozen=True, kw_only=True)
class Widgets:
    """What stands in the tab."""

    state: gr.HTML
    lengths: gr.HTML
    count: gr.Button
    stop: gr.Button
    leave_out: dict[str, gr.Button]
    row: gr.Number
    view: gr.HTML
    timer: gr.Timer

    @property
    def all(self) -> list[Any]:
        """What a look at the form changes."""
        return [
            self.state,
            self.lengths,
            self.count,
            self.stop,
            *self.leave_out.values(),
            self.row,
            self.view,
            self.timer,
        ]


def build() -> Widgets:
    """Put the tab's contents into the open Blocks context."""
    state = gr.HTML("", elem_id="tokens-state", apply_default_css=False)
    lengths = gr.HTML("", elem_id="tokens-lengths", apply_default_css=False)
    with gr.Row(elem_classes=["actions"]):
        count = gr.Button("Count the tokens", elem_id="tokens-count", size="md", visible=False)
        stop = gr.Button("Stop counting", elem_id="tokens-stop", size="md", visible=False)
        leave_out = {kind: gr.Button("", elem_id=f"tokens-leave-{kind}", size="sm", visible=False) for kind in LEFT_OUT}
    row = gr.Number(
        1, label="Row to look at", precision=0, minimum=1, elem_id="tokens-row", elem_classes=["short"], visible=False
    )
    view = gr.HTML("", elem_id="tokens-view", apply_default_css=False)
    timer = gr.Timer(LOOK_SECONDS, active=False)
    return Widgets(
        state=state, lengths=lengths, count=count, stop=stop, leave_out=leave_out, row=row, view=view, timer=timer
    )


class TokenTab:
    """The tab's handlers; `read` makes a config of the form's values, None where it is not complete, and `begun`
    shows that a version of the dataset is being made.
    """

    def __init__(
        self, service: Service, widgets: Widgets, read: Callable[..., RunConfig | None], begun: Callable[[Intake], News]
    ) -> None:
        self.service, self.widgets, self._read, self._begun = service, widgets, read, begun

    def outlook(self, config: RunConfig | None, dataset: Dataset | None) -> News:
        """What the tab shows for the form as it is now; few rows are counted without being asked for."""
        if config is None or dataset is None:
            return self._empty(tokens.waits(dataset is not None))
        found = self.service.tokens.of(*_key(config))
        if found.state == "absent" and dataset.rows <= COUNTED_AT_ONCE:
            found = self.service.tokens.begin(*_key(config))
        return self._show(found, config, dataset)

    def count(self, *values: Any) -> News:
        """Count the tokens of however many rows."""
        return self._after(self.service.tokens.begin, values)

    def stop(self, *values: Any) -> News:
        """Give counting up."""
        return self._after(self.service.tokens.stop, values)

    def look(self, *values: Any) -> News:
        """How far the counting is."""
        return self._after(None, values)

    def go_to(self, row: float | None, *values: Any) -> News:
        """Another row, token by token."""
        config = self._read(*values)
        return {self.widgets.view: self._row(config, int(row))} if config is not None and row else {}

    def leave_out(self, kind: str, *values: Any) -> News:
        """One click: a version of the dataset without the rows that the limit cuts, or of which it leaves nothing."""
        config = self._read(*values)
        profile = self.service.tokens.of(*_key(config)).profile if config is not None else None
        if config is None or profile is None:
            return {}
        limit = profile.limit(config.data.max_tokens)
        return self._begun(self.service.data.begin_cleaning(config.data.dataset_id, [kind], profile.folder, limit))

    def _after(self, action: Callable[..., object] | None, values: Sequence[Any]) -> News:
        """What the tab shows once `action` is done for the form's values."""
        config = self._read(*values)
        if config is None:
            return {self.widgets.timer: gr.update(active=False)}
        if action is not None:
            action(*_key(config))
        return self._show(self.service.tokens.of(*_key(config)), config, self.service.data.get(config.data.dataset_id))

    def _show(self, found: TokenProfileView, config: RunConfig, dataset: Dataset) -> News:
        widgets, profile = self.widgets, found.profile
        news: News = {
            widgets.timer: gr.update(active=found.state == "counting"),
            widgets.count: gr.update(visible=found.state in ("absent", "failed")),
            widgets.stop: gr.update(visible=found.state == "counting"),
            widgets.row: gr.update(visible=profile is not None),
            widgets.state: tokens.state(found, dataset.rows),
        }
        if profile is None:
            return {**news, widgets.lengths: "", widgets.view: ""}
        limit = profile.limit(config.data.max_tokens)
        cut = profile.at_limit(limit)
        counts = {"over_limit": cut.rows_cut, "no_labels": cut.rows_without_labels}
        news |= {button: self._drop(kind, counts[kind], found) for kind, button in widgets.leave_out.items()}
        drawn = tokens.summary(profile, cut, dataset.rows) + tokens.lengths(profile, limit)
        return {**news, widgets.lengths: drawn, widgets.view: self._row(config, None)}

    def _drop(self, kind: str, count: int, found: TokenProfileView) -> Any:
        """The button that leaves rows out, where there are such and all rows are counted."""
        words = f"Leave out the {text.plural(count, 'row')} {LEFT_OUT[kind]}"
        return gr.update(visible=bool(count) and found.state == "ready", value=words)

    def _row(self, config: RunConfig, source_row: int | None) -> str:
        data = self.service.data
        number = data.number_from(config.data.dataset_id, source_row) if source_row is not None else 0
        (record,) = data.rows(config.data.dataset_id, number, 1) or (None,)
        if record is None:
            return markup.banner(f"There is no row {source_row}", hint="Choose a smaller number")
        pieces = self.service.tokens.pieces(*_key(config), number, first_tokens=tokens.LONGEST_VIEW)
        return tokens.view(pieces, record.source_row)

    def _empty(self, words: str) -> News:
        widgets = self.widgets
        buttons = (widgets.count, widgets.stop, widgets.row, *widgets.leave_out.values())
        hidden = {widget: gr.update(visible=False) for widget in buttons}
        still = {widgets.timer: gr.update(active=False), widgets.lengths: "", widgets.view: ""}
        return {**hidden, **still, widgets.state: words}


def wire(
    tab: TokenTab, banner: gr.HTML, form: Sequence[Component], card: Sequence[Any], as_sent: dict[str, Any]
) -> None:
    """Connect the tab's events with its handlers; `card` is what a new version of the dataset changes."""
    widgets, tells = tab.widgets, answers.tells(banner)
    outputs = [banner, *widgets.all]
    widgets.count.click(tells(tab.count), list(form), outputs, **as_sent)
    widgets.stop.click(tells(tab.stop), list(form), outputs, **as_sent)
    widgets.timer.tick(answers.tells(banner, clears=False)(tab.look), list(form), outputs, **as_sent)
    for kind, button in widgets.leave_out.items():
        button.click(tells(partial(tab.leave_out, kind)), list(form), [banner, *card], **as_sent)
    widgets.row.change(
        tells(tab.go_to), [widgets.row, *form], [banner, widgets.view], trigger_mode="always_last", **as_sent
    )


def _key(config: RunConfig) -> tuple[Any, str, Any]:
    return config.data, config.base_model, config.task
