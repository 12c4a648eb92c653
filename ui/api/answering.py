"""From a request's body to updates of its answers, as long as somebody listens.

The service's updates come from an iterator that waits, in a thread; a request holds one thread at a time. When the
client goes, its iterator is closed, which takes its rows out of the batch.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from jobs.service import Asked, ChatUpdate, Delta, Served, Service
from ui.api.errors import ApiError

LARGEST_BODY = 2**23
MOST_REQUESTS = 64  # that are answered or wait in line, each with a thread for moments

BodyType = TypeVar("BodyType", bound=BaseModel)


async def read_body(request: Request, kind: type[BodyType]) -> BodyType:
    """What was sent, as `kind`.

    Raises:
        ApiError: it is too large, no JSON, or not what is expected; the first thing that is wrong is told.
    """
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > LARGEST_BODY:
            raise ApiError(413, f"The request is larger than {LARGEST_BODY >> 20} MB.")
    try:
        return kind.model_validate_json(bytes(body))
    except ValidationError as error:
        raise _refusal(error) from None


def _refusal(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    named = [part for part in first["loc"] if part != "str" and "[" not in str(part)]  # not which of several kinds
    field = ".".join(map(str, named))
    words = first["msg"].removeprefix("Value error, ").rstrip(".")
    return ApiError(400, f"{field}: {words}." if field else f"{words}.", param=field or None)


class Answers:
    """Takes requests to the service, a bounded number at a time."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._threads = anyio.CapacityLimiter(MOST_REQUESTS)
        self._under_way = 0

    async def find(self, name: str) -> Served:
        """Raises: NotFound."""
        return await anyio.to_thread.run_sync(self._service.serving.find, name, limiter=self._threads)

    async def stream(
        self, served: Served, asked: list[Asked], is_gone: Callable[[], Awaitable[bool]] | None = None
    ) -> AsyncGenerator[Delta]:
        """What is new in each answer, until all are done.

        Args:
            is_gone: whether nobody listens any more, where nobody else looks.

        Raises:
            ApiError: too many requests are being answered.
            UserError: as `Serving.answer`.
            ClientDisconnect: nobody listens any more.
        """
        if self._under_way >= MOST_REQUESTS:
            message = f"{MOST_REQUESTS} requests are being answered: try again in a moment."
            raise ApiError(429, message, code="rate_limit_exceeded", seconds=1)
        self._under_way += 1
        try:
            updates = await self._in_thread(self._service.serving.answer, served, asked)
            try:
                while (update := await self._in_thread(_next, updates)) is not None:
                    if isinstance(update, Delta):
                        yield update
                    if is_gone is not None and await is_gone():
                        raise ClientDisconnect
            finally:
                with anyio.CancelScope(shield=True):
                    await self._in_thread(_close, updates)
        finally:
            self._under_way -= 1

    async def _in_thread(self, function: Any, *arguments: Any) -> Any:
        return await anyio.to_thread.run_sync(function, *arguments, limiter=self._threads)


def _next(updates: Iterator[ChatUpdate]) -> ChatUpdate | None:
    return next(updates, None)


def _close(updates: Iterator[ChatUpdate]) -> None:
    if isinstance(updates, Generator):
        updates.close()
