"""Several adapters as one, and one made smaller, from folders to a folder or a zip."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.adapters import require_adapter
from jobs.export_draft import NewFolder

if TYPE_CHECKING:
    from core.adapters.ways import Combination


def combine_adapters(folders: Sequence[Path], combination: Combination, output: Path) -> str:
    """Write the combination of the adapters in `folders` to `output`; a sentence on what its rank keeps.

    Raises:
        UserError: an adapter or the output cannot be used, or the combination asks for what cannot be.
    """
    from core.adapters.combine_folders import combine_folders

    for folder in folders:
        require_adapter(folder)
    with NewFolder(output) as draft:
        energy = combine_folders(folders, combination, draft)
    if combination.how == "concat":
        return "The sum is exact; ranks have added up."
    return f"Rank {combination.rank} keeps {energy:.1%} of the combined change's energy."


def shrink_adapter(folder: Path, output: Path, *, rank: int | None, energy: float | None) -> str:
    """Write the adapter in `folder` at a lower rank to `output`; a sentence on what is kept.

    Raises:
        UserError: the adapter or the output cannot be used, or not just one of `rank` and `energy` is given.
    """
    from core.adapters.combine_folders import shrink_folder

    require_adapter(folder)
    with NewFolder(output) as draft:
        reduced = shrink_folder(folder, draft, rank=rank, energy=energy)
    ranks = sorted(delta.a.shape[0] for delta in reduced.deltas.values())
    words = f"Rank {ranks[-1]}" if ranks[0] == ranks[-1] else f"Ranks from {ranks[0]} to {ranks[-1]}"
    keep = "keeps" if ranks[0] == ranks[-1] else "keep"
    return f"{words} {keep} {reduced.energy_in_all:.1%} of the change's energy."
