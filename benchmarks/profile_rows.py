"""A dataset's way into the workbench beside reading its file with `datasets`: a million rows, seconds, peak memory.

    python app.py bench profile_rows
    python app.py bench profile_rows --quick    few rows, one round; nothing is kept

Both sides read the same file of JSON lines, about 500 MB of it in the chat format, in turns, each in a process of its
own. Ours is the first pass of what the app runs on an upload (`jobs.taking_in`): it tells what the file is, reads it,
writes its rows with their index, and finds what `core.data.health.check` looks for; the other is
`load_dataset("json")`, from the file to an Arrow table in a cache that is empty. What either imports is not counted.
Beside these: the same row by row with an object for each, on a part of the file; the second pass, for near-duplicates,
on all of it; and the whole way of a file, with the copy of it that is kept and until all is on the disk.

Rows are drawn word by word from an English text, so that no two are alike but by chance. Every thousandth holds a mail
address, a key, a copy of another row, or nothing, which is counted again in what was found.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import orjson

from benchmarks.instruments.process import measured
from benchmarks.instruments.requirements import require
from benchmarks.results import keep, note_machine
from benchmarks.workload import rows

ROUNDS = 3
ROWS, QUICK_ROWS = 1_000_000, 20_000
USUAL_ROWS = 100_000
SIDE = "benchmarks.instruments.profile_side"
LOG_MEAN, LOG_DEVIATION = 4.0, 0.6  # of a row's words
PLANTED = 1000  # a fault in every so many rows, four kinds in turn
FAULTS = ("personal", "keys", "duplicates", "missing_answers")


def lines(count: int, seed: int = 0) -> Iterator[bytes]:
    """`count` rows as lines of JSON with `messages` and a `row`; each plant a fault in turn."""
    generator = random.Random(seed)
    known = " ".join(row["output"] for row in rows(2000, seed)).split()
    words = list(dict.fromkeys(known))
    weights = list(accumulate(map(known.count, words)))
    drawn = generator.choices(words, cum_weights=weights, k=1_000_000)
    first: dict[str, str] = {}
    for number in range(1, count + 1):
        length = min(int(generator.lognormvariate(LOG_MEAN, LOG_DEVIATION)) + 8, 400)
        said = generator.choices(drawn, k=length)
        row = {"question": " ".join(said[: length // 5]), "answer": " ".join(said[length // 5 :])}
        first = first or row
        if number % PLANTED == 0:
            row = planted(row, first, FAULTS[number // PLANTED % len(FAULTS)])
        turns = [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]
        yield orjson.dumps({"row": number, "messages": turns}, option=orjson.OPT_APPEND_NEWLINE)


def planted(row: dict[str, str], first: dict[str, str], fault: str) -> dict[str, str]:
    """`row` with a fault."""
    added = {"personal": " jane.doe@firm.org", "keys": " AKIAJ5Q2YB7ZLX3MN6OP"}
    if fault == "duplicates":
        return first
    return {**row, "answer": row["answer"] + added[fault] if fault in added else ""}


def write(path: Path, count: int) -> float:
    """Put `count` rows into a file; returns its size in megabytes."""
    with path.open("wb") as file:
        file.writelines(lines(count))
    return path.stat().st_size / 1e6


def measure(is_quick: bool) -> dict[str, Any]:
    """All figures."""
    require("datasets")
    count, rounds = (QUICK_ROWS, 1) if is_quick else (ROWS, ROUNDS)
    ours: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "rows.jsonl"
        megabytes = write(path, count)
        for number in range(rounds):
            ours.append(measured(SIDE, {"side": "ours", "path": str(path)}))
            theirs.append(measured(SIDE, {"side": "datasets", "path": str(path)}))
            print(
                f"round {number + 1}: ours {ours[-1]['seconds']:.2f} s, datasets {theirs[-1]['seconds']:.2f} s",
                flush=True,
            )
        usual = measured(SIDE, {"side": "usual", "path": str(path), "rows": min(count, USUAL_ROWS)})
        near = measured(SIDE, {"side": "near", "path": str(path)})
        intake = measured(SIDE, {"side": "intake", "path": str(path)})
    check(ours[0]["found"], count)
    return {
        "rows": count,
        "megabytes": megabytes,
        "ours_seconds": statistics.median(side["seconds"] for side in ours),
        "ours_processor_seconds": statistics.median(side["processor_seconds"] for side in ours),
        "ours_peak_rss_bytes": max(side["profile_peak_rss_bytes"] for side in ours),
        "datasets_seconds": statistics.median(side["seconds"] for side in theirs),
        "datasets_processor_seconds": statistics.median(side["processor_seconds"] for side in theirs),
        "datasets_peak_rss_bytes": max(side["profile_peak_rss_bytes"] for side in theirs),
        "usual_microseconds_per_row": usual["seconds"] / min(count, USUAL_ROWS) * 1e6,
        "near_duplicates_seconds": near["seconds"],
        "near_duplicates_peak_rss_bytes": near["profile_peak_rss_bytes"],
        "intake_seconds": intake["seconds"],
        "intake_processor_seconds": intake["processor_seconds"],
        "intake_peak_rss_bytes": intake["profile_peak_rss_bytes"],
        "others_share": max(side["others_share"] for side in [*ours, *theirs]),
        "ratios": {
            "over_datasets": statistics.median(
                other["seconds"] / mine["seconds"] for mine, other in zip(ours, theirs, strict=True)
            )
        },
    }


def check(found: dict[str, int], count: int) -> None:
    """Refuse figures of a check that did not find what was planted."""
    faults = [FAULTS[number % len(FAULTS)] for number in range(1, count // PLANTED + 1)]
    for fault in FAULTS:
        assert found.get(fault, 0) == faults.count(fault), (fault, found)


def main() -> dict[str, Any]:
    """Measure, print, keep; returns the figures."""
    note_machine()
    parser = argparse.ArgumentParser(prog="bench profile_rows")
    parser.add_argument("--quick", action="store_true", help="few rows, one round; the result is not kept")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    given = parser.parse_args()
    figures = measure(given.quick)
    for name, value in figures.items():
        print(f"{name:32} {value}")
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if not given.quick:
        keep("profile_rows", figures)
    return figures


if __name__ == "__main__":
    main()
