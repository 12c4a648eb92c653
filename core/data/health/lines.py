"""A dataset's rows on their way into it, in batches: their lines of `records.jsonl`, what each is by itself, and what
is wrong with those that are no records.

The usual way makes an object of each row, and a batch of some of these. A file of JSON lines goes the quick way, at the
speed of its parser: blocks of lines on several threads, plain lines as columns (`core.data.health.json_columns`), of
which their records' lines are made (`core.data.health.record_lines`), and the others the usual way, one by one, in
their places. Both ways give the same bytes.

Both Arrow and numpy let other threads run while they work, so threads are enough. Blocks are as small as fits a core's
cache; no more of them are under way than there are threads, and one.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from core.data import row_index
from core.data.formats.mapping import Mapping
from core.data.health import check
from core.data.health.check import Examined, examine
from core.data.health.json_columns import parse_lines
from core.data.health.record_lines import lines_of
from core.data.health.text_columns import columns_of
from core.data.records import Record
from core.data.row_index import RecordLines
from core.data.rows import Problem

BLOCK_BYTES = 4 << 20
MOST_THREADS = 8
_SMALLEST_BYTES, _LARGEST_BYTES = 128 << 10, 16 << 20  # of what is given to Arrow at once

Lines: TypeAlias = Sequence[tuple[int, bytes | None]]  # numbered; None for one that is too long
Usual: TypeAlias = Callable[[Lines], Iterable[Record | Problem]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Some rows of a dataset; `examined` is None where none of them is a record."""

    lines: RecordLines
    examined: Examined | None
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """Some lines of a file: a batch of the plain ones, and the others."""

    batch: Batch
    others: Lines


def batch_of(items: Iterable[Record | Problem]) -> Batch:
    """Rows that went the usual way."""
    records: list[Record] = []
    problems: list[Problem] = []
    for item in items:
        if isinstance(item, Problem):
            problems.append(item)
        else:
            records.append(item)
    examined = examine(columns_of(records)) if records else None
    return Batch(lines=RecordLines.of(records), examined=examined, problems=tuple(problems))


def batches_of_lines(
    blocks: Iterable[tuple[int, bytes | None]], mapping: Mapping, usual: Usual, threads: int | None = None
) -> Iterator[Batch]:
    """The rows of a file of JSON lines, in their order.

    Args:
        blocks: its lines in UTF-8, each with its end, with the number of the first; None for a line that is too long.
        mapping: one of `core.data.health.json_columns.is_plain`.
        usual: what becomes of some lines without their ends the usual way.
        threads: one for each core that we may use where it is not said.
    """
    threads = threads or usable_threads()
    under_way: deque[Future[list[_Piece]]] = deque()
    with ThreadPoolExecutor(threads, "lines") as pool:
        for first, block in blocks:
            if len(under_way) > threads:
                yield from (_whole(piece, usual) for piece in under_way.popleft().result())
            under_way.append(pool.submit(_pieces, block, first, mapping))
        while under_way:
            yield from (_whole(piece, usual) for piece in under_way.popleft().result())


def usable_threads() -> int:
    """One for each core that this process may use, and no more than are of use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST_THREADS, cores)


def _pieces(block: bytes | None, first: int, mapping: Mapping) -> list[_Piece]:
    """What becomes of the lines of `block`. Where Arrow cannot read it, a row in it may be to blame: each half is
    tried.
    """
    if block is None:
        return [_Piece(batch=_NOTHING, others=((first, None),))]
    if len(block) <= _LARGEST_BYTES:
        parsed = parse_lines(block, first, mapping)
        if parsed.is_read or len(block) <= _SMALLEST_BYTES:
            columns = parsed.columns
            examined = examine(columns, has_blanks=False) if len(columns) else None
            return [_Piece(batch=Batch(lines=lines_of(columns), examined=examined), others=parsed.others)]
    cut = block.rfind(b"\n", 0, len(block) // 2) + 1 or block.index(b"\n") + 1
    if cut == len(block):
        return [_Piece(batch=_NOTHING, others=((first, block[:-1]),))]
    second = first + block.count(b"\n", 0, cut)
    return [*_pieces(block[:cut], first, mapping), *_pieces(block[cut:], second, mapping)]


def _whole(piece: _Piece, usual: Usual) -> Batch:
    """All rows of a piece, in their order."""
    if not piece.others:
        return piece.batch
    quick, slow = piece.batch, batch_of(usual(piece.others))
    if quick.examined is None:
        return slow
    if slow.examined is None:
        return Batch(lines=quick.lines, examined=quick.examined, problems=slow.problems)
    return Batch(
        lines=row_index.merged(quick.lines, slow.lines),
        examined=check.merged(quick.examined, slow.examined),
        problems=slow.problems,
    )


_NOTHING = Batch(lines=RecordLines(text=b"", starts=np.zeros(0, np.int64), rows=np.zeros(0, np.int64)), examined=None)
