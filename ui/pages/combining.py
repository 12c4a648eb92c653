"""The Library's panel that makes one adapter of those that are ticked: weights, a way, and what that way is good for.

Ids: `#combining`, in it `#combine-name`, `#combine-weight-0` …, `#combine-how`, `#combine-when`, `#combine-rank`,
`#combine-density`, `#combine-seed`, `#combine-make`, `#combine-leave`, `#combining-status`, `#combining-stop`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from core.adapters.ways import MOST_ADAPTERS, WAYS, Combination
from core.errors import AdapterError, ConfigError
from jobs.service import Adapter, Making, Service
from ui import answers, markup
from ui.answers import News
from ui.pages import frame, making_line

_FIRST_WAY, _STANDARD_RANK = "concat", 8


@dataclass(frozen=True, kw_only=True)
class Widgets:
    """What stands in the panel; `ids` are the adapters that it is about."""

    panel: gr.Column
    ids: gr.State
    name: gr.Textbox
    weights: tuple[gr.Number, ...]
    how: gr.Radio
    when: gr.HTML
    rank: gr.Number
    density: gr.Number
    seed: gr.Number
    make: gr.Button
    leave: gr.Button
    line: making_line.Line

    @property
    def settings(self) -> list[Any]:
        """What a way has or has not."""
        return [self.when, self.rank, self.density, self.seed]

    @property
    def all(self) -> list[Any]:
        """What opening the panel, or making an adapter, changes."""
        return [self.panel, self.ids, self.name, *self.weights, self.how, *self.settings, *self.line.all]


def build() -> Widgets:
    """Put the panel into the open Blocks context."""
    with gr.Column(visible=False, elem_id="combining", elem_classes=["card"]) as panel:
        gr.HTML(markup.heading("Combine", "A new adapter of several of one base model; they stay as they are."))
        with gr.Row(elem_classes=["fields"]):
            weights = tuple(
                gr.Number(1.0, label="Weight", step=0.1, visible=False, elem_id=f"combine-weight-{at}")
                for at in range(MOST_ADAPTERS)
            )
        how = gr.Radio(
            [(way.title, key) for key, way in WAYS.items()], value=_FIRST_WAY, label="How", elem_id="combine-how",
            elem_classes=["segmented"],
        )  # fmt: skip
        when = gr.HTML("", elem_id="combine-when", apply_default_css=False)
        with gr.Row(elem_classes=["fields"]):
            rank = gr.Number(_STANDARD_RANK, label="Rank", info="What the result is reduced to", precision=0,
                             minimum=1, visible=False, elem_id="combine-rank")  # fmt: skip
            density = gr.Number(0.5, label="Density", info="The share of each change's entries that is kept",
                                step=0.1, visible=False, elem_id="combine-density")  # fmt: skip
            seed = gr.Number(0, label="Seed", info="What is dropped is drawn by it", precision=0, visible=False,
                             elem_id="combine-seed")  # fmt: skip
        with gr.Row(elem_classes=["fields"]):
            name = gr.Textbox("", label="Name of the new adapter", max_length=80, elem_id="combine-name")
        with gr.Row(elem_classes=["actions"]):
            make = gr.Button("Combine them", variant="primary", elem_id="combine-make", size="md")
            leave = gr.Button("Close", elem_id="combine-leave", size="md")
        line = making_line.build("combining")
    return Widgets(
        panel=panel, ids=gr.State([]), name=name, weights=weights, how=how, when=when, rank=rank, density=density,
        seed=seed, make=make, leave=leave, line=line,
    )  # fmt: skip


def opened(widgets: Widgets, adapters: Sequence[Adapter]) -> News:
    """The panel for these adapters.

    Raises:
        AdapterError: there are too many or too few.
    """
    if not 2 <= len(adapters) <= MOST_ADAPTERS:
        raise AdapterError(f"{len(adapters)} adapters cannot be combined", hint=f"Tick from 2 to {MOST_ADAPTERS}")
    weights = {
        slot: gr.update(visible=True, label=f"Weight of {adapter.name}", value=1.0)
        for slot, adapter in zip(widgets.weights, adapters, strict=False)
    }
    weights |= {slot: gr.update(visible=False) for slot in widgets.weights[len(adapters) :]}
    rank = max((adapter.rank for adapter in adapters), default=_STANDARD_RANK)
    return {
        widgets.panel: gr.update(visible=True),
        widgets.ids: [adapter.id for adapter in adapters],
        widgets.name: " + ".join(adapter.name for adapter in adapters)[:80],
        widgets.how: _FIRST_WAY,
        **weights,
        **chosen(widgets, _FIRST_WAY),
        widgets.rank: gr.update(visible=False, value=rank),
    }


def chosen(widgets: Widgets, how: str) -> News:
    """What the way is good for, and the settings that it has."""
    way = WAYS[how]  # type: ignore[index]
    return {
        widgets.when: f'<p class="card-hint">{markup.esc(way.when)}</p>',
        widgets.rank: gr.update(visible=way.has_rank),
        widgets.density: gr.update(visible=way.has_density),
        widgets.seed: gr.update(visible=way.has_seed),
    }


def wanted(how: str, rank: Any, density: Any, seed: Any, weights: Sequence[Any]) -> Combination:
    """What the panel says.

    Raises:
        ConfigError: a number is missing.
    """
    if any(weight is None for weight in weights):
        raise ConfigError("A weight is missing", hint="Give each adapter a number", field="weights")
    return Combination(
        how=how,  # type: ignore[arg-type]
        weights=tuple(map(float, weights)),
        rank=None if rank is None else int(rank),
        density=float(density or 0),
        seed=int(seed or 0),
    )


def wire(
    service: Service, widgets: Widgets, banner: gr.HTML, outputs: list[Any], added: Callable[[Making], News]
) -> None:
    """Connect the panel's events; `added` says what is news on the page once there is a new adapter.

    Args:
        outputs: all that `added` and the panel change.
    """
    tells = answers.tells(banner)

    def done(making: Making) -> News:
        return {widgets.panel: gr.update(visible=False), **added(making)}

    def make(ids: list[str], name: str, how: str, rank: Any, density: Any, seed: Any, *weights: Any) -> News:
        order = wanted(how, rank, density, seed, weights[: len(ids)])
        making = service.library.begin_combination(ids, order, name or "")
        return making_line.begun(service, widgets.line, making, done)

    settings = [widgets.how, widgets.rank, widgets.density, widgets.seed]
    widgets.make.click(tells(make), [widgets.ids, widgets.name, *settings, *widgets.weights], outputs, **frame.QUICK)
    news = [banner, *widgets.settings]
    widgets.how.input(tells(lambda how: chosen(widgets, how)), widgets.how, news, **frame.QUICK)
    closed = tells(lambda: {widgets.panel: gr.update(visible=False)})
    widgets.leave.click(closed, None, [banner, widgets.panel], **frame.QUICK)
    making_line.wire(service, widgets.line, banner, outputs, done)
