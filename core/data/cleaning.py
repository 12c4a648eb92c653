"""What a dataset is without the rows of some kinds of fault, and which evaluation rows training nearly contains."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.data.health import KINDS, likes_of, rows_of
from core.data.near_duplicates import groups_of
from core.data.records import Record
from core.errors import DataError


def removed_rows(folder: Path, kinds: Collection[str]) -> NDArray[np.int64]:
    """The rows that go with `kinds`, ascending; of rows that are alike the first is not among them.

    Args:
        folder: that of the health.

    Raises:
        DataError: a kind is not known, or none of its rows can be removed.
    """
    for kind in kinds:
        if kind not in KINDS or not KINDS[kind].removal:
            options = ", ".join(key for key, known in KINDS.items() if known.removal)
            raise DataError(f"There is no {kind!r} that could be removed", hint=f"Choose from {options}")
    return np.unique(np.concatenate([np.zeros(0, np.int64), *(rows_of(folder, kind) for kind in kinds)]))


def remove(folder: Path, kinds: Collection[str], records: Iterable[Record]) -> Iterator[Record]:
    """`records`, which stream through, without the rows of `kinds`.

    Raises:
        DataError: as `removed_rows`, before the first record; or all of them are removed, after the last.
    """
    rows = removed_rows(folder, kinds)
    return _kept(rows, records)


def _kept(rows: NDArray[np.int64], records: Iterable[Record]) -> Iterator[Record]:
    is_removed = np.zeros(int(rows[-1]) + 1 if len(rows) else 0, np.bool_)
    is_removed[rows] = True
    count = 0
    for record in records:
        if record.source_row >= len(is_removed) or not is_removed[record.source_row]:
            count += 1
            yield record
    if not count:
        raise DataError("No row is left", hint="Keep one of the kinds that are being removed")


def leakage(folder: Path, held_rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows among `held_rows`, those that a run holds out, that are nearly the same as one that it trains on.

    Copies are not among them: `core.data.splits.hold_out` keeps equal rows on one side.

    Args:
        folder: that of a health with near-duplicates.
    """
    rows, like = rows_of(folder, "near_duplicates"), likes_of(folder, "near_duplicates")
    leads = groups_of(rows, like)
    members = np.concatenate([rows, np.unique(leads)])
    groups = np.concatenate([leads, np.unique(leads)])
    is_held = np.isin(members, held_rows)
    trained = np.unique(groups[~is_held])
    return np.unique(members[is_held & np.isin(groups, trained)])
