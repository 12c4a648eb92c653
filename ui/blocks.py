"""Gradio's Blocks, which say only what is new.

Gradio 6.31 makes a component anew, with its config, for every output of an event, what did not change included; and it
hands every value to another thread and looks through it for files, text included. A letter typed into a form of forty
fields costs ten milliseconds so, and as much a look at a run each second, by every visitor. Here the outputs that a
handler is silent about, updates that say what the session's component has already, and text for a `gr.HTML` never come
that far. A value is always sent, since the person may have changed it since.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import gradio as gr
from gradio.block_function import BlockFunction
from gradio.blocks import Block
from gradio.state_holder import SessionState, StateHolder

_SILENT = {"__type__": "update"}
_UNKNOWN = object()


class TabState(SessionState):
    """What is kept of one open tab. Gradio keeps beside it the config of every component a second time, most of what a
    session takes, for links that open a page as somebody else has it; here there are none.
    """

    def __init__(self, blocks: gr.Blocks) -> None:
        self.blocks_config = copy.copy(blocks.default_config)
        self.config_values = _Nothing()
        self.state_data: dict[int, Any] = {}
        self._state_ttl: dict[int, Any] = {}
        self.is_closed = False
        self.STATE_TTL_WHEN_CLOSED = 3600

    def _update_config(self, key: int) -> None:
        """Nothing: see the class."""

    def _update_value_in_config(self, key: int, value: Any) -> None:
        """Nothing: see the class."""


class _Nothing(dict[int, Any]):
    """A dict that keeps nothing."""

    def __setitem__(self, key: int, value: Any) -> None:
        pass


class TabStates(StateHolder):
    """The sessions of all open tabs, the oldest given up beyond what `launch` allows."""

    def __getitem__(self, session_id: str) -> SessionState:
        """The session of a tab; a new one where there is none."""
        if session_id not in self.session_data:
            self.session_data[session_id] = TabState(self.blocks)
        return super().__getitem__(session_id)


def keep_less(app: gr.routes.App, demo: gr.Blocks) -> None:
    """Let `app`, which serves `demo` and nobody yet, keep `TabStates`."""
    app.state_holder = TabStates()
    app.state_holder.set_blocks(demo)


class QuietBlocks(gr.Blocks):
    """Blocks whose handlers answer with `News`."""

    async def postprocess_data(
        self, block_fn: BlockFunction, predictions: list[Any] | dict[Any, Any], state: SessionState | None
    ) -> list[Any]:
        """As Gradio's, at the cost of what is new alone."""
        if state is None or not _is_news(predictions, block_fn.outputs):
            return await super().postprocess_data(block_fn, predictions, state)
        news = {block._id: value for block, value in predictions.items() if not _is_known(block, value, state)}
        sent = {block._id: news.pop(block._id) for block in block_fn.outputs if _is_text(block, news.get(block._id))}
        sent |= await self._by_gradio(block_fn, news, state)
        return [sent.get(block._id, None if block.stateful else _SILENT) for block in block_fn.outputs]

    async def _by_gradio(self, block_fn: BlockFunction, news: dict[int, Any], state: SessionState) -> dict[int, Any]:
        """What Gradio makes of the news for some of the outputs."""
        told = copy.copy(block_fn)
        told.outputs = [block for block in block_fn.outputs if block._id in news]
        values = [news[block._id] for block in told.outputs]
        if not values:
            return {}
        made = await super().postprocess_data(told, values[0] if len(values) == 1 else values, state)
        return {block._id: value for block, value in zip(told.outputs, made, strict=True)}


def _is_news(predictions: Any, outputs: Sequence[Block]) -> bool:
    """Whether that is a dict of outputs; of all else Gradio is to say what it thinks."""
    return isinstance(predictions, dict) and all(any(key is block for block in outputs) for key in predictions)


def _is_text(block: Block, value: Any) -> bool:
    """Whether that is shown as it is."""
    return type(block) is gr.HTML and isinstance(value, str)


def _is_known(block: Block, value: Any, state: SessionState) -> bool:
    """Whether `value` is an update that the session's component agrees with already."""
    if not isinstance(value, dict) or value.get("__type__") != "update" or "value" in value or block.stateful:
        return False
    now = state.get(block._id, block).constructor_args
    return all(now.get(name, _UNKNOWN) == wanted for name, wanted in value.items() if name != "__type__")
