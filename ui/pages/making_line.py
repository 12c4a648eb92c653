"""How far an adapter on its way is, and a button to stop it: for one that is added, combined or shrunk.

Ids: `#KEY-status`, `#KEY-stop`. The page asks twice a second and may be closed meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from jobs.service import Making, Service
from ui import answers, markup
from ui.answers import News
from ui.pages import frame

LOOK_SECONDS = 0.5
FIRST_LOOK_SECONDS = 0.5  # what is refused by its name is told by then, and nothing flickers


@dataclass(frozen=True, kw_only=True)
class Line:
    """The line's widgets; `making` holds the id of what is being made."""

    status: gr.HTML
    stop: gr.Button
    making: gr.Textbox
    timer: gr.Timer

    @property
    def all(self) -> list[Any]:
        """What a look changes."""
        return [self.status, self.stop, self.making, self.timer]


def build(key: str) -> Line:
    """Put the line into the open Blocks context."""
    return Line(
        status=gr.HTML("", elem_id=f"{key}-status", apply_default_css=False),
        stop=gr.Button("Stop", elem_id=f"{key}-stop", visible=False, size="sm", elem_classes=["narrow"]),
        making=gr.Textbox(visible=False),
        timer=gr.Timer(LOOK_SECONDS, active=False),
    )


def begun(service: Service, line: Line, making: Making, done: Callable[[Making], News]) -> News:
    """What the page shows once something has begun."""
    return {line.making: making.id, **_shown(line, service.library.makings.look(making.id, FIRST_LOOK_SECONDS), done)}


def look(service: Service, line: Line, done: Callable[..., News], making_id: str, *beside: Any) -> News:
    """How far it is; `done`, which gets what stands `beside`, says what is news once it is over."""
    if not making_id:
        return {}
    return _shown(line, service.library.makings.look(making_id), done, *beside)


def _shown(line: Line, making: Making, done: Callable[..., News], *beside: Any) -> News:
    if making.state == "making":
        return {line.status: _progress(making), line.stop: gr.update(visible=True), line.timer: gr.update(active=True)}
    if making.state == "done":
        return {**idle(line), **done(making, *beside)}
    assert making.problem is not None
    problem = markup.banner(making.problem.title, making.problem.detail, making.problem.hint)
    return {**idle(line), line.status: problem}


def idle(line: Line) -> News:
    """Nothing is being made."""
    return {line.status: "", line.stop: gr.update(visible=False), line.timer: gr.update(active=False)}


def wire(
    service: Service,
    line: Line,
    banner: gr.HTML,
    outputs: list[Any],
    done: Callable[..., News],
    beside: Sequence[Any] = (),
) -> None:
    """Let the line look by itself, and its button stop what is being made; `beside` are widgets for `done`."""

    def stop(making_id: str) -> News:
        service.library.makings.stop(making_id)
        return {**idle(line), line.making: ""}

    looks = answers.tells(banner, clears=False)(partial(look, service, line, done))
    line.timer.tick(looks, [line.making, *beside], outputs, **frame.QUICK)
    line.stop.click(answers.tells(banner)(stop), line.making, outputs, **frame.QUICK)


def _progress(making: Making) -> str:
    words = markup.loading(f"{making.name}: {making.phase}")
    if making.share_done is None:
        return words
    return words + markup.progress(round(100 * making.share_done), 100, f"How far {making.phase} is")
