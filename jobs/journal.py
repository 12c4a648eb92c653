"""A run's `events.jsonl` and `control` file: what the worker tells, and what it is told.

Each event is one line, appended in one write by one writer, so a reader never meets a mixture of two. A line that was
cut short by a crash is ended by the next writer and skipped by readers.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import orjson
from pydantic import ValidationError

from core.events import Event, from_json, to_dict
from jobs.states import Wish

log = logging.getLogger(__name__)


class EventWriter:
    """Appends events to `path`, each with the time at which it was written (`time`, Unix seconds)."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            self._append(b"\n")

    def write(self, event: Event) -> None:
        """Append `event`.

        Raises:
            OSError: it could not be written whole; the disk is full.
        """
        self._append(orjson.dumps(to_dict(event) | {"time": self._clock()}) + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._file)

    def _append(self, line: bytes) -> None:
        written = os.write(self._file, line)
        if written != len(line):  # as much as the last block had room for; the next line must not begin behind it
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_events(path: Path, offset: int = 0) -> tuple[tuple[Event, ...], int]:
    """The events in the whole lines of `path` from byte `offset` on, and the offset to go on from.

    A file that is not there holds nothing yet.
    """
    lines, offset = read_lines(path, offset)
    return tuple(event for line in lines if (event := parse_event(line)) is not None), offset


def read_lines(path: Path, offset: int = 0) -> tuple[list[bytes], int]:
    """The whole lines of `path` from byte `offset` on that are not empty, and the offset to go on from."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            new = file.read()
    except FileNotFoundError:
        return [], offset
    whole = new[: new.rfind(b"\n") + 1]
    return [line for line in whole.split(b"\n") if line], offset + len(whole)


def parse_event(line: bytes) -> Event | None:
    """The event in a line; None where it holds none."""
    try:
        return from_json(line)
    except ValidationError:
        log.warning("Skipped a line of %d bytes that holds no event", len(line))
        return None


def write_wish(control: Path, wish: Wish) -> None:
    """Tell the worker to end: at once to go on another day, after this step with what was learned, or for good."""
    draft = control.with_name(f"{control.name}.{os.getpid()}.{threading.get_ident()}")  # others may write as well
    draft.write_text(wish)
    draft.replace(control)


def read_wish(control: Path) -> Wish | None:
    """What the worker was told, if anything."""
    try:
        said = control.read_text()
    except FileNotFoundError:
        return None
    wishes: dict[str, Wish] = {"pause": "pause", "keep": "keep", "cancel": "cancel"}
    return wishes.get(said)
