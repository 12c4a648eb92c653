from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.data.health.near_duplicates import Alike, groups_of
from core.data.tokens.encoding import IGNORE, ChatRows, Row
from core.data.tokens.splits import WINDOW, EpochOrder, Subset, hold_out, lengths_of, source_rows_of, trained_of
from tests.core.tiny import random_rows, rows_of_step

COUNTS, BATCH_SIZES, SEEDS = st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**31 - 1)


def numbered(count: int) -> list[Row]:
    return [Row([number, number], [IGNORE, number]) for number in range(count)]


def names(rows: Sequence[Row]) -> list[int]:
    return [row.tokens[0] for row in rows]


def stored(rows: Sequence[Row]) -> ChatRows:
    """`rows`, whose labels are tokens that follow, in a store: every second row of a file, from 1 on."""
    store = ChatRows(None, np.dtype(np.uint16))
    for place, row in enumerate(rows):
        store.put(np.array([*row.tokens, row.labels[-1]], np.uint16), np.array(row.labels) != IGNORE, 2 * place + 1)
    store.write()
    return store


def epoch(order: EpochOrder, number: int = 0) -> list[list[int]]:
    return [order.rows_of_step(step) for step in range(number * order.steps, (number + 1) * order.steps)]


def flat(steps: list[list[int]]) -> list[int]:
    return [row for step in steps for row in step]


# ---- the order of rows


@given(count=COUNTS, batch_size=BATCH_SIZES, seed=SEEDS, number=st.integers(0, 3), step=st.integers(0, 200))
def test_a_step_takes_the_rows_that_shuffling_anew_at_each_step_gives(
    count: int, batch_size: int, seed: int, number: int, step: int
) -> None:
    """And an order that was asked for other steps before is as good as a new one."""
    order = EpochOrder(count, batch_size, seed)
    order.rows_of_step(number)
    assert order.rows_of_step(step) == names(rows_of_step(numbered(count), step, batch_size, seed))


@given(count=COUNTS, batch_size=BATCH_SIZES, seed=SEEDS, number=st.integers(0, 3), by_length=st.booleans())
def test_an_epoch_takes_each_row_once_in_batches_of_full_size_but_the_last(
    count: int, batch_size: int, seed: int, number: int, by_length: bool
) -> None:
    lengths = np.random.default_rng(seed).integers(1, 9, count) if by_length else None
    steps = epoch(EpochOrder(count, batch_size, seed, lengths), number)
    assert sorted(flat(steps)) == list(range(count))
    assert all(len(step) == batch_size for step in steps[:-1]) and 1 <= len(steps[-1]) <= batch_size


def test_the_order_depends_on_seed_and_epoch_and_on_nothing_else() -> None:
    lengths = np.arange(50) % 7

    def rows(number: int = 0, batch_size: int = 8, seed: int = 3, **grouped: Any) -> list[int]:
        return flat(epoch(EpochOrder(50, batch_size, seed, **grouped), number))

    torch.manual_seed(1)
    first, grouped = rows(), rows(lengths=lengths)
    torch.manual_seed(2)
    assert (rows(), rows(lengths=lengths)) == (first, grouped)
    assert rows(batch_size=5) == first
    assert len({tuple(order) for order in (first, grouped, rows(1), rows(1, lengths=lengths), rows(seed=4))}) == 5
    assert first != sorted(first)


def test_rows_are_shuffled_once_an_epoch_and_not_at_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a step takes as long with a million rows as with a thousand."""
    shuffled: list[int] = []
    randperm = torch.randperm
    monkeypatch.setattr(torch, "randperm", lambda rows, **how: shuffled.append(rows) or randperm(rows, **how))
    order = EpochOrder(1000, 8, 0)
    for step in range(2 * order.steps):
        order.rows_of_step(step)
    assert shuffled == [1000, 1000]


def test_no_epoch_of_one_seed_is_the_first_epoch_of_a_seed_nearby() -> None:
    orders = {tuple(flat(epoch(EpochOrder(50, 50, seed), number))) for seed in range(10) for number in range(10)}
    assert len(orders) == 100


def test_rows_of_like_length_share_a_step_where_lengths_are_given() -> None:
    lengths = np.random.default_rng(0).lognormal(5, 0.7, 4003).astype(int)
    filled = {}
    for given_lengths in (None, lengths):
        steps = epoch(EpochOrder(len(lengths), 8, 1, given_lengths))
        filled[given_lengths is not None] = sum(len(step) * lengths[step].max() for step in steps) / lengths.sum()
    assert filled[True] < 1.1 < 1.7 < filled[False]


def test_steps_of_short_rows_are_spread_over_the_epoch() -> None:
    lengths = np.random.default_rng(0).integers(10, 1000, 16 * WINDOW * 8)
    means = np.array([lengths[step].mean() for step in epoch(EpochOrder(len(lengths), 8, 1, lengths))])
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.1
    assert means[:WINDOW].std() > 100
    assert sum(a < b for a, b in pairwise(means)) / len(means) == pytest.approx(0.5, abs=0.1)


def test_a_smaller_last_step_takes_rows_of_any_length() -> None:
    lengths = np.arange(103)
    last = [EpochOrder(103, 10, seed, lengths).rows_of_step(10) for seed in range(60)]
    assert all(len(step) == 3 for step in last)
    assert np.mean(last) == pytest.approx(51, abs=12)


# ---- held-out rows


@given(kinds=st.lists(st.integers(0, 12), min_size=1, max_size=40), share=st.floats(0, 0.5), seed=SEEDS)
def test_every_row_is_on_one_side_and_equal_rows_are_on_the_same(kinds: list[int], share: float, seed: int) -> None:
    rows = [Row([kind, kind + 1], [IGNORE, kind + 1]) for kind in kinds]
    for source in (rows, stored(rows)):
        train, held, copies = hold_out(source, share, seed)
        assert Counter(names(train)) + Counter(names(held)) == Counter(kinds)
        assert not set(names(train)) & set(names(held))
        assert copies == len(kinds) - len(set(kinds))
        room, sizes = int(len(kinds) * share), Counter(kinds)
        fitting = [kind for kind in sizes if sizes[kind] <= room]
        assert train and len(held) <= room
        assert set(names(held)) == set(fitting) or room - len(held) < max(sizes[kind] for kind in fitting)


@given(
    kinds=st.lists(st.integers(0, 30), min_size=2, max_size=60),
    likes=st.dictionaries(st.integers(2, 60), st.integers(1, 59), max_size=20),
    share=st.floats(0.1, 0.6),
    seed=SEEDS,
)
def test_rows_that_are_alike_are_on_the_same_side_by_way_of_others_too(
    kinds: list[int], likes: dict[int, int], share: float, seed: int
) -> None:
    """Every second row of the file was left out before; those that are here are told by their numbers there."""
    store = stored([Row([kind, kind + 1], [IGNORE, kind + 1]) for kind in kinds])
    pairs = sorted((row, like) for row, like in likes.items() if like < row)
    rows = np.array([row for row, _ in pairs], np.int64)
    alike = Alike(rows, groups_of(rows, np.array([like for _, like in pairs], np.int64)))

    held = set(source_rows_of(hold_out(store, share, seed, alike).held).tolist())

    same = [(2 * a + 1, 2 * b + 1) for a in range(len(kinds)) for b in range(a) if kinds[a] == kinds[b]]
    together = networks([*same, *pairs])
    here = {2 * place + 1 for place in range(len(kinds))}
    assert all(network & here <= held or not network & held for network in together)
    assert len(held) <= int(len(kinds) * share)


def networks(pairs: list[tuple[int, int]]) -> list[set[int]]:
    """Which numbers are joined by `pairs`, one after another."""
    found: list[set[int]] = []
    for pair in pairs:
        touched = [network for network in found if network & set(pair)]
        found = [network for network in found if network not in touched] + [set(pair).union(*touched)]
    return found


def test_rows_with_other_labels_for_the_same_tokens_are_equal() -> None:
    rows = [Row([5, 6], [6, label]) for label in range(8)] + [Row([7, 8], [8, 9])]
    for source in (rows, stored(rows)):
        train, held, _ = hold_out(source, 0.5, 0)
        assert {len(train), len(held)} == {1, 8}


def test_which_rows_are_held_out_depends_on_the_seed_alone() -> None:
    rows = numbered(40)
    sides = [names(hold_out(source, 0.25, 5).held) for source in (rows, rows, stored(rows))]
    assert sides[0] == sides[1] == sides[2] and len(sides[0]) == 10
    assert len({tuple(names(hold_out(rows, 0.25, seed).held)) for seed in range(5)}) == 5
    assert list(hold_out(rows, 0.0, 5).held) == []


@pytest.mark.parametrize("count", [1, 9])
def test_too_few_rows_hold_none_back(count: int) -> None:
    train, held, _ = hold_out(numbered(count), 0.1, 0)
    assert len(train) == count and not held


# ---- parts of a dataset


def test_a_subset_is_a_sequence_of_the_rows_that_it_names() -> None:
    rows = numbered(9)
    subset = Subset(rows, np.array([7, 2, 5]))
    assert list(subset) == [rows[7], rows[2], rows[5]] == subset[:]
    assert (subset[-1], subset[1:], len(subset)) == (rows[5], [rows[2], rows[5]], 3)
    with pytest.raises(IndexError):
        subset[3]


def test_lengths_and_labels_are_known_without_reading_a_row() -> None:
    rows = random_rows([4, 1, 9, 3])
    subset = Subset(Subset(rows, np.array([3, 2, 0])), np.array([2, 1]))
    assert lengths_of(subset).tolist() == [4, 9]
    assert trained_of(subset).tolist() == [rows[0].trained, rows[2].trained]

    store = stored(numbered(3))
    store._file.truncate(0)
    assert lengths_of(Subset(store, np.array([1]))).tolist() == [2]
    assert trained_of(store).tolist() == [1, 1, 1]
