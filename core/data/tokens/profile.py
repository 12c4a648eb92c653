"""What a tokenizer made of a dataset, in files that are read with numpy alone: lengths, totals, what a limit would cut,
and the tokens of any row.

The files (`core.data.tokens.profiling` writes them), numbers little-endian, one after the other:

    profile.json      what was asked for, and the type of a token
    tokenizer.json    the tokenizer itself, where it can be written as one file
    lengths.u32       how many tokens of each row are fed to the model, were nothing cut
    trained.u32       how many labels each has
    firsts.u32        before how many tokens it has none: at a limit of that many, or fewer, it loses every label
    source_rows.u32   where each stood in the person's file
    places.u64        where each row's tokens end in tokens.bin, in bytes
    tokens.bin        of each row its tokens, then a bit each, whether it is trained
    counted.i64       [rows, is it whole, labels at position 0, at position 1, …]

`counted.i64` is replaced as one, last, whenever rows have been added, so that a reader never sees half of anything: it
takes as many rows as are counted there. From the labels by position, what a limit takes from all rows together is one
sum, however many rows there are; from `firsts`, which rows it takes out is one comparison.

A row here has all its tokens, the first and the last included. What is fed is one less (all but the last, since
`labels[i]` is the token after `tokens[i]`), but for a classifier, which is fed all of them. A limit is the training's:
the row is cut if more than `limit` tokens would be fed.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.config import Task, TemplateName, TrainOn
from core.errors import RunError

SETTINGS, TOKENIZER, COUNTED, TOKENS = "profile.json", "tokenizer.json", "counted.i64", "tokens.bin"
LENGTHS, TRAINED, FIRSTS, SOURCE_ROWS, PLACES = (
    "lengths.u32",
    "trained.u32",
    "firsts.u32",
    "source_rows.u32",
    "places.u64",
)
NO_LABEL = np.iinfo(np.uint32).max
SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileSettings:
    """What a profile is of, beside dataset and tokenizer."""

    task: Task
    train_on: TrainOn = "assistant"
    template: TemplateName | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """How many `rows` `[bins]` have from `edges[i]` to below `edges[i + 1]` tokens; `edges` `[bins + 1]` are whole
    numbers. Rows that are longer than the last edge count in the last bin.
    """

    edges: NDArray[np.int64]
    rows: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """What training with a limit makes of the rows.

    `rows_cut` are longer than the limit, and `tokens_cut` is what they have beyond it. `rows_without_labels` keep
    nothing to train on, cut or not, and are left out. `trained_cut` labels are lost. `tokens_left` are fed and
    `trained_left` are learned in each pass over the rows that stay. Of the two kinds of rows the first source rows.
    """

    limit: int
    rows_cut: int
    rows_without_labels: int
    tokens_cut: int
    trained_cut: int
    tokens_left: int
    trained_left: int
    first_cut: tuple[int, ...]
    first_without_labels: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfiledRow:
    """All tokens of a row, `[n]`, and whether each is trained, `[n] bool`; the first never is."""

    source_row: int
    tokens: NDArray[Any]
    trained: NDArray[np.bool_]

    def first(self, count: int | None) -> ProfiledRow:
        """The row's first `count` tokens; all of them with None."""
        return ProfiledRow(source_row=self.source_row, tokens=self.tokens[:count], trained=self.trained[:count])


class TokenProfile:
    """The rows that are counted in `folder` at this moment; it does not grow.

    Raises:
        OSError, ValueError: there is no profile, or it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        described = json.loads((folder / SETTINGS).read_bytes())
        self.settings = ProfileSettings(**described["settings"])
        self.remarks: tuple[str, ...] = tuple(described["remarks"])
        self.positions: int | None = described["positions"]  # how many tokens the model reads; None for any number
        self._token_type = np.dtype(described["token_type"])
        counted = np.fromfile(folder / COUNTED, "<i8")
        self.rows_done, self.is_whole = int(counted[0]), bool(counted[1])
        self._labels_at = counted[2:]
        self.lengths = self._read(LENGTHS)
        self.trained = self._read(TRAINED)
        self.source_rows = self._read(SOURCE_ROWS)
        self._firsts = self._read(FIRSTS)

    def _read(self, name: str) -> NDArray[np.uint32]:
        found: NDArray[np.uint32] = np.fromfile(self.folder / name, "<u4", self.rows_done)
        if len(found) != self.rows_done:
            raise ValueError(f"{name} holds {len(found)} of {self.rows_done} rows")
        return found

    def limit(self, max_tokens: int) -> int:
        """How many tokens training feeds of a row where a person asks for `max_tokens`: the model may read fewer."""
        return min(max_tokens, self.positions or max_tokens)

    @cached_property
    def total_tokens(self) -> int:
        """How many tokens all rows together feed to the model, were nothing cut."""
        return int(self.lengths.sum(dtype=np.int64))

    @property
    def total_trained(self) -> int:
        """How many of these answers are learned, were nothing cut."""
        return int(self._labels_at.sum())

    @cached_property
    def longest(self) -> int:
        """How many tokens the longest row feeds; 0 where there is none."""
        return int(self.lengths.max(initial=0))

    def quantile(self, share: float) -> int:
        """The length that at least this `share` of rows do not exceed; 0 where there is none."""
        if not self.rows_done:
            return 0
        place = min(max(int(np.ceil(share * self.rows_done)) - 1, 0), self.rows_done - 1)
        return int(np.partition(self.lengths, place)[place])

    def histogram(self, bins: int, until: int | None = None) -> Histogram:
        """Rows by length, in `bins` bins of equal width from 0 to at least `until` tokens, by default the longest."""
        top = self.longest if until is None else until
        width = top // bins + 1
        places = np.minimum(self.lengths // np.uint32(width), bins - 1)
        return Histogram(edges=np.arange(bins + 1) * width, rows=np.bincount(places, minlength=bins))

    def at_limit(self, limit: int) -> Cut:
        """What a training with rows of at most `limit` tokens would cut."""
        is_cut, is_silent = self.lengths > limit, self._firsts >= limit
        rows_cut = int(np.count_nonzero(is_cut))
        tokens_cut = int(self.lengths.sum(dtype=np.int64, where=is_cut)) - limit * rows_cut
        trained_cut = int(self._labels_at[limit:].sum())
        left_out = int(np.minimum(self.lengths[is_silent], limit).sum(dtype=np.int64))
        return Cut(
            limit=limit,
            rows_cut=rows_cut,
            rows_without_labels=int(np.count_nonzero(is_silent)),
            tokens_cut=tokens_cut,
            trained_cut=trained_cut,
            tokens_left=self.total_tokens - tokens_cut - left_out,
            trained_left=self.total_trained - trained_cut,
            first_cut=self._first(is_cut),
            first_without_labels=self._first(is_silent),
        )

    def _first(self, is_meant: NDArray[np.bool_]) -> tuple[int, ...]:
        return tuple(self.source_rows[np.flatnonzero(is_meant)[:SHOWN]].tolist())

    def rows_cut(self, limit: int) -> NDArray[np.uint32]:
        """The source rows of all rows that are longer than `limit`."""
        return self.source_rows[self.lengths > limit]

    def rows_without_labels(self, limit: int) -> NDArray[np.uint32]:
        """The source rows of all rows that keep nothing to train on."""
        return self.source_rows[self._firsts >= limit]

    def row(self, number: int) -> ProfiledRow:
        """Row `number`, from 0.

        Raises:
            RunError: its tokens are not there any more.
        """
        index = range(self.rows_done)[number]
        begin, end = self._place(index)
        with (self.folder / TOKENS).open("rb") as file:
            content = os.pread(file.fileno(), end - begin, begin)
        if len(content) != end - begin:
            raise RunError(f"The tokens of row {index + 1} are damaged", hint="Count the dataset's tokens again")
        size = self._token_type.itemsize
        length = len(content) * 8 // (8 * size + 1)
        trained = np.unpackbits(np.frombuffer(content, np.uint8, offset=length * size), count=length)
        trained[:1] = 0  # nothing comes before it that could learn it
        return ProfiledRow(
            source_row=int(self.source_rows[index]),
            tokens=np.frombuffer(content, self._token_type, length),
            trained=trained.astype(np.bool_),
        )

    def _place(self, index: int) -> tuple[int, int]:
        first = max(index - 1, 0)
        ends = np.fromfile(self.folder / PLACES, "<u8", index - first + 1, offset=8 * first).tolist()
        return (ends[0] if index else 0), ends[-1]
