"""The Library's panel that makes an adapter smaller: to a rank or to a share of its energy, with what that keeps.

The adapter is weighed first, by a process of its own; from then on each choice shows its figure at once.

Ids: `#shrinking`, in it `#shrink-by`, `#shrink-rank`, `#shrink-energy`, `#shrink-figure`, `#shrink-name`,
`#shrink-make`, `#shrink-leave`, `#weighing-status`, `#shrinking-status` and their stops.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from core.errors import ConfigError
from jobs.service import Adapter, Kept, Making, Service
from ui import answers, markup, text
from ui.answers import News
from ui.pages import frame, making_line

BY_RANK, BY_ENERGY = "rank", "energy"


@dataclass(frozen=True, kw_only=True)
class Widgets:
    """What stands in the panel; `adapter_id` is the adapter that it is about."""

    panel: gr.Column
    adapter_id: gr.State
    by: gr.Radio
    rank: gr.Number
    energy: gr.Number
    figure: gr.HTML
    name: gr.Textbox
    make: gr.Button
    leave: gr.Button
    weighing: making_line.Line
    line: making_line.Line

    @property
    def wanted(self) -> list[Any]:
        """How small it is to be."""
        return [self.by, self.rank, self.energy]

    @property
    def all(self) -> list[Any]:
        """What opening the panel, or making an adapter, changes."""
        own = [self.panel, self.adapter_id, *self.wanted, self.figure, self.name, self.make]
        return [*own, *self.weighing.all, *self.line.all]


def build() -> Widgets:
    """Put the panel into the open Blocks context."""
    with gr.Column(visible=False, elem_id="shrinking", elem_classes=["card"]) as panel:
        gr.HTML(markup.heading("Shrink", "A new adapter of a lower rank, the nearest there is; this one stays."))
        by = gr.Radio(
            [("To a rank", BY_RANK), ("To a share of its energy", BY_ENERGY)], value=BY_RANK, label="How far",
            elem_id="shrink-by", elem_classes=["segmented"],
        )  # fmt: skip
        with gr.Row(elem_classes=["fields"]):
            rank = gr.Number(4, label="Rank", info="The most that a layer may have", precision=0, minimum=1,
                             elem_id="shrink-rank")  # fmt: skip
            energy = gr.Number(99.0, label="Energy to keep, in %", info="Of each layer's change, squared", step=1,
                               visible=False, elem_id="shrink-energy")  # fmt: skip
            name = gr.Textbox("", label="Name of the new adapter", max_length=80, elem_id="shrink-name")
        figure = gr.HTML("", elem_id="shrink-figure", apply_default_css=False)
        weighing = making_line.build("weighing")
        with gr.Row(elem_classes=["actions"]):
            make = gr.Button("Shrink it", variant="primary", elem_id="shrink-make", size="md")
            leave = gr.Button("Close", elem_id="shrink-leave", size="md")
        line = making_line.build("shrinking")
    return Widgets(
        panel=panel, adapter_id=gr.State(""), by=by, rank=rank, energy=energy, figure=figure, name=name, make=make,
        leave=leave, weighing=weighing, line=line,
    )  # fmt: skip


class Shrinking:
    """The panel's handlers; `added` says what is news on the page once there is a new adapter."""

    def __init__(self, service: Service, widgets: Widgets, added: Callable[[Making], News]) -> None:
        self.service, self.widgets, self.added = service, widgets, added

    def open(self, adapter: Adapter) -> News:
        """The panel for an adapter, which is weighed meanwhile."""
        widgets, rank = self.widgets, max(1, adapter.rank // 2)
        making = self.service.library.begin_weighing(adapter.id)
        return {
            widgets.panel: gr.update(visible=True),
            widgets.adapter_id: adapter.id,
            widgets.by: BY_RANK,
            widgets.rank: gr.update(value=rank, visible=True),
            widgets.energy: gr.update(visible=False),
            widgets.name: f"{adapter.name}, small"[:80],
            widgets.figure: "",
            **making_line.begun(self.service, widgets.weighing, making, lambda done: self.tell(done.id, BY_RANK, rank)),
        }

    def tell(self, making_id: str, by: str, rank: Any = None, energy: Any = None) -> News:
        """What the choice would keep."""
        if not making_id:
            return {}
        kept = self.service.library.kept(making_id, **_wanted(by, rank, energy))
        return {self.widgets.figure: figure(kept) if kept else ""}

    def choose(self, making_id: str, by: str, rank: Any, energy: Any) -> News:
        """Another way to say how small."""
        shown = {self.widgets.rank: by == BY_RANK, self.widgets.energy: by == BY_ENERGY}
        news = {widget: gr.update(visible=is_shown) for widget, is_shown in shown.items()}
        return {**news, **self.tell(making_id, by, rank, energy)}

    def make(self, adapter_id: str, name: str, by: str, rank: Any, energy: Any) -> News:
        """Begin."""
        making = self.service.library.begin_shrinking(adapter_id, name or "", **_wanted(by, rank, energy))
        return making_line.begun(self.service, self.widgets.line, making, self.done)

    def done(self, making: Making) -> News:
        """There is a new adapter."""
        return {self.widgets.panel: gr.update(visible=False), **self.added(making)}

    def weighed(self, making: Making, by: str, rank: Any, energy: Any) -> News:
        """The adapter has been weighed: there are figures from now on."""
        return self.tell(making.id, by, rank, energy)

    def leave(self, weighing_id: str) -> News:
        """Close the panel."""
        self.service.library.makings.stop(weighing_id)
        widgets = self.widgets
        idle = making_line.idle(widgets.weighing)
        return {widgets.panel: gr.update(visible=False), widgets.weighing.making: "", **idle}


def figure(kept: Kept) -> str:
    """What is kept, and how large that is."""
    same = kept.lowest_rank == kept.highest_rank
    ranks = f"Rank {kept.highest_rank} keeps" if same else f"Ranks {kept.lowest_rank} to {kept.highest_rank} keep"
    words = f"{ranks} {100 * kept.energy:.4g} % of the change's energy, in {text.size(kept.bytes)}"
    return f'<p class="figure">{markup.esc(words)}</p>'


def _wanted(by: str, rank: Any, energy: Any) -> dict[str, Any]:
    if by == BY_RANK:
        if rank is None:
            raise ConfigError("The rank is empty", hint="Give a number from 1", field="rank")
        return {"rank": int(rank), "energy": None}
    if energy is None:
        raise ConfigError("The energy is empty", hint="Give a share in %", field="energy")
    return {"rank": None, "energy": float(energy) / 100}


def wire(handlers: Shrinking, banner: gr.HTML, outputs: list[Any]) -> None:
    """Connect the panel's events. `outputs` are all that `added` and the panel change."""
    widgets, service, tells, quick = handlers.widgets, handlers.service, answers.tells(banner), frame.QUICK
    asked = [widgets.weighing.making, *widgets.wanted]
    told = [banner, widgets.figure]
    widgets.by.input(tells(handlers.choose), asked, [*told, widgets.rank, widgets.energy], **quick)
    gr.on([widgets.rank.input, widgets.energy.input], tells(handlers.tell), asked, told, **quick)
    widgets.make.click(tells(handlers.make), [widgets.adapter_id, widgets.name, *widgets.wanted], outputs, **quick)
    widgets.leave.click(tells(handlers.leave), widgets.weighing.making, outputs, **quick)
    making_line.wire(service, widgets.line, banner, outputs, handlers.done)
    making_line.wire(service, widgets.weighing, banner, outputs, handlers.weighed, widgets.wanted)
