"""Which kinds of dataset files there are, by their suffixes, and which of many files belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import MappingProxyType

from core.errors import DataError

PLAIN_TEXT = "plain text"
KINDS: Mapping[str, str] = MappingProxyType(
    {".jsonl": "JSON Lines", ".ndjson": "JSON Lines", ".json": "JSON", ".csv": "CSV", ".tsv": "TSV",
     ".txt": PLAIN_TEXT, ".md": PLAIN_TEXT, ".parquet": "Parquet", ".xlsx": "Excel"}
)  # fmt: skip
SUFFIXES = (*KINDS, ".zip")
_ARCHIVES = frozenset({".zip", ".gz", ".tgz", ".tar", ".bz2", ".xz", ".7z", ".rar", ".zst"})
_ABOUT_DATA = frozenset({"dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json", "config.json"})
_NAMES_TO_TELL = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Suffix:
    """How a file's name ends, in lower case; `is_gzip` where `.gz` follows, as in `rows.jsonl.gz`."""

    name: str
    is_gzip: bool


def suffix_of(name: str) -> Suffix:
    """How the name of a file ends."""
    path = PurePosixPath(name)
    is_gzip = path.suffix.lower() == ".gz"
    return Suffix(name=PurePosixPath(path.stem if is_gzip else path.name).suffix.lower(), is_gzip=is_gzip)


def kind_of_file(name: str) -> str:
    """Which kind of dataset file a name is; empty for all others, and for what tools write about their data."""
    return "" if PurePosixPath(name).name in _ABOUT_DATA else KINDS.get(suffix_of(name).name, "")


def is_archive(name: str) -> bool:
    """Whether a name is that of files packed into one."""
    return PurePosixPath(name).suffix.lower() in _ARCHIVES


def unknown_kind(name: str) -> DataError:
    """What is said of a file that nothing here reads."""
    hint = f"Use a file of {', '.join(SUFFIXES)}, or one of them as .gz"
    return DataError(f"{name} is of a kind that cannot be read", hint=hint)


def kinds_among(names: Sequence[str]) -> tuple[str, ...]:
    """The kinds of dataset files that occur. Text beside other kinds is what is said about them, and no dataset."""
    kinds = sorted({kind for name in names if (kind := kind_of_file(name))})
    others = tuple(kind for kind in kinds if kind != PLAIN_TEXT)
    return others or tuple(kinds)


def same_kind(names: Sequence[str], where: str) -> str:
    """The one kind of dataset files in `where`.

    Raises:
        DataError: there is none, or more than one.
    """
    kinds = kinds_among(names)
    if not kinds:
        hint = f"Put files of {', '.join(KINDS)} in it"
        raise DataError(f"{where} holds no file that can be read", _some(names), hint)
    if len(kinds) > 1:
        raise DataError(f"{where} holds files of several kinds", ", ".join(kinds), "Keep the files of one kind in it")
    return kinds[0]


def told_apart(names: Sequence[str], kind: str) -> str:
    """A remark on how many files are read and which are not."""
    used = [name for name in names if kind_of_file(name) == kind]
    left = [name for name in names if kind_of_file(name) != kind]
    read = f"{len(used):,} files" if len(used) > 1 else f"one file, {used[0]}"
    if left:
        return f"read from {read}; left out: {_some(left)}"
    return f"read from {read}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES_TO_TELL:,} more" if len(names) > _NAMES_TO_TELL else ""
    return ", ".join(names[:_NAMES_TO_TELL]) + more
