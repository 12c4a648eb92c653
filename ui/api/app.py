"""OpenAI's addresses beside the page: an ASGI middleware that answers under `/v1` and passes everything else on.

It stands behind the guard, which refuses foreign pages and completes headers, and before the login: programs show a key
where people show a session.
"""

from __future__ import annotations

from fastapi import FastAPI
from starlette.requests import Request

from core.errors import UserError
from jobs.service import Service
from ui.api.errors import ApiError, tell_errors, told
from ui.api.keys import Gate
from ui.api.routes import routes
from ui.guard import App, Receive, Scope, Send
from ui.login import Throttle

PREFIX = "/v1"


class Api:
    """Answers programs. `served` is handed to it, since Starlette may make middleware anew."""

    def __init__(self, app: App, served: ServedApi) -> None:
        self.app, self.served = app, served

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer under `PREFIX`, or let others."""
        if scope["type"] == "http" and (scope["path"] == PREFIX or scope["path"].startswith(f"{PREFIX}/")):
            await self.served(scope, receive, send)
        else:
            await self.app(scope, receive, send)


class ServedApi:
    """The addresses, and who may ask them."""

    def __init__(self, service: Service, *, is_public: bool) -> None:
        self._gate = Gate(service, Throttle(), is_public=is_public)
        self._api = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
        tell_errors(self._api)
        self._api.include_router(routes(service))
        self.routes = self._api.routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer who may ask."""
        try:
            await self._gate.check(Request(scope))
        except (ApiError, UserError) as error:
            await told(error).response()(scope, receive, send)
            return
        await self._api(scope, receive, send)
