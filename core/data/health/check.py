"""The health of a dataset, found while its records stream by.

    check = HealthCheck(folder)
    check.add(records and problems)      as often as one likes
    health = check.finish()

What a row is by itself (blank, out of order, garbled, private) is told at once, by `examine`, which has no state and
may run for several batches on several threads. What rows are together (duplicates, classes, lengths) is told in the
end, from two checksums and two lengths a row; no text is kept. A checksum has 64 bits, so that among a million rows two
that differ pass for equal once in thirty million datasets.

Rows are the same if every text and who says it are the same to the byte.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from core.data.health import private_data, row_faults
from core.data.health.report import SAMPLES, Health
from core.data.health.text_columns import ASSISTANT, TextColumns, columns_of, places_of
from core.data.records import Record
from core.data.rows import Problem

MOST_CLASSES = 10_000  # more names are no classes, and are not counted
SHOWN_CLASSES = 50
SHORT_ANSWER, USUAL_ANSWER = 2, 40  # bytes: short is told only where most answers are at least the second
LONG_ROW, LONG_TIMES = 8_000, 10  # characters, and times the median

_BLANKS = MappingProxyType({"empty": row_faults.empty, "missing_answers": row_faults.without_answer})
_FAULTS = MappingProxyType({
    "roles": row_faults.out_of_order,
    "garbled": row_faults.garbled,
    "control_characters": row_faults.with_control_characters,
})  # fmt: skip
_PRIVATE = MappingProxyType({True: "keys", False: "personal"})
_REPEATED = ("duplicates", "contradictions")
_ARRAYS = ("rows", "asked", "answered", "letters", "reply")


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """What is known of a batch of records once nobody looks at their texts any more; all arrays are `[records]`.

    Args:
        asked: a checksum of all but the answer.
        answered: a checksum of the answer, or of the label.
        letters: how many characters each has.
        reply: how many bytes its answer has; -1 where it has none.
        faults: by kind the rows that have it.
        samples: by kind some rows and what was found in them, masked.
    """

    rows: NDArray[np.int64]
    asked: NDArray[np.uint64]
    answered: NDArray[np.uint64]
    letters: NDArray[np.int32]
    reply: NDArray[np.int32]
    faults: dict[str, NDArray[np.int64]]
    samples: dict[str, list[tuple[int, str]]]
    labels: tuple[str, ...]


def merged(one: Examined, other: Examined) -> Examined:
    """What is known of the records of both, in the order of their rows."""
    order = np.argsort(np.concatenate([one.rows, other.rows]), kind="stable")
    arrays = {name: np.concatenate([getattr(one, name), getattr(other, name)])[order] for name in _ARRAYS}
    nothing = np.zeros(0, np.int64)
    kinds = list(dict.fromkeys([*one.faults, *other.faults]))
    faults = {
        kind: np.sort(np.concatenate([each.faults.get(kind, nothing) for each in (one, other)])) for kind in kinds
    }
    samples = {kind: _first([*one.samples[kind], *other.samples[kind]]) for kind in one.samples}
    labels = [*one.labels, *other.labels]
    in_order = tuple([labels[place] for place in order.tolist()]) if labels else ()
    return Examined(**arrays, faults=faults, samples=samples, labels=in_order)


def examine(columns: TextColumns, *, has_blanks: bool = True) -> Examined:
    """What each record is by itself. Blank texts are not looked for where it is known that there are none."""
    blank = row_faults.blank_texts(columns) if has_blanks else np.zeros(0, np.intp)
    blanks = {kind: find(columns, blank) for kind, find in _BLANKS.items()}
    faults = {kind: columns.rows[is_bad] for kind, is_bad in blanks.items()}
    faults |= {kind: columns.rows[find(columns)] for kind, find in _FAULTS.items()}
    private, samples = _private(columns)
    asked, answered = _checksums(columns)
    is_blank = np.logical_or(*blanks.values())  # what says nothing repeats nothing
    asked[is_blank] ^= columns.rows[is_blank].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return Examined(
        rows=columns.rows,
        asked=asked,
        answered=answered,
        letters=_letters(columns),
        reply=np.where(is_blank, -1, _replies(columns)).astype(np.int32),
        faults={kind: rows for kind, rows in {**faults, **private}.items() if len(rows)},
        samples=samples,
        labels=columns.labels,
    )


class HealthCheck:
    """Takes records and problems as they come, in the order of their rows or nearly so.

    Args:
        folder: for the numbers of the rows; made where it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._examined: list[Examined] = []
        self._faults: dict[str, list[NDArray[np.int64]]] = defaultdict(list)
        self._samples: dict[str, list[tuple[int, str]]] = defaultdict(list)
        self._refused: dict[str, array[int]] = defaultdict(lambda: array("q"))
        self._labels: Counter[str] = Counter()
        self._label_rows: dict[str, int] = {}

    def add(self, items: Sequence[Record | Problem]) -> None:
        """Take some rows; a few thousand at a time are quickest."""
        for item in items:
            if isinstance(item, Problem):
                self._refuse(item)
        records = [item for item in items if not isinstance(item, Problem)]
        if records:
            self.take(examine(columns_of(records)))

    def take(self, examined: Examined) -> None:
        """Take some records that were examined elsewhere."""
        for kind, rows in examined.faults.items():
            self._faults[kind].append(rows)
        for kind, samples in examined.samples.items():
            self._samples[kind] += samples[: SAMPLES - len(self._samples[kind])]
        if examined.labels and len(self._labels) <= MOST_CLASSES:
            self._labels.update(examined.labels)
            for label, row in zip(examined.labels, examined.rows.tolist(), strict=True):
                self._label_rows.setdefault(label, row)
        self._examined.append(examined)

    def finish(self) -> Health:
        """All that was found; the rows' numbers are in the folder."""
        rows, letters, reply = (self._all(name) for name in ("rows", "letters", "reply"))
        health = Health(
            rows=len(rows) + sum(map(len, self._refused.values())),
            records=len(rows),
            labels=tuple(self._labels.most_common(SHOWN_CLASSES)) if len(self._labels) <= MOST_CLASSES else (),
            classes=min(len(self._labels), MOST_CLASSES + 1),
            median_characters=int(np.median(letters)) if len(rows) else 0,
            longest=(int(rows[letters.argmax()]), int(letters.max())) if len(rows) else (0, 0),
        )
        for kind in ("unreadable", *_BLANKS, *_FAULTS, *_PRIVATE.values()):
            parts = [*self._faults[kind], np.array(self._refused[kind], np.int64)]
            health = health.with_rows(self._folder, kind, np.concatenate(parts), samples=self._samples[kind])
        for kind, (copies, of) in zip(_REPEATED, self._repeated(rows), strict=True):
            health = health.with_rows(self._folder, kind, copies, of)
        health = health.with_rows(self._folder, "short_answers", rows[_are_short(reply)])
        health = health.with_rows(self._folder, "long_rows", rows[_are_long(letters)])
        return health.with_rows(self._folder, "lone_labels", self._lone(health))

    def _refuse(self, problem: Problem) -> None:
        self._refused[problem.fault].append(problem.row)
        if len(self._samples[problem.fault]) < SAMPLES:
            self._samples[problem.fault].append((problem.row, problem.title.removeprefix(f"Row {problem.row} ")))

    def _all(self, name: str) -> NDArray[np.int64]:
        parts = [getattr(examined, name) for examined in self._examined]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def _repeated(self, rows: NDArray[np.int64]) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], ...]:
        asked = self._all("asked").astype(np.uint64)
        is_alone = are_alone(asked)
        rows, asked, answered = rows[~is_alone], asked[~is_alone], self._all("answered").astype(np.uint64)[~is_alone]
        order = np.lexsort((rows, asked))
        rows, asked, answered = rows[order], asked[order], answered[order]
        leads = np.maximum.accumulate(np.where(np.append(True, asked[1:] != asked[:-1]), np.arange(len(rows)), 0))
        within = np.lexsort((rows, answered, asked))
        same = (asked[within][1:] == asked[within][:-1]) & (answered[within][1:] == answered[within][:-1])
        is_copy = np.append(False, same)[: len(rows)]
        firsts = np.maximum.accumulate(np.where(~is_copy, np.arange(len(rows)), 0))
        copies, of = rows[within][is_copy], rows[within][firsts][is_copy]
        copied = np.zeros(len(rows), np.bool_)
        copied[within[is_copy]] = True
        is_other = ~copied & (answered != answered[leads])
        return (copies, of), (rows[is_other], rows[leads][is_other])

    def _lone(self, health: Health) -> NDArray[np.int64]:
        """The rows of classes with one row, where these are not the rule."""
        lone = [label for label, count in self._labels.items() if count == 1]
        is_rule = health.classes > MOST_CLASSES or len(lone) * 2 > health.records
        return np.array([] if is_rule else [self._label_rows[label] for label in lone], np.int64)


def _private(columns: TextColumns) -> tuple[dict[str, NDArray[np.int64]], dict[str, list[tuple[int, str]]]]:
    """By kind the rows with what looks private, and samples of that."""
    found: dict[str, list[int]] = {kind: [] for kind in _PRIVATE.values()}
    samples: dict[str, list[tuple[int, str]]] = {kind: [] for kind in _PRIVATE.values()}
    for group, texts in private_data.candidates(columns).items():
        owners = np.searchsorted(columns.first, texts, side="right") - 1
        for text, row in zip(texts.tolist(), columns.rows[owners].tolist(), strict=True):
            for sighting in private_data.sightings(columns.text_of(text), (group,)):
                kind = _PRIVATE[sighting.is_key]
                found[kind].append(row)
                samples[kind].append((row, f"{sighting.what}: {sighting.shown}"))
    return {kind: np.array(rows, np.int64) for kind, rows in found.items()}, {
        kind: _first(each) for kind, each in samples.items()
    }


def _first(samples: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Those of the first rows, as many as are kept."""
    return sorted(samples, key=lambda sample: sample[0])[:SAMPLES]


def _checksums(columns: TextColumns) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Of what each record asks, and of what it answers."""
    text = columns.text
    ends = columns.starts[columns.first]
    last = columns.first[1:] - 1
    has_reply = columns.roles[last] == ASSISTANT if len(columns.roles) else np.zeros(0, np.bool_)
    has_reply &= columns.counts > 0
    cuts = np.where(has_reply, columns.starts[last], ends[1:])
    bounds = [*np.column_stack([ends[:-1], cuts]).ravel().tolist(), len(text)]
    sums = np.array([hash(text[begin:end]) for begin, end in pairwise(bounds)], np.int64).view(np.uint64)
    answered = sums[1::2]
    if columns.labels:
        answered = np.array([hash(label) for label in columns.labels], np.int64).view(np.uint64)
    return sums[::2] ^ _shapes(columns), answered


def _shapes(columns: TextColumns) -> NDArray[np.uint64]:
    """A checksum of who says how much in which turn: without it a word could change from a turn to the next unseen."""
    turn = np.arange(len(columns.roles)) - np.repeat(columns.first[:-1], columns.counts)
    is_last = turn == np.repeat(columns.counts, columns.counts) - 1
    lengths = np.where(is_last & (columns.roles == ASSISTANT), 0, columns.lengths)  # an answer's is its own affair
    mixed = (lengths * 8 + columns.roles + turn * 0x9E3779B97F4A7).astype(np.uint64) * np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(29)
    total = np.concatenate([[np.uint64(0)], np.cumsum(mixed * np.uint64(0x94D049BB133111EB), dtype=np.uint64)])
    shapes: NDArray[np.uint64] = total[columns.first[1:]] - total[columns.first[:-1]]
    return shapes


def _letters(columns: TextColumns) -> NDArray[np.int32]:
    """Characters a record: bytes, less those that continue one."""
    ends = columns.starts[columns.first]
    sizes = np.diff(ends)
    if not columns.text.isascii():
        goes_on = places_of(np.frombuffer(columns.text, np.int8) < -64)  # 10xxxxxx, as a signed number
        sizes = sizes - np.diff(np.searchsorted(goes_on, ends))
    return sizes.astype(np.int32)


def _replies(columns: TextColumns) -> NDArray[np.int32]:
    last = columns.first[1:] - 1
    if not len(columns.roles):
        return np.full(len(columns), -1, np.int32)
    return np.where(columns.roles[last] == ASSISTANT, columns.lengths[last], -1).astype(np.int32)


def are_alone(checksums: NDArray[np.uint64] | NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Which of them come once."""
    ordered = np.sort(checksums)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(repeated):
        return np.ones(len(checksums), np.bool_)
    places = np.minimum(np.searchsorted(repeated, checksums), len(repeated) - 1)
    is_alone: NDArray[np.bool_] = repeated[places] != checksums
    return is_alone


def _are_short(reply: NDArray[np.int64]) -> NDArray[np.bool_]:
    answered = reply[reply >= 0]
    is_told = len(answered) > 0 and np.median(answered) >= USUAL_ANSWER
    return (reply >= 0) & (reply <= SHORT_ANSWER) & bool(is_told)


def _are_long(letters: NDArray[np.int64]) -> NDArray[np.bool_]:
    usual = float(np.median(letters)) if len(letters) else 0.0
    return letters > max(LONG_ROW, LONG_TIMES * usual)
