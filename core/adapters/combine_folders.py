"""Adapters on disk combined, or shrunk, into a new one on disk, without their base model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from core.adapters import combine
from core.adapters.combine import Delta, Progress, Reduced, silent
from core.adapters.peft_format import AdapterFiles, read_adapter
from core.adapters.peft_save import lora_settings, plain_settings, write_files
from core.adapters.portable import products_in
from core.adapters.spectrum import Spectrum
from core.adapters.ways import WAYS, Combination
from core.errors import AdapterError, ConfigError


def combine_folders(
    folders: Sequence[Path],
    combination: Combination,
    output: Path,
    progress: Progress = silent,
    base_model: str | None = None,
) -> float:
    """Write the combination of the adapters in `folders` to the folder `output`.

    Args:
        progress: hears how many modules have been reduced, of how many.
        base_model: what their one base is called, where that is known better than by their configs.

    Returns:
        The energy that its rank keeps, from 0 to 1; 1 for `concat`, which is exact.

    Raises:
        AdapterError: one cannot be read, is more than low-rank, or they are of different bases.
        ConfigError: the weights are not one an adapter, or a rank is missing.
    """
    files = [read_adapter(folder) for folder in folders]
    bases = dict.fromkeys(base_model or read.base_model for read in files)
    if len(bases) > 1:
        raise AdapterError(
            "The adapters were trained beside different base models",
            ", ".join(base or "an unnamed one" for base in bases),
            "Combine adapters of one base",
        )
    adapters = [_deltas(read) for read in files]
    deltas, energy = _combined(adapters, combination, progress)
    _write(deltas, files[0], output, next(iter(bases)))
    return energy


def shrink_folder(
    folder: Path,
    output: Path,
    *,
    rank: int | None = None,
    energy: float | None = None,
    progress: Progress = silent,
) -> Reduced:
    """Write the adapter in `folder` at a lower rank, or at the lowest that keeps so much energy, to `output`.

    Raises:
        AdapterError: it cannot be read, or is more than low-rank.
        ConfigError: not just one of `rank` and `energy` is given, or it is out of its range.
    """
    read = read_adapter(folder)
    reduced = combine.shrink(_deltas(read), rank=rank, energy=energy, progress=progress)
    _write(reduced.deltas, read, output, read.base_model)
    return reduced


def spectra_of(folder: Path) -> dict[str, Spectrum]:
    """The singular values of each module's ΔW of the adapter in `folder`.

    Raises:
        AdapterError: it cannot be read, or is more than low-rank.
    """
    return combine.spectra(_deltas(read_adapter(folder)))


def _combined(
    adapters: Sequence[combine.Adapter], wanted: Combination, progress: Progress
) -> tuple[combine.Adapter, float]:
    if wanted.how not in WAYS:
        raise ConfigError(f"There is no way {wanted.how} to combine", hint=f"Choose from {', '.join(WAYS)}")
    if wanted.how == "concat":
        return combine.concatenate(adapters, wanted.weights), 1.0
    rank = wanted.rank
    if rank is None:
        raise ConfigError(f"A rank is missing, and {wanted.how} reduces to one", hint="Give a rank", field="rank")
    generator = torch.Generator().manual_seed(wanted.seed)
    if wanted.how == "svd":
        reduced = combine.svd(adapters, wanted.weights, rank, progress)
    elif wanted.how == "ties":
        reduced = combine.ties(adapters, wanted.weights, rank, density=wanted.density, progress=progress)
    else:
        dare = combine.dare_linear if wanted.how == "dare_linear" else combine.dare_ties
        reduced = dare(adapters, wanted.weights, rank, density=wanted.density, generator=generator, progress=progress)
    return reduced.deltas, reduced.energy_in_all


def _deltas(files: AdapterFiles) -> dict[str, Delta]:
    products = products_in(files)
    for module, product in products.items():
        if product.is_embedding:
            raise AdapterError(
                f"The adapter has an update of {module}, an embedding",
                hint="Combine adapters of linear layers alone, or merge them into the base one after the other",
            )
    return {module: Delta(product.a, product.scale * product.b) for module, product in products.items()}


def _write(deltas: combine.Adapter, like: AdapterFiles, output: Path, base_model: str) -> None:
    """Write `deltas` in PEFT's format, with the settings of `like` that say nothing of rank and scale."""
    ranks = {module: delta.a.shape[0] for module, delta in deltas.items()}
    settings = {
        **plain_settings(base_model, "CAUSAL_LM"),
        **lora_settings(ranks, {module: float(rank) for module, rank in ranks.items()}),
        "target_modules": sorted(deltas),
        "fan_in_fan_out": like.settings.fan_in_fan_out,
    }
    tensors = {}
    for module, delta in deltas.items():
        tensors[f"{module}.lora_A.weight"], tensors[f"{module}.lora_B.weight"] = delta.a, delta.b
    write_files(output, settings, tensors)
    read_adapter(output)
