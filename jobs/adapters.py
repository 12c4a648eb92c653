"""Adapters as files: what their config says, copies and zips of them. Weights are hashed here, never loaded."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import AdapterError, ConfigError
from jobs.ids import new_id
from jobs.names import slug
from jobs.views import Adapter

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
README_FILE = "README.md"
ADAPTER_FILES = (CONFIG_FILE, WEIGHTS_FILE, README_FILE)
FINGERPRINT_DIGITS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFacts:
    """What an adapter's folder says of itself. `base_model` is whatever the one who trained it called the base."""

    rank: int
    alpha: float
    targets: tuple[str, ...]
    base_model: str
    bytes: int
    fingerprint: str

    def as_row(self) -> dict[str, Any]:
        """The values as the store keeps them."""
        return {
            "rank": self.rank,
            "alpha": self.alpha,
            "targets": json.dumps(self.targets),
            "base_model": self.base_model,
            "bytes": self.bytes,
            "fingerprint": self.fingerprint,
        }


def describe_adapter(folder: Path) -> AdapterFacts:
    """What the adapter in `folder` is, without loading it.

    Raises:
        AdapterError: the folder holds no adapter in PEFT's format with safetensors weights.
    """
    config, weights = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    if not config.is_file() or not weights.is_file():
        missing = WEIGHTS_FILE if config.is_file() else CONFIG_FILE
        raise AdapterError(f"{folder} holds no adapter", f"{missing} is missing", "Choose an adapter's folder")
    try:
        settings = json.loads(config.read_bytes())
        targets = settings["target_modules"]
        return AdapterFacts(
            rank=int(settings["r"]),
            alpha=float(settings["lora_alpha"]),
            targets=(targets,) if isinstance(targets, str) else tuple(map(str, targets)),
            base_model=str(settings.get("base_model_name_or_path") or ""),
            bytes=weights.stat().st_size,
            fingerprint=_fingerprint(weights),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AdapterError(f"{CONFIG_FILE} is not a LoRA adapter's", str(folder), "Export the adapter again") from error


def write_zip(adapter: Adapter, exports: Path) -> Path:
    """A zip of the adapter's files in `exports`, there as a whole or not at all.

    Raises:
        AdapterError: its files have gone.
    """
    describe_adapter(adapter.path)
    target = exports / f"{slug(adapter.name)}-{adapter.fingerprint}.zip"
    zip_folder(adapter.path, target)
    return target


def zip_folder(folder: Path, target: Path) -> None:
    """Zip the adapter in `folder` to `target`. Weights do not shrink, so they are stored as they are."""
    draft = target.with_name(f".{new_id()}.zip")
    try:
        with zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as archive:
            for name in _present(folder):
                archive.write(folder / name, name)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def copy_adapter(folder: Path, output: Path) -> None:
    """Put the adapter's files into `output`; each is whole there or not there at all, other files are left alone.

    Raises:
        AdapterError: `folder` holds no adapter.
    """
    describe_adapter(folder)
    output.mkdir(parents=True, exist_ok=True)
    drafts = {name: output / f".{new_id()}-{name}" for name in _present(folder)}
    try:
        for name, draft in drafts.items():
            shutil.copyfile(folder / name, draft)
        for name, draft in drafts.items():
            draft.replace(output / name)
    finally:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)


def check_output(output: Path) -> None:
    """Refuse a folder that an adapter cannot or should not be written into.

    Raises:
        ConfigError: it is a file, holds something other than an earlier adapter, or cannot be written to.
    """
    if output.exists() and not output.is_dir():
        raise ConfigError(f"{output} is a file", hint="Give --output a folder", field="output")
    if output.is_dir() and any(output.iterdir()) and not (output / CONFIG_FILE).is_file():
        hint = "Give --output a new or an empty folder"
        raise ConfigError(f"{output} is not empty and holds no earlier adapter", hint=hint, field="output")
    nearest = next(path for path in (output.absolute(), *output.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ConfigError(f"{output} cannot be written: {nearest} does not allow it", hint="Choose another folder")


def _present(folder: Path) -> list[str]:
    return [name for name in ADAPTER_FILES if (folder / name).is_file()]


def _fingerprint(weights: Path) -> str:
    with weights.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:FINGERPRINT_DIGITS]
