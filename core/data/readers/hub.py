"""Datasets from the hub: what one consists of, and its data files on this disk.

Only files that our own readers know are taken, never a script that builds a dataset. A dataset has parts: a split of a
configuration. Which files make up which part is said by its card, by the folders and names of the files where the card
is silent, and, where there is no file to be read, by the hub's own conversion to Parquet.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from core.data.readers.sources import MAX_BYTES
from core.data.readers.suffixes import KINDS, PLAIN_TEXT, kind_of_file, suffix_of
from core.errors import DataError
from core.hub import counter, told

_CONVERTED = "refs/convert/parquet"
_KINDS_BY_PREFERENCE = ("Parquet", "JSON Lines", "JSON", "CSV", "TSV", "Excel", PLAIN_TEXT)
_SPLITS = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
_SHARD = re.compile(r"(?P<split>[\w.-]+?)-\d{5}-of-\d{5}\b.*")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """A file of a dataset on the hub; `bytes` is zero where the hub does not say."""

    path: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HubPart:
    """The files of one split of one configuration, all of one kind."""

    config: str
    split: str
    files: tuple[HubFile, ...]

    @property
    def bytes(self) -> int:
        """What has to be downloaded."""
        return sum(file.bytes for file in self.files)


@dataclass(frozen=True, slots=True, kw_only=True)
class HubDataset:
    """A dataset on the hub as it is at `revision`; `licence` is empty where its card names none."""

    hub_id: str
    revision: str
    licence: str
    is_gated: bool
    parts: tuple[HubPart, ...]

    @property
    def configs(self) -> tuple[str, ...]:
        """Its configurations."""
        return tuple(dict.fromkeys(part.config for part in self.parts))

    def part(self, config: str | None = None, split: str | None = None) -> HubPart:
        """The part that is meant; of several splits the one for training where none is named.

        Raises:
            DataError: there is no such part, or several could be meant.
        """
        known = self.configs
        if config is None and len(known) > 1:
            raise DataError(f"{self.hub_id} has several configurations", ", ".join(known), "Choose one of them")
        parts = {part.split: part for part in self.parts if part.config == (config or known[0])}
        if not parts:
            raise DataError(f"{self.hub_id} has no configuration {config}", ", ".join(known), "Choose one of these")
        if split is None and len(parts) > 1 and "train" not in parts:
            raise DataError(f"{self.hub_id} has several splits", ", ".join(parts), "Choose one of them")
        wanted = split or ("train" if "train" in parts else next(iter(parts)))
        if wanted not in parts:
            raise DataError(f"{self.hub_id} has no split {wanted}", ", ".join(parts), "Choose one of these")
        return parts[wanted]


def hub_info(hub_id: str, revision: str | None = None) -> HubDataset:
    """What the dataset `hub_id` consists of; nothing is downloaded.

    Raises:
        DataError: there is none, or none that can be read, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi  # lazily: it is slow to import and few callers need it
    from huggingface_hub.errors import RevisionNotFoundError

    with told(hub_id, "dataset", DataError):
        info: Any = HfApi().dataset_info(hub_id, revision=revision, files_metadata=True)
        card: dict[str, Any] = info.card_data.to_dict() if info.card_data else {}
        sha, parts = str(info.sha), _parts(_files(info), card)
        if not parts and revision is None:
            try:
                converted: Any = HfApi().dataset_info(hub_id, revision=_CONVERTED, files_metadata=True)
            except RevisionNotFoundError:
                converted = None
            if converted is not None:
                sha, parts = str(converted.sha), _parts(_files(converted), {})
    if not parts:
        hint = f"Choose one with files of {', '.join(KINDS)}"
        raise DataError(f"{hub_id} has no data file that can be read", _suffixes(info), hint)
    licence = card.get("license") or ""
    licence = ", ".join(licence) if isinstance(licence, list) else str(licence)
    return HubDataset(hub_id=hub_id, revision=sha, licence=licence, is_gated=bool(info.gated), parts=parts)


def fetch_dataset(
    hub_id: str,
    config: str | None,
    split: str | None,
    to: Path,
    progress: Callable[[int, int], None],
    revision: str | None = None,
) -> tuple[Path, ...]:
    """The data files of one part of a dataset, downloaded into `to`, in their order.

    Args:
        progress: told how many bytes have come, of how many.
        revision: the one of `hub_info`, so that what was shown is what comes; else the present one.

    Raises:
        DataError: see `hub_info` and `HubDataset.part`; or it is too large, gated, or breaks off.
    """
    from huggingface_hub import HfApi

    dataset = hub_info(hub_id, revision)
    part = dataset.part(config, split)
    if part.bytes > MAX_BYTES:
        hint = f"Choose one of at most {MAX_BYTES / 1e9:.1f} GB"
        raise DataError(f"{hub_id} is too large to read: it has {part.bytes / 1e9:.1f} GB", hint=hint)
    count = counter(part.bytes, progress)
    found = []
    with told(hub_id, "dataset", DataError):
        for file in part.files:
            place = HfApi().hf_hub_download(
                hub_id, file.path, repo_type="dataset", revision=dataset.revision, local_dir=to, tqdm_class=count
            )
            found.append(Path(place))
    progress(part.bytes, part.bytes)
    return tuple(found)


# From files to parts


def _files(info: Any) -> list[HubFile]:
    """The files of a dataset that can be read and hold data."""
    found = [HubFile(path=file.rfilename, bytes=int(file.size or 0)) for file in info.siblings or ()]
    return [file for file in found if _is_data(file.path)]


def _is_data(path: str) -> bool:
    parts = PurePosixPath(path).parts
    is_hidden = any(part.startswith(".") or part == ".." for part in parts)
    return not is_hidden and bool(kind_of_file(path)) and suffix_of(path).name != ".md"


def _parts(files: Sequence[HubFile], card: dict[str, Any]) -> tuple[HubPart, ...]:
    """The splits of all configurations, by the card where it says, else by the names of the files."""
    said = card.get("configs")
    configs = [config for config in said if isinstance(config, dict)] if isinstance(said, list) else []
    named = [part for config in configs for part in _parts_of_config(files, config)]
    if named:
        return tuple(named)
    files = _of_best_kind(files)
    groups: dict[tuple[str, str], list[HubFile]] = {}
    for file in files:
        groups.setdefault((_config_of(file.path), _split_of(file.path)), []).append(file)
    return tuple(_part(config, split, found) for (config, split), found in sorted(groups.items()))


def _parts_of_config(files: Sequence[HubFile], config: dict[str, Any]) -> Iterator[HubPart]:
    """The splits of one configuration of a card, whose `data_files` are a pattern, several, or several by split."""
    name, said = str(config.get("config_name", "default")), config.get("data_files")
    folder = str(config.get("data_dir") or "")
    entries = said if isinstance(said, list) else [said] if said else [f"{folder}/*" if folder else f"{name}/*"]
    by_split: dict[str, list[str]] = {}
    for entry in entries:
        patterns = entry.get("path") if isinstance(entry, dict) else entry
        split = str(entry.get("split", "train")) if isinstance(entry, dict) else ""
        found = [patterns] if isinstance(patterns, str) else patterns if isinstance(patterns, list) else []
        by_split.setdefault(split, []).extend(str(PurePosixPath(folder, str(pattern))) for pattern in found)
    for split, patterns in by_split.items():
        matching = _of_best_kind([file for file in files if any(_matches(file.path, each) for each in patterns)])
        splits = sorted({split or _split_of(file.path) for file in matching})
        for each in splits:
            yield _part(name, each, [file for file in matching if split or _split_of(file.path) == each])


def _matches(path: str, pattern: str) -> bool:
    return fnmatch(path, pattern) or fnmatch(path, pattern.replace("**/", ""))


def _part(config: str, split: str, files: Sequence[HubFile]) -> HubPart:
    return HubPart(config=config, split=split, files=tuple(sorted(files, key=lambda file: file.path)))


def _of_best_kind(files: Sequence[HubFile]) -> list[HubFile]:
    for kind in _KINDS_BY_PREFERENCE:
        if found := [file for file in files if kind_of_file(file.path) == kind]:
            return found
    return []


def _config_of(path: str) -> str:
    """The first folder of a file, where that is more than a place for data."""
    folders = PurePosixPath(path).parts[:-1]
    first = folders[0] if folders else "data"
    return "default" if first == "data" or first.lower() in _SPLITS else first


def _split_of(path: str) -> str:
    """The split that a file's name or folder tells; `train` where none does."""
    parts = PurePosixPath(path).parts
    if shard := _SHARD.fullmatch(parts[-1]):
        return shard["split"]
    if len(parts) > 1 and parts[-1].split(".")[0].isdecimal():  # config/split/0000.parquet
        return parts[-2]
    words = [word for part in reversed(parts) for word in re.split(r"[^a-z]+", part.lower())]
    return next((_SPLITS[word] for word in words if word in _SPLITS), "train")


def _suffixes(info: Any) -> str:
    found = sorted({PurePosixPath(file.rfilename).suffix for file in info.siblings or ()} - {""})
    return f"it has {', '.join(found[:10])}" if found else "it is empty"
