"""Who may ask: everybody on this machine while there is no key, else whoever shows one.

A key that is right is always let in: it cannot be guessed, so nothing is gained by making its owner wait, and others
who share an address could keep each other out. Wrong keys are counted as wrong passwords are.
"""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from jobs.service import Service
from ui.api.errors import ApiError
from ui.login import Throttle

LONGEST_KEY = 512


class Gate:
    """Asks for keys.

    Args:
        is_public: whether others than this machine can ask, so that a key is needed even where there is none.
    """

    def __init__(self, service: Service, throttle: Throttle, *, is_public: bool) -> None:
        self._keys, self._throttle, self._is_public = service.keys, throttle, is_public

    async def check(self, request: Request) -> None:
        """Raises: ApiError, where the request shows no key that is needed, or a wrong one."""
        if not await run_in_threadpool(self._keys.are_wanted):
            if self._is_public:
                hint = "There are no API keys yet: make one with: python app.py keys add NAME."
                raise ApiError(401, hint, code="invalid_api_key")
            return
        kind, _, key = request.headers.get("authorization", "").partition(" ")
        key = key.strip()
        if kind.lower() != "bearer" or not key:
            message = "This needs an API key, in the header: Authorization: Bearer KEY."
            raise ApiError(401, message, code="invalid_api_key")
        if len(key) <= LONGEST_KEY and await run_in_threadpool(self._keys.owner, key) is not None:
            return
        seconds = self._throttle.begin((request.client.host if request.client else "",))
        if seconds > 0:
            message = f"Too many wrong API keys: try again in {seconds:.0f} seconds."
            raise ApiError(429, message, code="rate_limit_exceeded", seconds=seconds)
        raise ApiError(401, "There is no such API key.", code="invalid_api_key")
