"""An event loop where there may be one already: Playwright keeps the main thread's for as long as its browser lives."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self, TypeVar

Result = TypeVar("Result")


class Loop:
    """A loop in a thread of its own."""

    def __enter__(self) -> Self:
        self._thread, self._runner = ThreadPoolExecutor(1), asyncio.Runner()
        return self

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """What `coroutine` comes to."""
        return self._thread.submit(self._runner.run, coroutine).result()

    def __exit__(self, *_: object) -> None:
        self._thread.submit(self._runner.close).result()
        self._thread.shutdown()
