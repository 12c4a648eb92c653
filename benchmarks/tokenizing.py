"""Text a second through the tokenizer and the packing, beside `datasets.map`; memory from a thousand rows to a million.

    python app.py bench tokenizing
    python app.py bench tokenizing --quick    few rows, one round, no million; nothing is kept
    python -m benchmarks.tokenizing --json FILE

*Speed.* Both sides turn the same conversations in a file into tokens in another, with the same tokenizer and chat
template, on one core and on two, in turns, each in a process of its own. Ours reads JSON and finds the labels as well,
the other finds its text as an Arrow table. That is compared; what is promised a core is with the packing of all rows.
The other side is `datasets.map(batched=True)` at its best: with the tokenizer's threads, or with a process for each
core, whichever is quicker in the median. Text is what the person wrote, in megabytes of UTF-8; the template's words are
not counted.

Our encoder makes use of words that come again (`core.data.tokens.word_tokens`). So there are three texts: `docstrings`,
English without a passage that comes twice; `prose`, the rows that the other benchmarks train on, whose passages do; and
`new_words`, in which hardly a word comes twice, the worst for it. What is promised is measured on the slower of the
first two.

*Memory.* The largest resident memory of a process that encodes that many rows (first new words, which fill what is kept
of words), splits them and packs some steps; and what a row took, and a step's rows.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.instruments.process import measured
from benchmarks.instruments.requirements import require
from benchmarks.results import keep, note_machine
from benchmarks.workload import docstrings, new_words, rows
from core.data.records import Conversation, Message, Record, write_records

ROUNDS = 3
SPEED_ROWS = 40_000
MEMORY_ROWS = (1_000, 10_000, 100_000, 1_000_000)
NEW_ROWS = 5_000  # more than fill what is kept of words
STEPS = 100
SIDE = "benchmarks.instruments.tokenizing_side"

Rows = Callable[[int], Iterator[dict[str, str]]]
TEXTS: dict[str, Rows] = {"docstrings": docstrings, "prose": rows, "new_words": new_words}


def conversations(workload: Rows, count: int, letters: list[int]) -> Iterator[Record]:
    """The rows as records; the size of each one's text is added to `letters`."""
    for number, row in enumerate(workload(count), start=1):
        letters[0] += len(row["instruction"].encode()) + len(row["output"].encode())
        turns = (Message(role="user", content=row["instruction"]), Message(role="assistant", content=row["output"]))
        yield Conversation(messages=turns, source_row=number)


def write(folder: Path, workload: Rows, count: int) -> float:
    """Put the records of `count` rows into `folder`; returns their text in megabytes."""
    letters = [0]
    write_records(conversations(workload, count, letters), folder / "records.jsonl")
    return letters[0] / 1e6


def compare(workload: Rows, count: int, cores: int, rounds: int) -> dict[str, Any]:
    """Both sides on `cores`, in turns."""
    processes = (0,) if cores == 1 else (0, cores)
    ours: list[dict[str, Any]] = []
    theirs: dict[int, list[float]] = {number: [] for number in processes}
    with tempfile.TemporaryDirectory() as name:
        megabytes = write(Path(name), workload, count)
        common = {"folder": name, "cores": cores}
        for _ in range(rounds):
            ours.append(measured(SIDE, {"side": "ours", **common}))
            for number in processes:
                found = measured(SIDE, {"side": "map", "num_proc": number, **common})
                theirs[number].append(found["encode_seconds"])
    best = min(processes, key=lambda number: statistics.median(theirs[number]))
    encode = [side["encode_seconds"] for side in ours]
    whole = [side["encode_seconds"] + side["split_seconds"] + side["pack_seconds"] for side in ours]
    speed = megabytes / statistics.median(whole)
    return {
        "megabytes": megabytes,
        "encoded_megabytes_per_second": megabytes / statistics.median(encode),
        "packed_megabytes_per_second": speed,
        "packed_megabytes_per_second_a_core": speed / cores,
        "datasets_map_megabytes_per_second": megabytes / statistics.median(theirs[best]),
        "datasets_map_processes": max(1, best),
        "encoded_over_datasets_map": ratio(theirs[best], encode),
        "packed_over_datasets_map": ratio(theirs[best], whole),
        "others_share": max(side["others_share"] for side in ours),
    }


def ratio(theirs: list[float], ours: list[float]) -> float:
    """How many times their seconds are ours: the median over rounds."""
    return statistics.median(theirs[place] / mine for place, mine in enumerate(ours))


def _new_words_first(count: int) -> Iterator[dict[str, str]]:
    yield from new_words(min(count, NEW_ROWS))
    yield from rows(max(0, count - NEW_ROWS))


def memory(count: int) -> dict[str, float]:
    """What encoding `count` rows takes."""
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), _new_words_first, count)
        found = measured(SIDE, {"side": "ours", "folder": name, "cores": os.cpu_count(), "steps": STEPS})
    return {
        "peak_rss_bytes": found["peak_rss_bytes"],
        "microseconds_per_row": found["encode_seconds"] / count * 1e6,
        "milliseconds_per_step": found["step_seconds"] * 1e3,
    }


def measure(is_quick: bool) -> dict[str, Any]:
    """All figures."""
    require("datasets")
    rounds, count = (1, 2_000) if is_quick else (ROUNDS, SPEED_ROWS)
    figures: dict[str, Any] = {}
    for name, workload in TEXTS.items():
        figures[name] = {}
        for cores in range(1, min(2, os.cpu_count() or 1) + 1):
            figures[name][f"{cores}_cores"] = found = compare(workload, count, cores, rounds)
            print(
                f"{name:10} {cores} cores  ours {found['encoded_megabytes_per_second']:6.2f} MB/s,"
                f" packed {found['packed_megabytes_per_second']:6.2f},"
                f" datasets.map {found['datasets_map_megabytes_per_second']:6.2f}",
                flush=True,
            )
    figures["rows"] = {}
    for count in MEMORY_ROWS[:2] if is_quick else MEMORY_ROWS:
        figures["rows"][f"{count:,}"] = found = memory(count)
        per_row, per_step = found["microseconds_per_row"], found["milliseconds_per_step"]
        print(f"{count:>10,} rows  {found['peak_rss_bytes'] / 1e6:6.0f} MB, {per_row:.0f} µs a row,"
              f" {per_step:.2f} ms to pack a step", flush=True)  # fmt: skip
    return {**figures, "ratios": ratios(figures)}


def ratios(figures: dict[str, Any]) -> dict[str, float]:
    """What is promised: the lowest of one core and two, and of two texts."""
    sizes = [found["peak_rss_bytes"] for found in figures["rows"].values()]
    by_cores = [found for name in ("docstrings", "prose") for found in figures[name].values()]
    return {
        "megabytes_per_second_a_core": min(found["packed_megabytes_per_second_a_core"] for found in by_cores),
        "over_datasets_map": min(found["encoded_over_datasets_map"] for found in by_cores),
        "memory_growth": sizes[-1] / sizes[0],
    }


def main() -> dict[str, Any]:
    """Measure, print, keep; returns the figures."""
    note_machine()
    parser = argparse.ArgumentParser(prog="bench tokenizing")
    parser.add_argument("--quick", action="store_true", help="few rows, one round; the result is not kept")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    given = parser.parse_args()
    figures = measure(given.quick)
    for name, value in figures["ratios"].items():
        print(f"{name:32} {value:.2f}")
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if not given.quick:
        keep("tokenizing", figures)
    return figures


if __name__ == "__main__":
    main()
