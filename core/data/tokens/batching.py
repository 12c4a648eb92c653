"""From rows to batches. Packed, rows lie one behind the other, without padding, each in a segment of its own; padded,
they lie one below the other, filled up on the right to the longest.

Packed rows that all begin with the same unlabeled tokens, a system prompt say, can share them: the beginning is laid
out once, and the others' segments go on from it (`core.kernels.packed_attention`). A token's hidden state depends on
what stands before it alone, so that every row gets the logits that it gets by itself.

An optimizer step takes `batch_size` rows. They are split into micro-batches of at most `micro_tokens` tokens (a longer
row goes alone); since the loss is summed over trained tokens and divided by the step's total, the split changes the
result by rounding only. Which rows a step takes is said by `core.data.tokens.splits`. For padded batches they are
sorted by length first, so that little is filled up.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from core.data.tokens.encoding import IGNORE, AnyRow, Row
from core.data.tokens.labeling import ClassRow
from core.data.tokens.splits import lengths_of

WORTH_SHARING = 8  # tokens; sharing fewer costs more in attention than it saves
EVEN, WORTH_FILLING = 16, 256  # tokens; fewer than the second are not filled up


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows packed into one sequence.

    `tokens` and `positions` are `[1, T]` int64 (positions restart in each segment, behind the shared tokens where there
    are any), `bounds` `[segments + 1]` int32 holds where segments begin and end, `shared` is the length of the first
    segment where the others go on from it, else 0; `labeled` `[1, T]` bool marks the positions with a label, `labels`
    `[labeled]` int64 are theirs. `bounds` and `labeled` stay on the CPU, where they are read.
    """

    tokens: Tensor
    positions: Tensor
    bounds: Tensor
    shared: int
    labeled: Tensor
    labels: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddedBatch:
    """Rows below one another, `[rows, longest]`.

    `tokens` int64, `mask` int64 is 1 where a token is one of the row's, `labeled` bool (on the CPU) marks the positions
    with a label, `labels` `[labeled]` int64 are theirs, row by row.
    """

    tokens: Tensor
    mask: Tensor
    labeled: Tensor
    labels: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassBatch:
    """Texts below one another, `tokens` and `mask` as in `PaddedBatch`, with `labels` `[rows]` int64.

    `types` `[rows, longest]` int64 tells the texts of a pair apart; None where the tokenizer does not.
    """

    tokens: Tensor
    mask: Tensor
    types: Tensor | None
    labels: Tensor


def pack(rows: Sequence[Row], device: torch.device, *, share_beginning: bool = True) -> Batch:
    """`rows` as one batch on `device`; with `share_beginning`, what all begin with is laid out once where it pays."""
    shared = _common_beginning(rows) if share_beginning else 0
    parts = [rows[0].tokens[:shared]] * bool(shared) + [row.tokens[shared:] for row in rows]
    first = [0] * bool(shared) + [shared] * len(rows)  # where each part's positions begin
    size = sum(map(len, parts))
    filling = -size % EVEN if size >= WORTH_FILLING and len(rows) > 1 else 0
    labels = _integers(
        [*[IGNORE] * shared, *(label for row in rows for label in row.labels[shared:]), *[IGNORE] * filling]
    )
    labeled = labels != IGNORE
    positions = [torch.arange(at, at + len(part)) for at, part in zip(first, parts, strict=True)]
    bounds = torch.tensor([0, *map(len, parts)]).cumsum(0).to(torch.int32)
    bounds[-1] += filling
    return Batch(
        tokens=_integers([*(token for part in parts for token in part), *parts[-1][-1:] * filling])[None].to(device),
        positions=torch.cat([*positions, torch.zeros(filling, dtype=torch.int64)])[None].to(device),
        bounds=bounds,
        shared=shared,
        labeled=labeled[None],
        labels=labels[labeled].to(device),
    )


def _integers(values: list[int]) -> Tensor:
    """`[values]` int64; through numpy, which reads a list several times as fast as torch."""
    return torch.from_numpy(np.array(values, np.int64))


def _common_beginning(rows: Sequence[Row]) -> int:
    """How many tokens all `rows` begin with that have no label, if that many are worth it, else 0."""
    if len(rows) < 2:
        return 0
    length = len(os.path.commonprefix([row.tokens[:-1] for row in rows]))  # each row keeps a token of its own
    labeled = (next((at for at, label in enumerate(row.labels[:length]) if label != IGNORE), length) for row in rows)
    length = min(labeled)
    return length if length >= WORTH_SHARING else 0


def pad(rows: Sequence[Row], device: torch.device, padding: int = 0) -> PaddedBatch:
    """`rows` as one batch on `device`, filled up with the token `padding`."""
    labels = _fill([row.labels for row in rows], IGNORE)
    labeled = labels != IGNORE
    return PaddedBatch(
        tokens=_fill([row.tokens for row in rows], padding).to(device),
        mask=_fill([[1] * len(row.tokens) for row in rows], 0).to(device),
        labeled=labeled,
        labels=labels[labeled].to(device),
    )


def pad_classes(rows: Sequence[ClassRow], device: torch.device, padding: int) -> ClassBatch:
    """`rows` as one batch on `device`, filled up with the token `padding`."""
    types = [row.types for row in rows if row.types is not None]
    return ClassBatch(
        tokens=_fill([row.tokens for row in rows], padding).to(device),
        mask=_fill([[1] * len(row.tokens) for row in rows], 0).to(device),
        types=_fill(types, 0).to(device) if types else None,
        labels=torch.tensor([row.label for row in rows]).to(device),
    )


def _fill(rows: Sequence[Sequence[int]], filling: int) -> Tensor:
    """`[rows, longest]` int64, each row filled up on the right."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[filling] * (longest - len(row))] for row in rows])


def micro_batches(rows: Sequence[AnyRow], micro_tokens: int) -> Iterator[Sequence[AnyRow]]:
    """`rows` in groups of at most `micro_tokens` tokens, in order; a row above that goes alone."""
    group: list[AnyRow] = []
    size = 0
    for row in rows:
        if group and size + len(row.tokens) > micro_tokens:
            yield group
            group, size = [], 0
        group.append(row)
        size += len(row.tokens)
    if group:
        yield group


def padded_micro_batches(rows: Sequence[AnyRow], micro_tokens: int) -> Iterator[Sequence[AnyRow]]:
    """`rows`, longest first, in groups that hold at most `micro_tokens` tokens once filled up; as `micro_batches`."""
    group: list[AnyRow] = []
    for number in np.argsort(-lengths_of(rows), kind="stable").tolist():  # so no row is read before its turn
        row = rows[number]
        if group and (len(group) + 1) * len(group[0].tokens) > micro_tokens:
            yield group
            group = []
        group.append(row)
    if group:
        yield group
