"""Near-duplicates in a file of records: the second pass over a dataset, by several threads, with its progress."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from core.data.formats.mapping import Mapping
from core.data.health.json_columns import parse_lines
from core.data.health.lines import usable_threads
from core.data.health.near_duplicates import NearDuplicates, Sketches, common_shingles, sketch
from core.data.health.report import Health, likes_of, rows_of
from core.data.health.text_columns import TextColumns, columns_of
from core.data.records import from_line

_BLOCK_BYTES = 1 << 20
_SAMPLES = 16  # of a block each, from which the words of templates are known


def with_near_duplicates(
    health: Health, folder: Path, records: Path, scratch: Path, heard: Callable[[float], None], threads: int = 0
) -> Health:
    """`health` with the rows of a dataset that are nearly the same as an earlier one. Exact copies are not among them;
    and they no longer are among the contradictions.

    Args:
        folder: that of the health.
        records: the file of records (`core.data.records`) that the health is of.
        scratch: a folder for a file of 120 bytes a row, which is gone in the end.
        heard: told the share of the file that has been read, now and then.
        threads: one for each core that we may use where it is 0.
    """
    copies = rows_of(folder, "duplicates")
    threads = threads or usable_threads()
    near = NearDuplicates(scratch)
    try:
        common = common_shingles(columns for block in _samples(records) for columns in record_columns(block))
        for sketches, share in _sketches(records, common, threads):
            near.take(replace(sketches, is_told=sketches.is_told & ~np.isin(sketches.rows, copies)))
            heard(share)
        rows, of = near.found()
    finally:
        near.close()
    others, lead = rows_of(folder, "contradictions"), likes_of(folder, "contradictions")
    is_other = ~np.isin(others, rows)  # an answer in nearly the same words is no other answer
    found = health.with_rows(folder, "contradictions", others[is_other], lead[is_other])
    return found.with_rows(folder, "near_duplicates", rows, of)


def record_columns(block: bytes) -> list[TextColumns]:
    """The records of whole lines of a file of records: the plain ones, and then the others."""
    head: dict[str, object] = orjson.loads(block[: block.index(b"\n")])
    if "messages" in head:
        mapping = Mapping(format="messages", columns={"messages": "messages"})
    else:
        is_paired = b'"text_pair":' in block
        known = [key for key in ("text", "text_pair", "label") if key in head or (key == "text_pair" and is_paired)]
        mapping = Mapping(format="labeled" if "label" in known else "text", columns={key: key for key in known})
    parsed = parse_lines(block, 1, mapping, row_column="row")
    others = [from_line(line) for _, line in parsed.others]
    return [columns for columns in (parsed.columns, columns_of(others)) if len(columns)]


def _sketches(path: Path, common: NDArray[np.uint64], threads: int) -> Iterator[tuple[Sketches, float]]:
    """The sketches of all records, and the share of the file that these and those before are."""
    size, read = max(1, path.stat().st_size), 0
    under_way: deque[tuple[Future[list[Sketches]], float]] = deque()
    with ThreadPoolExecutor(threads, "near-duplicates") as pool:
        for block in whole_lines(_blocks(path)):
            read += len(block)
            under_way.append((pool.submit(_sketched, block, common), read / size))
            if len(under_way) > threads + 1:
                yield from _done(*under_way.popleft())
        while under_way:
            yield from _done(*under_way.popleft())


def _sketched(block: bytes, common: NDArray[np.uint64]) -> list[Sketches]:
    return [sketch(columns, common) for columns in record_columns(block)]


def _done(found: Future[list[Sketches]], share: float) -> Iterator[tuple[Sketches, float]]:
    for sketches in found.result():
        yield sketches, share


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            yield block


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


def _samples(path: Path) -> Iterator[bytes]:
    """Whole lines from all over a file: all of it where it is small."""
    size = path.stat().st_size
    if size <= _SAMPLES * _BLOCK_BYTES:
        yield from whole_lines(_blocks(path))
        return
    with path.open("rb") as file:
        for number in range(_SAMPLES):
            file.seek(number * (size - _BLOCK_BYTES) // (_SAMPLES - 1))
            block = file.read(_BLOCK_BYTES)
            begin = block.find(b"\n") + 1 if number else 0
            end = block.rfind(b"\n") + 1
            if begin < end:
                yield block[begin:end]
