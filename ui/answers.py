"""How a page's handlers answer when something goes wrong: a banner instead of a toast, never a traceback.

A handler returns a dict of components and their news. `tells` adds the banner to it: empty after success, the
`UserError`'s words after a mistake that the person can act on, and one honest sentence after ours. What was typed
stays, as no other component is answered for.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import gradio as gr

from core.errors import UserError
from ui import markup

News: TypeAlias = dict[Any, Any]

_log = logging.getLogger(__name__)


def tells(banner: gr.HTML, clears: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator for a handler that returns, or yields, `News`.

    Args:
        banner: where errors are shown; it has to be among the event's outputs.
        clears: whether success takes an older error away; False for what happens without a click.
    """

    def decorate(handler: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.isgeneratorfunction(handler):
            return _watch_steps(handler, banner)
        return _watch(handler, banner, clears)

    return decorate


def explain(error: Exception) -> str:
    """The banner for `error`; our own mistakes go to the log with their traceback."""
    if isinstance(error, UserError):
        return markup.banner(error.title, error.detail, error.hint)
    _log.error("a page's handler failed", exc_info=error)
    return markup.banner("Something broke on our side", "The log has the details", "Try again; report it if it stays")


def _watch(handler: Callable[..., News], banner: gr.HTML, clears: bool) -> Callable[..., News]:
    @functools.wraps(handler)
    def answer(*args: Any, **kwargs: Any) -> News:
        try:
            news = handler(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the last who can tell the person; `explain` logs it
            return {banner: explain(error)}
        # Gradio takes an empty dict for a value, so there is always a word on the banner.
        return {banner: "" if clears else gr.skip(), **news}

    return answer


def _watch_steps(handler: Callable[..., Iterator[News]], banner: gr.HTML) -> Callable[..., Iterator[News]]:
    @functools.wraps(handler)
    def answer(*args: Any, **kwargs: Any) -> Iterator[News]:
        yield {banner: ""}
        try:
            yield from handler(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the last who can tell the person; `explain` logs it
            yield {banner: explain(error)}

    return answer
