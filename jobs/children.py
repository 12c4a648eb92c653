"""Processes of ours that do one piece of work beside the app and tell how it goes, one JSON object a line.

What takes seconds and holds much memory, or needs torch, is not done in the app: a page of somebody else would wait for
it. A child is niced, belongs to no session but the app's, and ends with it: what it has not finished begins anew. Its
standard error goes to the app's log, in which the app itself says what went wrong.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import orjson

from core.errors import UserError
from jobs.home import PROJECT
from jobs.logs import set_up_logging
from jobs.processes import NICE

Told: TypeAlias = dict[str, Any]

_END_SECONDS = 5.0

log = logging.getLogger(__name__)


class Child:
    """`python -m module arguments…`, started at once.

    Args:
        hear: called with every object that the child tells, and last with `{"kind": "gone", "status": n}`, from a
            thread of its own.
    """

    def __init__(
        self, module: str, arguments: Sequence[str], environment: Mapping[str, str], hear: Callable[[Told], None]
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=PROJECT,
            env=dict(environment),
            stdin=subprocess.PIPE,  # ends with us, by which the child knows
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._thread = threading.Thread(target=self._listen, args=(hear,), daemon=True, name=module)
        self._thread.start()

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it goes on."""
        return self._process.poll() is None

    def wait(self, seconds: float) -> bool:
        """Whether all that it told has been heard, and it has gone, within `seconds`."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def stop(self) -> None:
        """End it, now, and whatever it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._thread.join(_END_SECONDS)

    def _listen(self, hear: Callable[[Told], None]) -> None:
        assert self._process.stdout is not None and self._process.stdin is not None
        with self._process.stdout as lines:
            for told in _objects(lines):
                hear(told)
        self._process.stdin.close()
        hear({"kind": "gone", "status": self._process.wait()})


def _objects(lines: Iterator[bytes] | Any) -> Iterator[Told]:
    for line in lines:
        try:
            yield orjson.loads(line)
        except orjson.JSONDecodeError:  # a library's own words, or a line that a killed child could not end
            log.warning("A child said what is no JSON: %r", line[:200])


def begin_child() -> None:
    """In the child, first thing: stand back behind the app, and end when it ends."""
    os.nice(NICE)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def carry_out(work: Callable[[], None], *, undone: str, doing: str) -> int:
    """In the child: do the `work`; the exit status. Where it fails, the last that is told is `failed`, with a `title`,
    `detail` and `hint`, and all of these as one `sentence`.

    Args:
        undone: what the log says then, such as `Nothing was measured`.
        doing: what it was that hit a fault of ours, as the beginning of a sentence.
    """
    begin_child()
    set_up_logging()
    try:
        work()
    except UserError as error:
        log.info("%s: %s", undone, error, exc_info=error)
        _tell_failure(error)
        return 1
    except Exception as error:
        log.exception("%s because of a fault of ours", undone)
        title = f"{doing} hit a fault of ours: {type(error).__name__}: {error}"
        _tell_failure(UserError(title, hint="See the app's log"))
        return 1
    return 0


def _tell_failure(error: UserError) -> None:
    tell("failed", title=error.title, detail=error.detail, hint=error.hint, sentence=str(error))


def tell_refusal(error: UserError) -> None:
    """In the child: it cannot be done, and why."""
    tell("refused", problem={"title": error.title, "detail": error.detail, "hint": error.hint})


def tell(kind: str, **values: Any) -> None:
    """In the child: one object to who started it."""
    sys.stdout.buffer.write(orjson.dumps({"kind": kind, **values}, option=orjson.OPT_APPEND_NEWLINE))
    sys.stdout.buffer.flush()


def _leave_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):  # unbuffered: a buffer's lock, held at the end, would abort the interpreter
        pass
    os._exit(1)
