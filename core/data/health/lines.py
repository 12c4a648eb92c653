"""The health of a file of JSON lines at the speed of its parser: blocks of lines on several threads, plain lines as
columns (`core.data.health.json_columns`), and the others the usual way, one by one.

Both Arrow and numpy let other threads run while they work, so threads are enough. Blocks are as small as fits a core's
cache; no more of them are under way than there are threads, and one.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from core.data.formats.mapping import Mapping
from core.data.health.check import Examined, HealthCheck, examine
from core.data.health.json_columns import Parsed, parse_lines
from core.data.records import Record
from core.data.rows import Problem

MOST_THREADS = 8


def check_lines(
    blocks: Iterable[bytes],
    mapping: Mapping,
    check: HealthCheck,
    usual: Callable[[int, bytes], Iterable[Record | Problem]],
    threads: int | None = None,
) -> Iterator[int]:
    """Give `check` all rows of a file of JSON lines.

    Args:
        blocks: its bytes in UTF-8, cut anywhere.
        mapping: one of `core.data.health.json_columns.is_plain`.
        usual: what becomes of a line, given its number and itself without its end, the usual way.
        threads: one for each core that we may use where it is not said.

    Yields:
        How many lines have been read, now and then.
    """
    threads = threads or usable_threads()
    under_way: deque[Future[tuple[Parsed, Examined]]] = deque()
    first = 1
    with ThreadPoolExecutor(threads, "health") as pool:
        for block in whole_lines(blocks):
            if len(under_way) > threads:
                _take(under_way.popleft().result(), check, usual)
            under_way.append(pool.submit(_examined, block, first, mapping))
            first += block.count(b"\n")
            yield first - 1
        while under_way:
            _take(under_way.popleft().result(), check, usual)


def usable_threads() -> int:
    """One for each core that this process may use, and no more than are of use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST_THREADS, cores)


def whole_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes, cut behind ends of lines alone; the last line gets one where it has none."""
    begun: list[bytes | memoryview] = []
    for block in blocks:
        cut = block.rfind(b"\n") + 1
        if cut:
            yield b"".join([*begun, memoryview(block)[:cut]])
            begun = []
        begun.append(memoryview(block)[cut:])
    if any(begun):
        yield b"".join([*begun, b"\n"])


def _examined(block: bytes, first: int, mapping: Mapping) -> tuple[Parsed, Examined]:
    parsed = parse_lines(block, first, mapping)
    return parsed, examine(parsed.columns, has_blanks=False)


def _take(
    done: tuple[Parsed, Examined], check: HealthCheck, usual: Callable[[int, bytes], Iterable[Record | Problem]]
) -> None:
    parsed, examined = done
    if len(examined.rows):
        check.take(examined)
    check.add([item for number, line in parsed.others for item in usual(number, line)])
