"""From rows to batches. Packed, rows lie one behind the other, without padding, each in a segment of its own; padded,
they lie one below the other, filled up on the right to the longest.

An optimizer step takes `batch_size` rows. They are split into micro-batches of at most `micro_tokens` tokens (a
longer row goes alone); since the loss is summed over trained tokens and divided by the step's total, the split
changes the result by rounding only. The order of rows is a function of seed and epoch, so a step's rows can be
found again from its number. For padded batches a step's rows are sorted by length first, so that little is filled up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.data.encoding import IGNORE, AnyRow, Row
from core.data.labeling import ClassRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows packed into one sequence.

    `tokens` and `positions` are `[1, T]` int64 (positions restart in each segment), `bounds` `[segments + 1]` int32
    holds where segments begin and end, `labeled` `[1, T]` bool marks the positions with a label, `labels`
    `[labeled]` int64 are theirs.
    """

    tokens: Tensor
    positions: Tensor
    bounds: Tensor
    labeled: Tensor
    labels: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddedBatch:
    """Rows below one another, `[rows, longest]`.

    `tokens` int64, `mask` int64 is 1 where a token is one of the row's, `labeled` bool marks the positions with a
    label, `labels` `[labeled]` int64 are theirs, row by row.
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


def pack(rows: Sequence[Row], device: torch.device) -> Batch:
    """`rows` as one batch on `device`."""
    lengths = torch.tensor([len(row.tokens) for row in rows])
    labels = torch.tensor([label for row in rows for label in row.labels])
    bounds = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    positions = torch.cat([torch.arange(length) for length in lengths.tolist()])
    labeled = labels != IGNORE
    return Batch(
        tokens=torch.tensor([token for row in rows for token in row.tokens])[None].to(device),
        positions=positions[None].to(device),
        bounds=bounds.to(torch.int32).to(device),
        labeled=labeled[None].to(device),
        labels=labels[labeled].to(device),
    )


def pad(rows: Sequence[Row], device: torch.device, padding: int = 0) -> PaddedBatch:
    """`rows` as one batch on `device`, filled up with the token `padding`."""
    labels = _fill([row.labels for row in rows], IGNORE)
    labeled = labels != IGNORE
    return PaddedBatch(
        tokens=_fill([row.tokens for row in rows], padding).to(device),
        mask=_fill([[1] * len(row.tokens) for row in rows], 0).to(device),
        labeled=labeled.to(device),
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
    for row in sorted(rows, key=lambda row: -len(row.tokens)):
        if group and (len(group) + 1) * len(group[0].tokens) > micro_tokens:
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Optimizer steps that one pass over `rows` takes; the last may be smaller."""
    return -(-rows // batch_size)


def rows_of_step(rows: Sequence[AnyRow], step: int, batch_size: int, seed: int) -> list[AnyRow]:
    """The rows that optimizer step `step` (from 0) trains on."""
    epoch, index = divmod(step, steps_per_epoch(len(rows), batch_size))
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(len(rows), generator=generator).tolist()
    return [rows[i] for i in order[index * batch_size : (index + 1) * batch_size]]


def hold_out(rows: Sequence[AnyRow], share: float, seed: int) -> tuple[list[AnyRow], list[AnyRow]]:
    """`rows` as (training, evaluation), split at random by `seed`; no evaluation rows where `share` makes less than
    one.

    Rows with equal tokens fall on the same side, so that evaluation never asks for a row that was trained on.
    """
    groups: dict[tuple[int, ...], list[AnyRow]] = {}
    for row in rows:
        groups.setdefault(tuple(row.tokens), []).append(row)
    distinct = list(groups.values())
    wanted = int(len(distinct) * share)
    order = torch.randperm(len(distinct), generator=torch.Generator().manual_seed(seed)).tolist()
    chosen = set(order[:wanted])
    train = [row for index, group in enumerate(distinct) if index not in chosen for row in group]
    held = [row for index, group in enumerate(distinct) if index in chosen for row in group]
    return train, held
