"""What a checkpoint's folder is proved by: a manifest, written last, with every file's size and SHA-256. No torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

MANIFEST_FILE = "manifest.json"


def account(path: Path) -> dict[str, Any]:
    """A file's size and SHA-256."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def read_manifest(folder: Path) -> dict[str, Any]:
    """What was put on record of the files in `folder`, by their names.

    Raises:
        OSError, ValueError: nothing was, or it cannot be read.
    """
    found = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError("it is no mapping")
    return found


def write_manifest(folder: Path) -> Path:
    """Put all files in `folder` on record."""
    manifest = {path.name: account(path) for path in sorted(folder.iterdir())}
    path = folder / MANIFEST_FILE
    path.write_text(json.dumps(manifest), encoding="utf-8")
    return path
