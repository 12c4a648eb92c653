"""Which rows are trained on in which step, and which are held out: all from a seed, nothing of it stored.

Rows are spoken of by number: the order of an epoch, a part of a dataset, which rows are equal are arrays of a few
bytes a row, made once, so that neither memory nor a step's time grows with what the rows hold.

The order of rows is a function of seed and epoch, so a step's rows can be found again from its number. Where batches
are filled up to their longest row, little is filled up if rows of like length share a step. Then an epoch is cut
into windows of `WINDOW` steps, at random as before; each window's rows are sorted by length and dealt out to its steps;
and all steps of the epoch are shuffled, so that short ones do not lead. Rows still meet others at random, within what
a window holds. The last step, where it is smaller, takes its rows before all that, at random, and comes last.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Generic, NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray

from core.data.health.near_duplicates import Alike
from core.data.tokens.encoding import AnyRow, Tokens
from core.data.tokens.store import TokenStore

WINDOW = 32


class Subset(Sequence[AnyRow], Generic[AnyRow]):
    """Those of `rows` whose numbers are `numbers`, `[rows] int`, in that order."""

    def __init__(self, rows: Sequence[AnyRow], numbers: NDArray[np.integer]) -> None:
        self.rows, self.numbers = rows, numbers.astype(np.uint32)

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> AnyRow: ...
    @overload
    def __getitem__(self, index: slice) -> list[AnyRow]: ...
    def __getitem__(self, index: int | slice) -> AnyRow | list[AnyRow]:
        if isinstance(index, slice):
            return [self.rows[number] for number in self.numbers[index]]
        return self.rows[int(self.numbers[index])]


def lengths_of(rows: Sequence[Tokens]) -> NDArray[np.int64]:
    """`[rows]`, how many tokens each has; nothing is read where that is known."""
    if isinstance(rows, Subset):
        return lengths_of(rows.rows)[rows.numbers]
    if isinstance(rows, TokenStore):
        return rows.lengths
    return np.array([len(row.tokens) for row in rows], np.int64)


def trained_of(rows: Sequence[Tokens]) -> NDArray[np.int64]:
    """`[rows]`, how many answers each asks for; nothing is read where that is known."""
    if isinstance(rows, Subset):
        return trained_of(rows.rows)[rows.numbers]
    if isinstance(rows, TokenStore):
        return rows.trained.astype(np.int64)
    return np.array([row.trained for row in rows], np.int64)


def source_rows_of(rows: Sequence[Tokens]) -> NDArray[np.int64]:
    """`[rows]`, where each stands in the dataset, from 1; its place among `rows` where that is not known."""
    if isinstance(rows, Subset):
        return source_rows_of(rows.rows)[rows.numbers]
    if isinstance(rows, TokenStore):
        return rows.source_rows.astype(np.int64)
    return np.arange(1, len(rows) + 1)


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Optimizer steps that one pass over `rows` takes; the last may be smaller."""
    return -(-rows // batch_size)


class EpochOrder:
    """Which rows each optimizer step takes, `batch_size` of `rows` a step.

    Args:
        lengths: `[rows]`; where given, rows of like length share a step.
    """

    def __init__(self, rows: int, batch_size: int, seed: int, lengths: NDArray[np.integer] | None = None) -> None:
        self._rows, self._batch_size, self._seed, self._lengths = rows, batch_size, seed, lengths
        self.steps = steps_per_epoch(rows, batch_size)
        self._epoch: tuple[int, NDArray[np.uint32]] | None = None  # the one that was last asked for, and its order

    def rows_of_step(self, step: int) -> list[int]:
        """The numbers of the rows that optimizer step `step` (from 0) trains on."""
        epoch, index = divmod(step, self.steps)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, self._order(epoch)
        numbers: list[int] = self._epoch[1][index * self._batch_size : (index + 1) * self._batch_size].tolist()
        return numbers

    def _order(self, epoch: int) -> NDArray[np.uint32]:
        """`[rows]`, all rows once."""
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        order = torch.randperm(self._rows, generator=generator).numpy().astype(np.uint32)
        if self._lengths is None:
            return order
        full = self._rows // self._batch_size
        steps = order[: full * self._batch_size]
        for start in range(0, len(steps), WINDOW * self._batch_size):
            window = steps[start : start + WINDOW * self._batch_size]
            window[:] = window[np.argsort(self._lengths[window], kind="stable")]
        shuffled = torch.randperm(full, generator=generator).numpy()
        steps[:] = steps.reshape(full, self._batch_size)[shuffled].ravel()
        return order


class Split(NamedTuple, Generic[AnyRow]):
    """The rows that are trained on, those that are held out, and how many of all are copies of another."""

    train: Subset[AnyRow]
    held: Subset[AnyRow]
    copies: int


def hold_out(rows: Sequence[AnyRow], share: float, seed: int, alike: Alike | None = None) -> Split[AnyRow]:
    """`rows`, parted at random by `seed`; at most `share` of them are held out, and none where that is less than one.

    Rows with equal tokens fall on the same side, and so do those that are `alike`, so that evaluation never asks for a
    row that was trained on; those of a group that is larger than all that may be held out are trained on. Equal rows
    are found by a checksum; that now and then others have the same puts these on one side too, which does no harm.
    """
    equal, is_first = _groups(_checksums(rows))
    copies = _copies(rows, equal, is_first)
    lead = np.empty(len(rows), np.uint32)
    lead[equal] = equal[is_first][np.cumsum(is_first, dtype=np.uint32) - 1]
    del equal, is_first
    if alike is not None and len(alike.rows):
        lead = _joined(lead, source_rows_of(rows), alike)
    sizes = np.bincount(lead, minlength=len(rows)).astype(np.uint32)
    is_held = _chosen(sizes, int(len(rows) * share), seed)[lead]
    return Split(Subset(rows, np.flatnonzero(~is_held)), Subset(rows, np.flatnonzero(is_held)), copies)


def _chosen(sizes: NDArray[np.uint32], room: int, seed: int) -> NDArray[np.bool_]:
    """`[rows]`, the first rows of groups, picked at random, that have `room` together; `sizes` is 0 for other rows."""
    leaders = np.flatnonzero(sizes).astype(np.uint32)
    order = torch.randperm(len(leaders), generator=torch.Generator().manual_seed(seed)).numpy().astype(np.uint32)
    order = leaders[order]
    order = order[sizes[order] <= room]
    is_chosen = np.zeros(len(sizes), np.bool_)
    is_chosen[order[np.cumsum(sizes[order], dtype=np.uint64) <= room]] = True
    return is_chosen


def _joined(lead: NDArray[np.uint32], numbers: NDArray[np.int64], alike: Alike) -> NDArray[np.uint32]:
    """`[rows]`, the first row of each row's group, where rows of equal `lead` are one, and those that are alike too."""
    groups = np.unique(alike.leads)
    named = np.concatenate([alike.rows, groups])
    group = np.searchsorted(groups, np.concatenate([alike.leads, groups]))
    places = np.minimum(np.searchsorted(numbers, named), len(numbers) - 1)
    is_here = numbers[places] == named  # a row without anything to train on is not
    places, group = places[is_here], group[is_here]
    joined = lead
    while True:  # each round hands the first row on from group to group
        before, joined = joined, joined.copy()
        joined[places] = _least(joined[places], group, len(groups))[group]
        joined = _least(joined, lead, len(lead))[lead]
        if np.array_equal(before, joined):
            return joined


def _least(values: NDArray[np.uint32], group: NDArray[np.integer], groups: int) -> NDArray[np.uint32]:
    """`[groups]`, the least of the `values` of each group."""
    least = np.full(groups, np.iinfo(np.uint32).max, np.uint32)
    np.minimum.at(least, group, values)
    return least


def _groups(checksums: NDArray[np.uint32]) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
    """`[rows]`, their numbers with equal ones side by side, each group in order, and `[rows]`, where one begins."""
    equal = np.argsort(checksums, kind="stable").astype(np.uint32)
    in_order = checksums[equal]
    is_first = np.ones(len(equal), np.bool_)
    is_first[1:] = in_order[1:] != in_order[:-1]
    return equal, is_first


def _copies(rows: Sequence[Tokens], equal: NDArray[np.uint32], is_first: NDArray[np.bool_]) -> int:
    """How many rows are copies of another: of the rows of a group, those that are as long as an earlier one."""
    is_alone = is_first & np.append(is_first[1:], True)
    alike = equal[~is_alone]
    if not len(alike):
        return 0
    keys = _checksums(rows)[alike].astype(np.uint64) << np.uint64(32) | lengths_of(rows)[alike].astype(np.uint64)
    return len(alike) - len(np.unique(keys))


def _checksums(rows: Sequence[Tokens]) -> NDArray[np.uint32]:
    """`[rows]`, equal for rows of equal tokens."""
    if isinstance(rows, TokenStore):
        return rows.checksums
    return np.array([zlib.crc32(np.array(row.tokens, np.uint32).tobytes()) for row in rows], np.uint32)
