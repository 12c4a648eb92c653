"""Several adapters made into one, and one made smaller.

An adapter is here a low-rank change of each of its modules, ΔW = B A with A [r, in], B [out, r] and the scale s in B. A
module that an adapter leaves alone counts as ΔW = 0. With weights wᵢ:

    concatenate   Σ wᵢ ΔWᵢ, exactly: A's one above the other, wᵢ B's side by side; ranks add up
    svd           the nearest to Σ wᵢ ΔWᵢ that a rank allows (Eckart and Young)
    ties          each ΔW loses its smallest entries; each entry's sign is elected; those of that sign are averaged
                  (arXiv 2306.01708)
    dare_linear   each ΔW loses entries at random and the rest is scaled up to make up for them; then Σ wᵢ ΔWᵢ
                  (arXiv 2311.03099)
    dare_ties     as `ties`, with DARE's way to lose entries
    shrink        one adapter, `svd` to a lower rank

`svd` and `shrink` never form ΔW: with Aᵀ = Qₐ Rₐ and B = Q_b R_b, ΔW = Q_b (R_b Rₐᵀ) Qₐᵀ, and the singular triples of
the r × r matrix in the middle are those of ΔW. TIES and DARE look at single entries, so they form ΔW, one module at a
time, and reduce it to a rank by a full decomposition.

What a rank loses is told as energy: the share of ‖ΔW‖² (all entries squared) that is kept, Σ σ² of the singular values
kept by Σ σ² of all.

What this does not do. peft's combination "linear" adds up A's and B's, each times √wᵢ: that has cross terms Bᵢ Aⱼ
of adapters that have nothing to do with each other, makes twice an adapter out of two halves of it, and depends on how
each ΔW happens to be split into A and B. peft's "ties" and "dare_linear" without "svd" do the same to A and B. Whoever
wants the sum has it here. DoRA's magnitudes, trained biases and whole modules are no low-rank change, and are not
combined.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from core.adapters.spectrum import Spectrum
from core.errors import AdapterError, ConfigError

Majority = Literal["total", "frequency"]
Progress: TypeAlias = Callable[[int, int], None]  # modules done, of how many


def silent(_done: int, _modules: int) -> None:
    """Told of modules that are done, and says nothing."""


@dataclass(frozen=True, slots=True)
class Delta:
    """ΔW = b @ a of one module: `a` `[r, in]`, `b` `[out, r]` with the adapter's scale in it."""

    a: Tensor
    b: Tensor


Adapter: TypeAlias = Mapping[str, Delta]


@dataclass(frozen=True, slots=True)
class Reduced:
    """An adapter in fp32 and what its ranks have kept: `energy` by module and `energy_in_all`, shares from 0 to 1.

    A module's rank is lower than what was asked for where there is nothing more to keep.
    """

    deltas: dict[str, Delta]
    energy: dict[str, float]
    energy_in_all: float


@dataclass(frozen=True, slots=True)
class _Triples:
    """Singular triples, largest first: `u` `[out, k]`, `sigma` `[k]`, `vh` `[k, in]`."""

    u: Tensor
    sigma: Tensor
    vh: Tensor

    def energies(self) -> Tensor:
        """What the first 0, 1, … k triples keep, `[k + 1]` fp64 from 0 to 1; all is kept where there is nothing."""
        sums = torch.nn.functional.pad(self.sigma.double().square().cumsum(0), (1, 0))
        return sums / sums[-1] if sums[-1] > 0 else torch.ones_like(sums)

    def cut(self, rank: int) -> Delta:
        """The first `rank` triples, the singular values split evenly between A and B."""
        root = self.sigma[:rank].sqrt()
        return Delta((root[:, None] * self.vh[:rank]).float(), (self.u[:, :rank] * root).float())


def concatenate(adapters: Sequence[Adapter], weights: Sequence[float]) -> dict[str, Delta]:
    """Σ wᵢ ΔWᵢ without loss, in fp32: a module's rank is the sum of its ranks in all adapters.

    Raises:
        AdapterError: there is no adapter, or their shapes at some module differ.
        ConfigError: on `weights`, where they are not one finite number an adapter.
    """
    return {name: _side_by_side(terms) for name, terms in _terms(adapters, weights).items()}


def svd(adapters: Sequence[Adapter], weights: Sequence[float], rank: int, progress: Progress = silent) -> Reduced:
    """The nearest to Σ wᵢ ΔWᵢ that `rank` allows at each module.

    Raises:
        AdapterError, ConfigError: as `concatenate`; and on `rank` where it is not positive.
    """
    _check_rank(rank)
    sums = concatenate(adapters, weights)
    return _reduced(((name, _thin_triples(delta)) for name, delta in sums.items()), lambda _: rank, progress, len(sums))


def spectra(adapter: Adapter) -> dict[str, Spectrum]:
    """The singular values of each module's ΔW, from which it can be told what a rank would keep."""
    return {
        name: Spectrum(
            squares=tuple(_thin_triples(delta).sigma.square().tolist()),
            features=delta.a.shape[1] + delta.b.shape[0],
        )
        for name, delta in adapter.items()
    }


def shrink(
    adapter: Adapter, *, rank: int | None = None, energy: float | None = None, progress: Progress = silent
) -> Reduced:
    """`adapter` at a lower rank: at most `rank`, or at each module the lowest that keeps the share `energy`.

    A module that has no more than `rank` already stays as it is, A and B themselves.

    Raises:
        ConfigError: on `rank` or `energy`, where not just one is given or it is out of its range.
    """
    if (rank is None) == (energy is None):
        raise ConfigError("An adapter is shrunk to a rank or to a share of its energy", hint="Give one of the two")
    triples = ((name, _thin_triples(delta)) for name, delta in adapter.items())
    if rank is not None:
        _check_rank(rank)
        result = _reduced(triples, lambda _: rank, progress, len(adapter))
        small = {name: delta for name, delta in adapter.items() if delta.a.shape[0] <= rank}
        return Reduced({**result.deltas, **small}, result.energy, result.energy_in_all)
    assert energy is not None
    _check_share(energy, "energy")
    return _reduced(triples, lambda energies: max(1, int((energies < energy).sum())), progress, len(adapter))


def ties(
    adapters: Sequence[Adapter],
    weights: Sequence[float],
    rank: int,
    *,
    density: float,
    majority: Majority = "total",
    progress: Progress = silent,
) -> Reduced:
    """TIES on each module's ΔW, then reduced to `rank`.

    Args:
        density: the share of a ΔW's entries, its largest, that is kept.
        majority: whether entries elect their sign by their sum, as in the paper, or by how many have it. Weights come
            after the election and do not count in it.

    Raises:
        AdapterError, ConfigError: as `svd`; and on `density` where it is not above 0 and at most 1.
    """

    def merge(deltas: list[Tensor], factors: list[float]) -> Tensor:
        return _elected_mean(torch.stack([_trimmed(delta, density) for delta in deltas]), factors, majority)

    return _merged(adapters, weights, rank, density, merge, progress)


def dare_linear(
    adapters: Sequence[Adapter],
    weights: Sequence[float],
    rank: int,
    *,
    density: float,
    generator: torch.Generator,
    progress: Progress = silent,
) -> Reduced:
    """Σ wᵢ ΔWᵢ with each entry of each ΔW kept with probability `density` and then divided by it, reduced to `rank`.

    Raises:
        AdapterError, ConfigError: as `ties`.
    """

    def merge(deltas: list[Tensor], factors: list[float]) -> Tensor:
        dropped = torch.stack([_dropped(delta, density, generator) for delta in deltas])
        return (dropped * _column(factors, dropped)).sum(0)

    return _merged(adapters, weights, rank, density, merge, progress)


def dare_ties(
    adapters: Sequence[Adapter],
    weights: Sequence[float],
    rank: int,
    *,
    density: float,
    generator: torch.Generator,
    majority: Majority = "total",
    progress: Progress = silent,
) -> Reduced:
    """As `ties`, with entries dropped as by `dare_linear` in place of the smallest.

    Raises:
        AdapterError, ConfigError: as `ties`.
    """

    def merge(deltas: list[Tensor], factors: list[float]) -> Tensor:
        dropped = torch.stack([_dropped(delta, density, generator) for delta in deltas])
        return _elected_mean(dropped, factors, majority)

    return _merged(adapters, weights, rank, density, merge, progress)


def _trimmed(delta: Tensor, density: float) -> Tensor:
    """`delta` with all but the share `density` of its entries, the largest, at 0."""
    flat = delta.flatten()
    kept = flat.abs().topk(int(density * flat.numel())).indices
    return torch.zeros_like(flat).index_copy(0, kept, flat[kept]).view_as(delta)


def _dropped(delta: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """`delta` with each entry kept with probability `density`, and then divided by it, so that the mean stays."""
    kept = torch.bernoulli(torch.full(delta.shape, density, device=generator.device), generator=generator)
    return delta * kept.to(delta.device) / density


def _elected_mean(deltas: Tensor, factors: list[float], majority: Majority) -> Tensor:
    """Of `deltas` `[n, out, in]`, entry by entry, the mean of the weighted ones whose sign the majority has."""
    votes = deltas if majority == "total" else deltas.sign()
    elected = torch.where(votes.sum(0) >= 0, 1.0, -1.0)
    agrees = deltas.sign() == elected
    total = (deltas * _column(factors, deltas) * agrees).sum(0)
    return total / agrees.sum(0).clamp_min(1)


def _column(factors: list[float], like: Tensor) -> Tensor:
    return torch.tensor(factors, dtype=like.dtype, device=like.device)[:, None, None]


def _merged(
    adapters: Sequence[Adapter],
    weights: Sequence[float],
    rank: int,
    density: float,
    merge: Callable[[list[Tensor], list[float]], Tensor],
    progress: Progress,
) -> Reduced:
    """`merge` of the ΔW of each module, with their weights, at `rank`; the whole matrices of one module at a time."""
    _check_rank(rank)
    _check_share(density, "density")
    found = _terms(adapters, weights)

    def triples() -> Iterator[tuple[str, _Triples]]:
        for name, terms in found.items():
            matrix = merge([delta.b.float() @ delta.a.float() for delta, _ in terms], [weight for _, weight in terms])
            yield name, _Triples(*torch.linalg.svd(matrix, full_matrices=False))

    return _reduced(triples(), lambda _: rank, progress, len(found))


def _terms(adapters: Sequence[Adapter], weights: Sequence[float]) -> dict[str, list[tuple[Delta, float]]]:
    """For each module the changes that some adapter makes there, with that adapter's weight."""
    if not adapters:
        raise AdapterError("There is no adapter to combine", hint="Choose at least one")
    if len(weights) != len(adapters) or not all(math.isfinite(weight) for weight in weights):
        raise ConfigError(
            f"The weights are {', '.join(map(str, weights)) or 'missing'}",
            f"there are {len(adapters)} adapters",
            "Give one number an adapter",
            field="weights",
        )
    terms: dict[str, list[tuple[Delta, float]]] = {}
    for adapter, weight in zip(adapters, weights, strict=True):
        for name, delta in adapter.items():
            terms.setdefault(name, []).append((delta, weight))
    for name, found in terms.items():
        _check_shapes(name, [delta for delta, _ in found])
    return terms


def _check_shapes(name: str, deltas: Sequence[Delta]) -> None:
    shapes = list(dict.fromkeys((delta.b.shape[0], delta.a.shape[1]) for delta in deltas))
    if len(shapes) > 1:
        raise AdapterError(
            f"The adapters change {name} in different shapes",
            " and ".join(f"{out_features} × {in_features}" for out_features, in_features in shapes),
            "Combine adapters of one base model",
        )


def _check_rank(rank: int) -> None:
    if rank < 1:
        raise ConfigError(f"Rank is {rank}", hint="It must be at least 1", field="rank")


def _check_share(value: float, field: str) -> None:
    if not 0 < value <= 1:
        raise ConfigError(f"{field.capitalize()} is {value}", hint="It must be above 0 and at most 1", field=field)


def _side_by_side(terms: Sequence[tuple[Delta, float]]) -> Delta:
    a = torch.cat([delta.a.float() for delta, _ in terms])
    return Delta(a, torch.cat([weight * delta.b.float() for delta, weight in terms], dim=1))


def _thin_triples(delta: Delta) -> _Triples:
    """All singular triples of b @ a, in fp64, without forming it."""
    q_a, r_a = torch.linalg.qr(delta.a.double().t())  # [in, k], [k, r]
    q_b, r_b = torch.linalg.qr(delta.b.double())  # [out, k], [k, r]
    u, sigma, vh = torch.linalg.svd(r_b @ r_a.t(), full_matrices=False)
    return _Triples(q_b @ u, sigma, vh @ q_a.t())


def _reduced(
    triples: Iterable[tuple[str, _Triples]], choose: Callable[[Tensor], int], progress: Progress, modules: int
) -> Reduced:
    """Each module, as it comes, cut to the rank that `choose` gives for its `energies`."""
    deltas, energy, kept, total = {}, {}, 0.0, 0.0
    for name, found in triples:
        energies = found.energies()
        rank = min(choose(energies), len(found.sigma))
        deltas[name], energy[name] = found.cut(rank), float(energies[rank])
        size = float(found.sigma.double().square().sum())
        kept, total = kept + size * energy[name], total + size
        progress(len(deltas), modules)
    return Reduced(deltas, energy, kept / total if total else 1.0)
