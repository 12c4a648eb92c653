"""What a rank is said to keep is what shrinking to it keeps."""

from __future__ import annotations

import pytest
import torch

from core.adapters.combine import Delta, shrink, spectra
from core.adapters.spectrum import Kept, Spectrum, at_energy, at_rank

SHAPES = {"q": (10, 7, 4), "v": (6, 9, 3), "down": (30, 8, 6)}  # [out, in], rank


def adapter(seed: int) -> dict[str, Delta]:
    draw = torch.Generator().manual_seed(seed)
    return {
        name: Delta(torch.randn(rank, inner, generator=draw), torch.randn(outer, rank, generator=draw) * seed)
        for name, (outer, inner, rank) in SHAPES.items()
    }


def said_and_done(deltas: dict[str, Delta], kept: Kept, **wanted: float) -> None:
    reduced = shrink(deltas, **wanted)  # type: ignore[arg-type]
    ranks = [delta.a.shape[0] for delta in reduced.deltas.values()]
    numbers = sum(delta.a.numel() + delta.b.numel() for delta in reduced.deltas.values())
    assert kept.energy == pytest.approx(reduced.energy_in_all, rel=1e-9)
    assert (kept.lowest_rank, kept.highest_rank, kept.bytes) == (min(ranks), max(ranks), 4 * numbers)


@pytest.mark.parametrize("rank", [1, 2, 3, 5, 6, 50])
def test_a_rank_keeps_what_is_said_before(rank: int) -> None:
    deltas = adapter(3)
    said_and_done(deltas, at_rank(list(spectra(deltas).values()), rank), rank=rank)


@pytest.mark.parametrize("energy", [0.01, 0.5, 0.9, 0.999, 1.0])
def test_a_share_of_energy_takes_the_ranks_that_are_said_before(energy: float) -> None:
    deltas = adapter(5)
    said_and_done(deltas, at_energy(list(spectra(deltas).values()), energy), energy=energy)


def test_where_nothing_changes_nothing_is_lost() -> None:
    nothing = [Spectrum(squares=(0.0, 0.0), features=4)]
    assert at_rank(nothing, 1).energy == at_energy(nothing, 0.5).energy == 1.0
