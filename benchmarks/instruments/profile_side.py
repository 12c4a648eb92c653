"""One side of `benchmarks.profile_rows`: python -m benchmarks.instruments.profile_side ORDER

The order names the `side` and the `path` of a file of JSON lines with `messages` and a `row`.

- `ours`: the first pass of its way into the workbench: read, told what it is, its rows written and their health found.
- `usual`: the same for its first `rows`, with an object for each.
- `near`: the second pass: near-duplicates in it.
- `intake`: all of its way, both passes, the copy of the file that is kept, and until it is on the disk.
- `datasets`: `load_dataset("json")` into an empty cache.
"""

from __future__ import annotations

import itertools
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from benchmarks.instruments.process import answer, order
from core.data.health.near_search import with_near_duplicates
from core.data.health.report import Health
from core.data.reading import RecordStream
from jobs.home import DatasetFolder
from jobs.taking_in import Order, batches_of, first_pass, in_batches, open_stream, take_in


def opened(path: Path, folder: Path) -> tuple[RecordStream, DatasetFolder]:
    """A file's records as the workbench takes them in, and a folder for the dataset."""
    draft = DatasetFolder(folder / "draft")
    draft.path.mkdir()
    return open_stream(Order(source=path, name=path.name)), draft


def silent(rows: int, compared: float | None) -> None:
    """Nobody waits for progress."""


def ours(path: Path, folder: Path) -> dict[str, Any]:
    """The first pass, the quick way."""
    stream, draft = opened(path, folder)
    return counts(first_pass(batches_of(stream), draft, silent).health)


def usual(path: Path, folder: Path, rows: int) -> dict[str, Any]:
    """The first pass row by row."""
    stream, draft = opened(path, folder)
    return counts(first_pass(in_batches(itertools.islice(stream, rows)), draft, silent).health)


def intake(path: Path, folder: Path) -> dict[str, Any]:
    """All that becomes of a file."""
    draft = DatasetFolder(folder / "draft")
    take_in(Order(source=path, name=path.name), draft)
    return counts(Health.from_dict(orjson.loads(draft.health_summary.read_bytes())))


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
        "intake": lambda folder: intake(path, folder),
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
