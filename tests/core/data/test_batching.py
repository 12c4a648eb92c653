from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.data.batching import (
    hold_out,
    micro_batches,
    pack,
    pad,
    pad_classes,
    padded_micro_batches,
    rows_of_step,
    steps_per_epoch,
)
from core.data.encoding import IGNORE, Row
from core.data.labeling import ClassRow
from tests.core.tiny import random_rows

CPU = torch.device("cpu")


def numbered(count: int) -> list[Row]:
    return [Row([number, number], [IGNORE, number]) for number in range(count)]


def names(rows: list[Row]) -> list[int]:
    return [row.tokens[0] for row in rows]


def epoch(rows: list[Row], number: int, batch_size: int, seed: int) -> list[int]:
    steps = steps_per_epoch(len(rows), batch_size)
    return [
        name
        for step in range(number * steps, (number + 1) * steps)
        for name in names(rows_of_step(rows, step, batch_size, seed))
    ]


@given(
    count=st.integers(1, 40), batch_size=st.integers(1, 50), seed=st.integers(0, 2**31 - 1), number=st.integers(0, 3)
)
def test_an_epoch_takes_each_row_once_in_batches_of_full_size_but_the_last(
    count: int, batch_size: int, seed: int, number: int
) -> None:
    rows = numbered(count)
    assert sorted(epoch(rows, number, batch_size, seed)) == list(range(count))
    steps = steps_per_epoch(count, batch_size)
    sizes = [len(rows_of_step(rows, step, batch_size, seed)) for step in range(steps)]
    assert all(size == batch_size for size in sizes[:-1]) and 1 <= sizes[-1] <= batch_size


def test_the_order_depends_on_seed_and_epoch_and_on_nothing_else() -> None:
    rows = numbered(50)
    torch.manual_seed(1)
    first = epoch(rows, 0, 8, seed=3)
    torch.manual_seed(2)
    assert epoch(rows, 0, 8, seed=3) == first
    assert epoch(rows, 0, 5, seed=3) == first
    assert epoch(rows, 1, 8, seed=3) != first
    assert epoch(rows, 0, 8, seed=4) != first
    assert first != sorted(first)


def test_no_epoch_of_one_seed_is_the_first_epoch_of_a_seed_nearby() -> None:
    rows = numbered(50)
    orders = {tuple(epoch(rows, number, 50, seed)) for seed in range(10) for number in range(10)}
    assert len(orders) == 100


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=20), micro_tokens=st.integers(1, 60))
def test_micro_batches_hold_all_rows_in_order_and_no_more_tokens_than_allowed(
    lengths: list[int], micro_tokens: int
) -> None:
    rows = [Row([0] * length, [0] * length) for length in lengths]
    groups = [list(group) for group in micro_batches(rows, micro_tokens)]
    assert [id(row) for group in groups for row in group] == [id(row) for row in rows]
    sizes = [sum(len(row.tokens) for row in group) for group in groups]
    assert all(size <= micro_tokens or len(group) == 1 for size, group in zip(sizes, groups, strict=True))
    assert all(before + len(group[0].tokens) > micro_tokens for before, group in zip(sizes, groups[1:], strict=False))


def test_a_packed_batch_can_be_unpacked_again() -> None:
    rows = random_rows([4, 1, 9])
    batch = pack(rows, CPU)
    bounds = batch.bounds.tolist()
    labels = torch.full(batch.tokens.shape, IGNORE)
    labels[batch.labeled] = batch.labels
    unpacked = [
        Row(batch.tokens[0, start:end].tolist(), labels[0, start:end].tolist())
        for start, end in zip(bounds, bounds[1:], strict=False)
    ]
    assert unpacked == rows
    assert batch.positions[0].tolist() == [*range(4), *range(1), *range(9)]
    assert batch.bounds.dtype == torch.int32 and bounds[0] == 0 and bounds[-1] == 14
    assert batch.tokens.shape == batch.positions.shape == batch.labeled.shape == (1, 14)


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=20), micro_tokens=st.integers(1, 90))
def test_padded_micro_batches_hold_all_rows_and_once_filled_up_no_more_tokens_than_allowed(
    lengths: list[int], micro_tokens: int
) -> None:
    rows = [Row([0] * length, [0] * length) for length in lengths]
    groups = [list(group) for group in padded_micro_batches(rows, micro_tokens)]
    assert Counter(id(row) for group in groups for row in group) == Counter(id(row) for row in rows)
    sizes = [len(group) * max(len(row.tokens) for row in group) for group in groups]
    assert all(size <= micro_tokens or len(group) == 1 for size, group in zip(sizes, groups, strict=True))
    lengths_in_order = [len(row.tokens) for group in groups for row in group]
    assert lengths_in_order == sorted(lengths, reverse=True)  # neighbors are of like length, so little is filled up


def test_a_padded_batch_can_be_unpacked_again() -> None:
    rows = random_rows([4, 1, 9])
    batch = pad(rows, CPU, padding=7)
    labels = torch.full(batch.tokens.shape, IGNORE)
    labels[batch.labeled] = batch.labels
    lengths = batch.mask.sum(dim=1).tolist()
    unpacked = [
        Row(tokens[:length].tolist(), row[:length].tolist())
        for tokens, row, length in zip(batch.tokens, labels, lengths, strict=True)
    ]
    assert unpacked == rows
    assert batch.tokens.shape == batch.mask.shape == batch.labeled.shape == (3, 9)
    assert (batch.tokens[batch.mask == 0] == 7).all() and not batch.labeled[batch.mask == 0].any()
    assert (batch.mask.diff(dim=1) <= 0).all()  # filled up on the right only


def test_texts_of_classes_are_padded_with_their_types() -> None:
    rows = [ClassRow([5, 6, 8], 2, [0, 1, 1]), ClassRow([9], 0, [0])]
    batch = pad_classes(rows, CPU, padding=7)
    assert batch.tokens.tolist() == [[5, 6, 8], [9, 7, 7]] and batch.mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.types is not None and batch.types.tolist() == [[0, 1, 1], [0, 0, 0]]
    assert batch.labels.tolist() == [2, 0]
    assert pad_classes([ClassRow([5], 1)], CPU, padding=7).types is None


# ---- held-out rows


@given(
    kinds=st.lists(st.integers(0, 12), min_size=1, max_size=40),
    share=st.floats(0, 0.5),
    seed=st.integers(0, 2**31 - 1),
)
def test_every_row_is_on_one_side_and_equal_rows_are_on_the_same(kinds: list[int], share: float, seed: int) -> None:
    rows = [Row([kind, kind + 1], [IGNORE, kind + 1]) for kind in kinds]
    train, held = hold_out(rows, share, seed)
    assert Counter(names(train)) + Counter(names(held)) == Counter(kinds)
    assert not set(names(train)) & set(names(held))
    assert train and len(set(names(held))) == int(len(set(kinds)) * share)


def test_which_rows_are_held_out_depends_on_the_seed_alone() -> None:
    rows = numbered(40)
    assert hold_out(rows, 0.25, 5) == hold_out(rows, 0.25, 5)
    assert len({tuple(names(hold_out(rows, 0.25, seed)[1])) for seed in range(5)}) == 5
    assert hold_out(rows, 0.0, 5)[1] == []


@pytest.mark.parametrize("count", [1, 9])
def test_too_few_rows_hold_none_back(count: int) -> None:
    train, held = hold_out(numbered(count), 0.1, 0)
    assert len(train) == count and held == []
