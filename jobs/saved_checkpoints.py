"""The checkpoints that a run has: what each holds, and whether it still is what was written."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeAlias

from core.train.manifest import MANIFEST_FILE, account, read_manifest

Proof: TypeAlias = Literal["verified", "not verified", "damaged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedCheckpoint:
    """The state after `step`. `proof` is verified where every byte was read and has the checksum that was put on record
    when it was written, and damaged where a file is missing, of another size or of another checksum.
    """

    step: int
    bytes: int
    written_at: datetime
    proof: Proof


def look_at(folder: Path) -> SavedCheckpoint | None:
    """The checkpoint in `folder` by its files' sizes; None where it has just been cleared away."""
    try:
        files = [path for path in folder.iterdir() if path.is_file()]
        sizes = {path.name: path.stat().st_size for path in files}
        written = max(path.stat().st_mtime for path in files)
    except (OSError, ValueError):
        return None
    return SavedCheckpoint(
        step=int(folder.name.removeprefix("step-")),
        bytes=sum(sizes.values()),
        written_at=datetime.fromtimestamp(written, UTC),
        proof="not verified" if _recorded_sizes(folder) == _without_manifest(sizes) else "damaged",
    )


def is_proved(folder: Path) -> bool:
    """Whether each file has the size and checksum on record; all of it is read."""
    try:
        return all(account(folder / name) == recorded for name, recorded in read_manifest(folder).items())
    except (OSError, ValueError):
        return False


def _recorded_sizes(folder: Path) -> dict[str, int] | None:
    try:
        return {name: int(recorded["bytes"]) for name, recorded in read_manifest(folder).items()}
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _without_manifest(sizes: dict[str, int]) -> dict[str, int]:
    return {name: size for name, size in sizes.items() if name != MANIFEST_FILE}
