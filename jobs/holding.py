"""One app on one home: a second one is refused and told who holds it.

Two apps would both answer for the same runs, and each would think the other's chat process its own. A command line
beside the app is no second app: it reads, queues and leaves, and whoever sees a run's end first puts it on record.
The lock is the system's, so it is gone when its holder is, however that ended.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

import orjson
from filelock import FileLock, Timeout

from core.errors import UserError
from jobs.home import Home


class HomeHeld(UserError):
    """Another app has the home folder."""


@contextmanager
def holding(home: Home) -> Iterator[Callable[[str], None]]:
    """Keep every other app off `home` while the block lasts. It gets a function that takes the address to tell them.

    Raises:
        HomeHeld: another app was faster.
    """
    lock = FileLock(home.app_lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise HomeHeld(
            f"Another LoRA Workbench has the home folder {home.path}",
            _holder(home),
            "Use that one, or choose another folder with --home",
        ) from None
    try:
        yield lambda address: _tell(home, address)
    finally:
        home.app_holder.unlink(missing_ok=True)
        lock.release()


def _tell(home: Home, address: str) -> None:
    said = {"pid": os.getpid(), "address": address, "since": time.time()}
    with suppress(OSError):  # a full disk: who is refused is told that we are just starting
        home.app_holder.write_bytes(orjson.dumps(said))


def _holder(home: Home) -> str:
    try:
        said = orjson.loads(home.app_holder.read_bytes())
        since = datetime.fromtimestamp(said["since"], UTC).astimezone()
        return f"process {said['pid']} at {said['address']}, since {since:%d %b %H:%M}"
    except (OSError, ValueError, LookupError, TypeError):
        return "it is just starting"
