"""Rows that are nearly the same as an earlier one: a second pass over a dataset, in memory of some sixty bytes a row.

A row is the set of its shingles: the sixteen bytes from the beginning of each word on (about three words), in lower
case, without punctuation. Where letters are words, as in Chinese, every letter begins one. Two rows are near-duplicates
if the sets have a Jaccard similarity (shared over all) of at least `SIMILAR`.

Sets are compared by sketches, with one permutation (Li, Owen and Zhang, "One Permutation Hashing", NIPS 2012): a hash
puts each shingle into one of `BINS` bins, of which the smallest stays. Of the bins that are not empty in both sketches,
the share that are equal estimates the similarity, with a deviation of at most 0.065 and less where it is high. To
find pairs without comparing all, bins are taken in `BANDS` of `ROWS_A_BAND`; two rows that are equal in one band are
compared (locality-sensitive hashing). For this alone an empty bin takes the value of the next that is not ("densified",
Shrivastava and Li, UAI 2014). Bands pass over a pair of similarity s with probability (1 - s^5)^12: 1 % at 0.8, none at
0.9. So what is missed is missed by the estimate, near the limit: all pairs above 0.9 are found, most from 0.85 on, and
of those just above `SIMILAR` three in four; in their place some just below it are.

Shingles that stand in one row of twenty are the words of a template and tell nothing: they are left out. So a fault of
more than a twentieth of the rows is taken for a template. Rows of fewer than `FEWEST` shingles are not compared, since
among short rows one word makes all the difference; nor are system messages.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.data.health.check import are_alone
from core.data.health.report import likes_of, rows_of
from core.data.health.text_columns import SYSTEM, TextColumns, places_of

SIMILAR = 0.8
BANDS, ROWS_A_BAND = 12, 5
BINS = BANDS * ROWS_A_BAND
FEWEST = 8
COMMON_SHARE, COMMON_ROWS = 0.05, 20

_EMPTY = 0xFFFF
_RECORD_END = 0xFF  # no byte of UTF-8
_BLANK = ord(" ")
_WIDTH = 16
_PUNCTUATION = b"!\"#$%&'()*+,.:;<=>?@[\\]^`{|}~"
_TABLE = bytes(
    _BLANK if chr(code) in "-/_" or code < 33 or code == 127 else ord(chr(code).lower()) if code < 128 else code
    for code in range(256)
)
_A_MEGABYTE_OF_SKETCHES = (1 << 20) // (2 * BINS)


@dataclass(frozen=True, slots=True)
class Shingles:
    """The shingles of `n` records: `[shingles]` their hashes, and the record of each in ascending order."""

    hashes: NDArray[np.uint64]
    owners: NDArray[np.int64]
    records: int


def shingles_of(columns: TextColumns) -> Shingles:
    """All shingles that end within their record; none of a system message that comes first."""
    begins = columns.first[:-1]
    is_system = np.append(columns.roles, 0)[begins] == SYSTEM
    begins = np.minimum(begins + (is_system & (columns.counts > 1)), columns.first[1:])
    spans = zip(columns.starts[begins].tolist(), columns.starts[columns.first[1:]].tolist(), strict=True)
    text = bytes([_RECORD_END]).join([columns.text[begin:end] for begin, end in spans]) + bytes([_RECORD_END])
    letters = np.frombuffer(text.translate(_TABLE, _PUNCTUATION), np.uint8)
    is_needless = letters == _BLANK
    is_needless[1:] &= is_needless[:-1]
    letters = letters[~is_needless]
    ends = places_of(letters == _RECORD_END)
    places = _word_starts(letters)
    counts = np.diff(np.searchsorted(places, ends), prepend=0)
    is_within = places + _WIDTH <= np.repeat(ends, counts)
    owners = np.repeat(np.arange(len(columns)), counts)
    return Shingles(_hashes(letters, places[is_within]), owners[is_within], len(columns))


def _word_starts(letters: NDArray[np.uint8]) -> NDArray[np.intp]:
    is_gap = (letters == _BLANK) | (letters == _RECORD_END)
    begins = ~is_gap
    begins[1:] &= is_gap[:-1]
    # The first bytes of letters that stand for words or syllables, in UTF-8: Thai and Indic ones, and East Asian
    return np.flatnonzero(begins | (letters == 0xE0) | ((letters >= 0xE3) & (letters <= 0xED)))


def _hashes(letters: NDArray[np.uint8], places: NDArray[np.intp]) -> NDArray[np.uint64]:
    """Of the `_WIDTH` bytes at each of `places`."""
    if not len(places):
        return np.zeros(0, np.uint64)
    eight: NDArray[np.uint64] = np.ndarray(len(letters) - 7, "<u8", letters.tobytes(), 0, (1,))
    mixed = eight[places] * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(32)
    mixed += eight[places + 8] * np.uint64(0xC2B2AE3D27D4EB4F)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    return mixed ^ (mixed >> np.uint64(32))


def common_shingles(samples: Iterable[TextColumns]) -> NDArray[np.uint64]:
    """The shingles that many rows of `samples` have, in ascending order."""
    hashes: list[NDArray[np.uint64]] = []
    records = 0
    for columns in samples:
        found = shingles_of(columns)
        order = np.lexsort((found.hashes, found.owners))
        sorted_hashes, owners = found.hashes[order], found.owners[order]
        is_new = np.append(True, (sorted_hashes[1:] != sorted_hashes[:-1]) | (owners[1:] != owners[:-1]))
        hashes.append(sorted_hashes[is_new[: len(sorted_hashes)]])
        records += found.records
    each, counts = np.unique(np.concatenate(hashes) if hashes else np.zeros(0, np.uint64), return_counts=True)
    return each[counts >= max(COMMON_ROWS, COMMON_SHARE * records)]


@dataclass(frozen=True, slots=True)
class Sketches:
    """Of `n` records: `bins [n, BINS] uint16`, `keys [n, BANDS] uint32`, and `is_told [n] bool`: are there enough."""

    rows: NDArray[np.int64]
    bins: NDArray[np.uint16]
    keys: NDArray[np.uint32]
    is_told: NDArray[np.bool_]


def sketch(columns: TextColumns, common: NDArray[np.uint64]) -> Sketches:
    """The sketches of the records, less their `common` shingles, which ascend."""
    found = shingles_of(columns)
    is_own = ~_are_in(found.hashes, common)
    hashes, owners = found.hashes[is_own], found.owners[is_own]
    least = np.full(found.records * BINS, 0xFFFFFFFF, np.uint32)
    places = owners * BINS + ((hashes >> np.uint64(32)) * np.uint64(BINS) >> np.uint64(32)).astype(np.int64)
    np.minimum.at(least, places, hashes.astype(np.uint32))
    bins = np.minimum((least * np.uint32(0x9E3779B1)) >> np.uint32(16), _EMPTY - 1).astype(np.uint16)
    bins[least == 0xFFFFFFFF] = _EMPTY
    bins = bins.reshape(-1, BINS)
    is_told = np.bincount(owners, minlength=found.records) >= FEWEST
    return Sketches(columns.rows, bins, _keys(bins), is_told)


def _are_in(hashes: NDArray[np.uint64], common: NDArray[np.uint64]) -> NDArray[np.bool_]:
    if not len(common):
        return np.zeros(len(hashes), np.bool_)
    may_be = np.zeros(1 << 16, np.bool_)
    may_be[(common >> np.uint64(48)).astype(np.int64)] = True
    found: NDArray[np.bool_] = may_be[(hashes >> np.uint64(48)).astype(np.int64)]
    places = np.flatnonzero(found)
    found[places] = common[np.minimum(np.searchsorted(common, hashes[places]), len(common) - 1)] == hashes[places]
    return found


def _keys(bins: NDArray[np.uint16]) -> NDArray[np.uint32]:
    """`[n, BANDS]`, equal where all bins of a band are, once empty ones have taken the next one's value."""
    full = bins.T.copy()
    for _ in range(2):
        for place in range(BINS - 1, -1, -1):
            np.copyto(full[place], full[(place + 1) % BINS], where=full[place] == _EMPTY)
    keys = np.zeros((BANDS, len(bins)), np.uint64)
    for band in range(BANDS):
        for place in range(band * ROWS_A_BAND, (band + 1) * ROWS_A_BAND):
            keys[band] = (keys[band] + full[place].astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
            keys[band] ^= keys[band] >> np.uint64(31)
    return (keys >> np.uint64(32)).astype(np.uint32).T


class NearDuplicates:
    """Takes the sketches of a dataset in the order of its rows, and tells which rows are near-duplicates.

    Args:
        scratch: a folder for a file of sketches, `2 * BINS` bytes a row, which `close` removes.
    """

    def __init__(self, scratch: Path) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        self._path = scratch / "sketches.bin"
        self._file = self._path.open("wb")
        self._rows: list[NDArray[np.int64]] = []
        self._keys: list[NDArray[np.uint32]] = []

    def take(self, sketches: Sketches) -> None:
        """Take some rows; those with too little text are passed over."""
        told = sketches.is_told
        self._file.write(sketches.bins[told].tobytes())
        self._rows.append(sketches.rows[told])
        self._keys.append(sketches.keys[told])

    def found(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows that are nearly the same as an earlier one, ascending, and which that is."""
        self._file.flush()
        rows = np.concatenate([*self._rows, np.zeros(0, np.int64)])
        like = np.full(len(rows), len(rows), np.int64)
        if len(rows) < 2:
            return rows[:0], rows[:0]
        bins: Any = np.memmap(self._path, np.uint16, "r", shape=(len(rows), BINS))
        for band in range(BANDS):
            later, earlier = _pairs(np.concatenate([keys[:, band] for keys in self._keys]))
            is_better = earlier < like[later]
            later, earlier = later[is_better], earlier[is_better]
            is_near = _are_similar(bins, later, earlier)
            np.minimum.at(like, later[is_near], earlier[is_near])
        is_found = like < len(rows)
        return rows[is_found], rows[like[is_found]]

    def close(self) -> None:
        """Give the disk back."""
        self._file.close()
        self._path.unlink(missing_ok=True)


def _pairs(keys: NDArray[np.uint32]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Of those with equal keys, each with the first and with the one before it: the later ones, and the earlier."""
    places = np.flatnonzero(~are_alone(keys))  # few: to sort numbers alone is ten times quicker than to keep places
    order = places[np.argsort(keys[places], kind="stable")]
    is_new = np.append(True, keys[order][1:] != keys[order][:-1])[: len(order)]
    leads = order[np.maximum.accumulate(np.where(is_new, np.arange(len(order)), 0))]
    later = order[~is_new]
    earlier = np.concatenate([leads[~is_new], order[np.flatnonzero(~is_new) - 1]])
    return np.concatenate([later, later]), earlier


def _are_similar(bins: Any, later: NDArray[np.intp], earlier: NDArray[np.intp]) -> NDArray[np.bool_]:
    found = np.zeros(len(later), np.bool_)
    for begin in range(0, len(later), _A_MEGABYTE_OF_SKETCHES):
        part = slice(begin, begin + _A_MEGABYTE_OF_SKETCHES)
        one, other = bins[later[part]], bins[earlier[part]]
        equal = ((one == other) & (one != _EMPTY)).sum(axis=1)
        filled = ((one != _EMPTY) | (other != _EMPTY)).sum(axis=1)
        found[part] = equal >= SIMILAR * filled
    return found


def groups_of(rows: NDArray[np.int64], like: NDArray[np.int64]) -> NDArray[np.int64]:
    """`[rows]`, the first row of the group that each belongs to, where each is like an earlier one; `rows` ascend."""
    lead = like.copy()
    while len(rows):
        places = np.minimum(np.searchsorted(rows, lead), len(rows) - 1)
        is_further = rows[places] == lead
        if not is_further.any():
            break
        lead[is_further] = lead[places[is_further]]
    return lead


class Alike(NamedTuple):
    """Rows that are nearly the same as an earlier one, by their numbers in the person's file.

    Args:
        rows: `[rows]`, in ascending order.
        leads: `[rows]`, the first row of the group that each belongs to.
    """

    rows: NDArray[np.int64]
    leads: NDArray[np.int64]


def alike_in(folder: Path) -> Alike:
    """The rows that a health in `folder` calls near-duplicates; none where it was not looked for them."""
    rows = rows_of(folder, "near_duplicates")
    return Alike(rows, groups_of(rows, likes_of(folder, "near_duplicates")))
