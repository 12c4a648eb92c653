from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.data.tokens.batching import (
    WORTH_SHARING,
    micro_batches,
    pack,
    pad,
    pad_classes,
    padded_micro_batches,
)
from core.data.tokens.encoding import IGNORE, ChatRows, Row
from core.data.tokens.labeling import ClassRow
from tests.core.tiny import random_rows

CPU = torch.device("cpu")


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


def test_several_rows_are_filled_up_to_an_even_number_with_tokens_that_have_no_label_and_come_last() -> None:
    rows = random_rows([150, 161])
    batch = pack(rows, CPU)
    assert batch.tokens.shape == batch.positions.shape == batch.labeled.shape == (1, 320)
    assert batch.bounds.tolist() == [0, 150, 320] and not batch.labeled[0, 311:].any()
    assert batch.tokens[0, :311].tolist() == [token for row in rows for token in row.tokens]
    assert batch.positions[0].tolist() == [*range(150), *range(161), *[0] * 9]
    assert pack(rows[:1] + random_rows([162]), CPU).bounds[-1] == 312 + 8
    assert pack(random_rows([311]), CPU).bounds[-1] == 311  # a row alone stays as it is
    assert pack(random_rows([50, 61]), CPU).bounds[-1] == 111  # little gains little


beginnings = st.lists(st.integers(0, 1), min_size=0, max_size=2 * WORTH_SHARING)
shared_rows = st.lists(
    st.tuples(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.integers(0, 12)), min_size=1, max_size=5
)


@given(beginning=beginnings, ends=shared_rows)
def test_rows_can_be_unpacked_from_a_beginning_that_they_share(
    beginning: list[int], ends: list[tuple[list[int], int]]
) -> None:
    rows = []
    for end, first_label in ends:
        tokens = beginning + end
        rows.append(Row(tokens, [9 if at >= first_label else IGNORE for at in range(len(tokens))]))
    batch = pack(rows, CPU)
    (tokens,), (labeled,), shared = batch.tokens.tolist(), batch.labeled.tolist(), batch.shared
    bounds = batch.bounds.tolist()
    assert shared == 0 or (len(rows) > 1 and shared >= WORTH_SHARING and bounds[:2] == [0, shared])
    segments = list(zip(bounds, bounds[1:], strict=False))[bool(shared) :]
    for row, (start, end) in zip(rows, segments, strict=True):
        assert row.tokens == tokens[:shared] + tokens[start:end] and end > start
        assert [label != IGNORE for label in row.labels] == labeled[:shared] + labeled[start:end]
        assert batch.positions[0, start:end].tolist() == list(range(shared, len(row.tokens)))
    assert len(batch.labels) == sum(row.trained for row in rows)


def test_a_beginning_is_shared_as_far_as_no_row_has_a_label_and_only_when_asked() -> None:
    tokens = list(range(30))
    rows = [Row([*tokens, own], [IGNORE] * 20 + [1] * 11) for own in (70, 71)]
    rows.append(Row(tokens, [IGNORE] * 12 + [1] * 18))
    assert pack(rows[:2], CPU).shared == 20
    assert pack(rows, CPU).shared == 12
    assert pack(rows, CPU, share_beginning=False).shared == 0
    assert pack(rows[:1], CPU).shared == 0


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


@pytest.mark.parametrize("groups", [micro_batches, padded_micro_batches])
def test_rows_in_a_file_are_read_when_their_group_comes(groups: Any) -> None:
    """So that a large part of a dataset can be evaluated without being in memory."""
    read: list[int] = []

    class Watched(ChatRows):
        def _row(self, content: bytes) -> Row:
            read.append(1)
            return super()._row(content)

    store = Watched(None, np.dtype(np.uint16))
    for length in (5, 9, 7, 3, 8, 6, 4):
        store.put(np.arange(length + 1, dtype=np.uint16), np.ones(length, np.bool_), 1)
    store.write()
    stream = groups(store, 10)
    assert len(next(stream)) == 1 and len(read) == 2
    assert 1 + sum(map(len, stream)) == len(read) == 7
