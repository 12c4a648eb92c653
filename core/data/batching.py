"""From rows to packed batches: rows lie one behind the other, without padding, each in a segment of its own.

An optimizer step takes `batch_size` rows. They are split into micro-batches of at most `micro_tokens` tokens (a
longer row goes alone); since the loss is summed over trained tokens and divided by the step's total, the split
changes the result by rounding only. The order of rows is a function of seed and epoch, so a step's rows can be
found again from its number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.data.encoding import IGNORE, Row


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


def micro_batches(rows: Sequence[Row], micro_tokens: int) -> Iterator[Sequence[Row]]:
    """`rows` in groups of at most `micro_tokens` tokens, in order; a row above that goes alone."""
    group: list[Row] = []
    size = 0
    for row in rows:
        if group and size + len(row.tokens) > micro_tokens:
            yield group
            group, size = [], 0
        group.append(row)
        size += len(row.tokens)
    if group:
        yield group


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Optimizer steps that one pass over `rows` takes; the last may be smaller."""
    return -(-rows // batch_size)


def rows_of_step(rows: Sequence[Row], step: int, batch_size: int, seed: int) -> list[Row]:
    """The rows that optimizer step `step` (from 0) trains on."""
    epoch, index = divmod(step, steps_per_epoch(len(rows), batch_size))
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(len(rows), generator=generator).tolist()
    return [rows[i] for i in order[index * batch_size : (index + 1) * batch_size]]


def hold_out(rows: Sequence[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """`rows` as (training, evaluation), split at random by `seed`; no evaluation rows where `share` makes less than
    one.

    Rows with equal tokens fall on the same side, so that evaluation never asks for a row that was trained on.
    """
    groups: dict[tuple[int, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.tokens), []).append(row)
    distinct = list(groups.values())
    wanted = int(len(distinct) * share)
    order = torch.randperm(len(distinct), generator=torch.Generator().manual_seed(seed)).tolist()
    chosen = set(order[:wanted])
    train = [row for index, group in enumerate(distinct) if index not in chosen for row in group]
    held = [row for index, group in enumerate(distinct) if index in chosen for row in group]
    return train, held
