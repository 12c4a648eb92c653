"""Answers as server-sent events: `data: {…}` for each piece, and `data: [DONE]` at the end."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import orjson
from starlette.responses import StreamingResponse

from jobs.service import Delta
from ui.api.errors import told
from ui.api.forms import Completion

DONE = b"data: [DONE]\n\n"


async def streamed(deltas: AsyncGenerator[Delta], completion: Completion, tells_usage: bool) -> StreamingResponse:
    """The response, once the first piece is there: what is wrong with a request still gets a status of its own.

    Raises:
        Exception: whatever came in place of the first piece.
    """
    first = await anext(deltas, None)
    if first is None:
        completion.check()
    events = _events(first, deltas, completion, tells_usage)
    return StreamingResponse(events, media_type="text/event-stream", headers={"cache-control": "no-store"})


async def _events(
    first: Delta | None, deltas: AsyncGenerator[Delta], completion: Completion, tells_usage: bool
) -> AsyncGenerator[bytes]:
    async with aclosing(deltas):
        for piece in completion.opening():
            yield _event(piece)
        try:
            for piece in _taken(first, completion) if first is not None else ():
                yield _event(piece)
            async for delta in deltas:
                for piece in _taken(delta, completion):
                    yield _event(piece)
            completion.check()
        except Exception as error:  # noqa: BLE001, the status has gone out; what is left is to say it here
            yield _event(told(error).body)
            return
        if tells_usage:
            yield _event(completion.closing())
        yield DONE


def _taken(delta: Delta, completion: Completion) -> list[dict[str, Any]]:
    completion.take([delta])
    return completion.pieces(delta)


def _event(values: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(values) + b"\n\n"
