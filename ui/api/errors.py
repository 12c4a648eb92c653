"""What goes wrong, in the form in which OpenAI's clients expect it: a status and `{"error": {…}}`."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from core.errors import NotFound, RunError, UserError

CLIENT_GONE = 499  # which nobody reads

log = logging.getLogger(__name__)


class ApiError(Exception):
    """One thing that is told to the program that asked.

    Args:
        param: the field that is wrong, if it is one.
        code: a word that programs compare with.
        seconds: after which it may try again.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, seconds: float = 0.0
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.seconds = status, message, param, code, seconds

    @property
    def body(self) -> dict[str, Any]:
        """`{"error": {…}}`."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(self.status, kind)
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The answer to who asked."""
        headers = {"www-authenticate": "Bearer"} if self.status == HTTPStatus.UNAUTHORIZED else {}
        if self.seconds:
            headers["retry-after"] = str(int(self.seconds) + 1)
        return JSONResponse(self.body, self.status, headers)


def told(error: Exception) -> ApiError:
    """What a program is told of an error; of our own faults, that there was one."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, NotFound):
        return ApiError(404, str(error), param="model", code="model_not_found")
    if isinstance(error, RunError):
        return ApiError(503, str(error))
    if isinstance(error, UserError):
        return ApiError(400, str(error))
    log.error("A request failed because of a fault of ours", exc_info=error)
    return ApiError(500, "The workbench hit a fault of its own; its log says which.")


def tell_errors(api: FastAPI) -> None:
    """Let `api` answer with `told` of whatever is raised in it, and of addresses that are none."""

    async def answer(_: Request, error: Exception) -> JSONResponse:
        return told(error).response()

    async def nothing_here(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        what = f"There is nothing to {request.method} at {request.url.path}"
        return ApiError(error.status_code, what, code="not_found").response()

    async def nobody_listens(_: Request, __: Exception) -> Response:
        return Response(status_code=CLIENT_GONE)

    api.add_exception_handler(Exception, answer)
    api.add_exception_handler(ClientDisconnect, nobody_listens)
    api.add_exception_handler(ApiError, answer)
    api.add_exception_handler(UserError, answer)
    api.add_exception_handler(HTTPException, nothing_here)
