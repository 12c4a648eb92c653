"""The Library's way in for adapters from elsewhere: a PEFT zip, the files of one, a folder on this machine, or an id of
Hugging Face.

Ids: `#adapter-adding`, in it `#adapter-upload`, `#adapter-place`, `#adapter-fetch`, `#adding-status`, `#adding-stop`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from jobs.service import Making, Service
from ui import answers
from ui.answers import News
from ui.pages import frame, making_line
from ui.uploads import uploaded


@dataclass(frozen=True, kw_only=True)
class Widgets:
    """What stands in the card."""

    upload: gr.File
    place: gr.Textbox
    fetch: gr.Button
    line: making_line.Line

    @property
    def all(self) -> list[Any]:
        """What adding changes."""
        return [self.upload, self.place, *self.line.all]


def build() -> Widgets:
    """Put the card into the open Blocks context."""
    with gr.Accordion("Add an adapter from elsewhere", open=False, elem_id="adapter-adding", elem_classes=["folded"]):
        with gr.Row(elem_classes=["adding"]):
            upload = gr.File(
                label="Drop its zip or files",
                elem_id="adapter-upload",
                type="filepath",
                file_count="multiple",
                height=132,
            )
            with gr.Column():
                place = gr.Textbox(
                    "", label="Or a folder, or an adapter's id", placeholder="/data/captain or owner/name",
                    info="A folder on this machine, or an id on Hugging Face", elem_id="adapter-place",
                    max_length=4096,
                )  # fmt: skip
                fetch = gr.Button("Add it", elem_id="adapter-fetch", size="md", elem_classes=["narrow"])
        line = making_line.build("adding")
    return Widgets(upload=upload, place=place, fetch=fetch, line=line)


def wire(
    service: Service, widgets: Widgets, banner: gr.HTML, outputs: list[Any], added: Callable[[Making], News]
) -> None:
    """Connect the card's events; `added` says what is news on the page once an adapter was taken in.

    Args:
        outputs: all that `added` and the card change.
    """
    tells = answers.tells(banner)

    def done(making: Making) -> News:
        return {widgets.place: "", **added(making)}

    def upload(paths: list[str] | None) -> News:
        if not paths:
            return {}
        making = service.library.begin_upload(*map(uploaded, paths))
        return {widgets.upload: None, **begun(making)}  # ready for another one

    def fetch(place: str) -> News:
        return begun(service.library.begin_elsewhere(place or ""))

    def begun(making: Making) -> News:
        return making_line.begun(service, widgets.line, making, done)

    widgets.upload.upload(tells(upload), widgets.upload, outputs, **frame.QUICK)
    gr.on([widgets.fetch.click, widgets.place.submit], tells(fetch), widgets.place, outputs, **frame.QUICK)
    making_line.wire(service, widgets.line, banner, outputs, done)
