"""One side of `benchmarks.profile_rows`: python -m benchmarks.instruments.profile_side ORDER

The order names the `side` and the `path` of a file of JSON lines with `messages` and a `row`.

- `ours`: its health, by the quick way.
- `usual`: the health of its first `rows`, with an object for each.
- `near`: near-duplicates in it.
- `datasets`: `load_dataset("json")` into an empty cache.
"""

from __future__ import annotations

import itertools
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson

from benchmarks.instruments.process import answer, order
from core.data.formats.converting import converter
from core.data.formats.mapping import Mapping
from core.data.health.check import HealthCheck
from core.data.health.lines import check_lines
from core.data.health.near_search import with_near_duplicates
from core.data.health.report import Health
from core.data.records import Record
from core.data.rows import BadRow, Problem, Row, problem_of

MAPPING = Mapping(format="messages", columns={"messages": "messages"})
BLOCK_BYTES = 2 << 20
BATCH = 1000


def blocks(path: Path) -> Iterator[bytes]:
    """The bytes of a file."""
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield block


def convert(number: int, line: bytes) -> Iterator[Record | Problem]:
    """What becomes of a line the usual way."""
    row = Row(number=number, values=orjson.loads(line))
    try:
        yield converter(MAPPING)(row)
    except BadRow as error:
        yield problem_of(row, error)


def ours(path: Path, folder: Path) -> dict[str, Any]:
    """The quick way."""
    check = HealthCheck(folder)
    for _ in check_lines(blocks(path), MAPPING, check, convert):
        pass
    return counts(check.finish())


def usual(path: Path, folder: Path, rows: int) -> dict[str, Any]:
    """Row by row."""
    check = HealthCheck(folder)
    with path.open("rb") as file:
        numbered = itertools.islice(enumerate(file, start=1), rows)
        while batch := list(itertools.islice(numbered, BATCH)):
            check.add([item for number, line in batch for item in convert(number, line)])
    return counts(check.finish())


def counts(health: Health) -> dict[str, Any]:
    """How many rows were found of each kind."""
    return {"found": {finding.kind: finding.count for finding in health.findings}}


def near(path: Path, folder: Path) -> dict[str, Any]:
    """The second pass."""
    return counts(with_near_duplicates(Health(), folder, path, folder, lambda share: None))


def by_datasets(path: Path, folder: Path) -> dict[str, Any]:
    """The other side."""
    import datasets

    found = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(folder))
    return {"rows": len(found)}


def main() -> None:
    """Measure what is ordered."""
    given = order()
    path = Path(given["path"])
    if given["side"] == "datasets":
        import datasets  # noqa: F401
    else:
        import pyarrow.compute
        import pyarrow.json  # noqa: F401
    sides: dict[str, Callable[[Path], dict[str, Any]]] = {
        "ours": lambda folder: ours(path, folder),
        "usual": lambda folder: usual(path, folder, given["rows"]),
        "near": lambda folder: near(path, folder),
        "datasets": lambda folder: by_datasets(path, folder),
    }
    with tempfile.TemporaryDirectory() as name:
        begin, worked = time.perf_counter(), time.process_time()
        found = sides[given["side"]](Path(name))
        figures = {"seconds": time.perf_counter() - begin, "processor_seconds": time.process_time() - worked}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # before `answer` imports what it needs
    answer({**found, **figures, "profile_peak_rss_bytes": peak})


if __name__ == "__main__":
    main()
