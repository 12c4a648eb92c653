"""What is wrong with a dataset: per kind how many rows, which, and what that does to a training.

A `Health` is small and JSON-able. All row numbers of a kind lie in a folder beside it, `KIND.npy`, `[rows] int64` in
ascending order, and for rows that repeat others `KIND.of.npy`, `[rows] int64`: the earlier row that each is like. Rows
are those of the file that the person gave us, as `source_row`.

`core.data.health.check` finds most kinds while records stream by, `core.data.health.near_duplicates` finds some in a
second pass, and the profile of tokens adds what only a tokenizer can tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Severity: TypeAlias = Literal["error", "warning", "note"]

FIRST_ROWS = 12
SAMPLES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of fault.

    Args:
        title: what the rows are, as the object of `12 …`, in the plural.
        sentence: what it does to a training.
        removal: what a removal leaves; empty where nothing can be removed.
        severity: an error costs rows or teaches what is wrong, a warning may, a note is to be looked at.
    """

    title: str
    sentence: str
    removal: str
    severity: Severity


_THEY_GO = "The rows are left out"
KINDS: MappingProxyType[str, Kind] = MappingProxyType({
    "unreadable": Kind(
        title="rows that cannot be read",
        sentence="They are left out; nothing is learned from them until the file is corrected.",
        removal="",
        severity="error",
    ),
    "empty": Kind(
        title="empty rows",
        sentence="A row without its question or its text teaches the model to answer nothing in particular.",
        removal=_THEY_GO,
        severity="error",
    ),
    "missing_answers": Kind(
        title="rows without an answer",
        sentence="There is nothing to learn in them: what is trained on is the answer.",
        removal=_THEY_GO,
        severity="error",
    ),
    "roles": Kind(
        title="rows whose turns are out of order",
        sentence="Templates of chat models expect the person and the model in turn; such rows render in ways that "
        "the model never sees later, or not at all.",
        removal=_THEY_GO,
        severity="warning",
    ),
    "keys": Kind(
        title="rows that hold what looks like a key or token",
        sentence="A model repeats what it has learned to whoever asks. Remove the rows, and have the keys changed.",
        removal=_THEY_GO,
        severity="error",
    ),
    "personal": Kind(
        title="rows that hold what looks like a mail address, telephone number, card or bank account",
        sentence="A model may repeat them word by word to people who should not have them.",
        removal=_THEY_GO,
        severity="warning",
    ),
    "duplicates": Kind(
        title="exact duplicates",
        sentence="Repeated rows count several times in every epoch; the model learns them by heart.",
        removal="The first of each stays",
        severity="warning",
    ),
    "contradictions": Kind(
        title="rows that answer an earlier row's prompt differently",
        sentence="Different answers to one prompt are fine if all of them are good; otherwise they cancel out.",
        removal="The first answer stays",
        severity="note",
    ),
    "near_duplicates": Kind(
        title="near-duplicates",
        sentence="Rows that differ in a few words weigh as much as copies. None is held out for evaluation while "
        "another is trained on, so what is measured is not memory.",
        removal="The first of each group stays",
        severity="warning",
    ),
    "over_limit": Kind(
        title="rows over the token limit",
        sentence="Their end is cut off, which is often the answer.",
        removal=_THEY_GO,
        severity="warning",
    ),
    "no_labels": Kind(
        title="rows that would lose everything that is trained",
        sentence="Within the token limit no token of an answer is left, so they are left out of the training.",
        removal=_THEY_GO,
        severity="error",
    ),
    "garbled": Kind(
        title="rows with garbled letters",
        sentence="Text was read in the wrong encoding (Ã¼ for ü) or letters were lost; the model learns to write so.",
        removal=_THEY_GO,
        severity="warning",
    ),
    "control_characters": Kind(
        title="rows with control characters",
        sentence="Invisible characters, mostly left by a terminal or a broken export, that the model learns to write.",
        removal=_THEY_GO,
        severity="warning",
    ),
    "short_answers": Kind(
        title="answers of one or two characters",
        sentence="Most answers here are much longer; these may be placeholders.",
        removal=_THEY_GO,
        severity="note",
    ),
    "long_rows": Kind(
        title="rows that are far longer than the others",
        sentence="The longest row sets how much memory a step needs, and its end may be cut off.",
        removal=_THEY_GO,
        severity="note",
    ),
    "lone_labels": Kind(
        title="rows whose class no other row has",
        sentence="A class of a single row cannot be learned and evaluated at once.",
        removal=_THEY_GO,
        severity="warning",
    ),
})  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The rows of one kind.

    Args:
        count: how many there are.
        first: the first of them.
        of: the row that each of `first` repeats; empty for most kinds.
        samples: what was found in some rows, masked where it is private, with the row.
    """

    kind: str
    count: int
    first: tuple[int, ...]
    of: tuple[int, ...] = ()
    samples: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What was looked for in a dataset and what was found.

    Args:
        rows: how many rows the file has, those that cannot be read included.
        records: how many can be trained on.
        checked: the kinds that were looked for.
        findings: one for each kind with at least one row, in the order of `KINDS`.
        labels: the classes by size, the largest first, where rows have one; no more than fifty.
        classes: how many classes there are.
        median_characters: of a record.
        longest: the row of the longest record, and its characters.
    """

    rows: int = 0
    records: int = 0
    checked: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    labels: tuple[tuple[str, int], ...] = ()
    classes: int = 0
    median_characters: int = 0
    longest: tuple[int, int] = (0, 0)

    def found(self, kind: str) -> Finding | None:
        """The rows of `kind`; None where there are none."""
        return next((finding for finding in self.findings if finding.kind == kind), None)

    @property
    def is_imbalanced(self) -> bool:
        """Whether the largest class has at least ten times the rows of the smallest that is shown."""
        return len(self.labels) > 1 and self.labels[0][1] >= 10 * self.labels[-1][1]

    def with_tokens(self, folder: Path, over_limit: NDArray[Any], no_labels: NDArray[Any]) -> Health:
        """With the rows that a token limit cuts, and those of which it leaves nothing to train."""
        return self.with_rows(folder, "over_limit", over_limit).with_rows(folder, "no_labels", no_labels)

    def with_rows(
        self,
        folder: Path,
        kind: str,
        rows: NDArray[Any],
        of: NDArray[Any] | None = None,
        samples: Sequence[tuple[int, str]] = (),
    ) -> Health:
        """With `rows` as those of `kind`, in place of earlier ones; their numbers are written into `folder`.

        Args:
            of: `[rows]`, which row each is like.
            samples: what was found, with its row, masked where it is private.
        """
        finding = write_rows(folder, kind, rows, of, samples)
        others = [known for known in self.findings if known.kind != kind]
        order = list(KINDS)
        findings = sorted([*others, *([finding] if finding.count else [])], key=lambda each: order.index(each.kind))
        checked = [known for known in order if known in (*self.checked, kind)]
        return replace(self, checked=tuple(checked), findings=tuple(findings))

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it; `from_dict` gives an equal one back."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Health:
        """What `to_dict` gave, perhaps by way of JSON."""
        findings = tuple(_finding(finding) for finding in values["findings"])
        pairs = {name: tuple(tuple(pair) for pair in values[name]) for name in ("labels",)}
        plain = {"checked": tuple(values["checked"]), "longest": tuple(values["longest"])}
        return Health(**{**values, **plain, **pairs, "findings": findings})


def _finding(values: dict[str, Any]) -> Finding:
    lists = {"first": tuple(values["first"]), "of": tuple(values["of"])}
    return Finding(**{**values, **lists, "samples": tuple(tuple(sample) for sample in values["samples"])})


def write_rows(
    folder: Path,
    kind: str,
    rows: NDArray[Any],
    of: NDArray[Any] | None = None,
    samples: Sequence[tuple[int, str]] = (),
) -> Finding:
    """Keep the rows of `kind` in `folder`, in ascending order, each once; what a `Health` says of them."""
    found, places = np.unique(rows.astype(np.int64), return_index=True)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{kind}.npy", found)
    like = None if of is None else of.astype(np.int64)[places]
    if like is not None:
        np.save(folder / f"{kind}.of.npy", like)
    return Finding(
        kind=kind,
        count=len(found),
        first=tuple(found[:FIRST_ROWS].tolist()),
        of=() if like is None else tuple(like[:FIRST_ROWS].tolist()),
        samples=tuple(samples[:SAMPLES]),
    )


def rows_of(folder: Path, kind: str) -> NDArray[np.int64]:
    """All rows of `kind`, in ascending order; none where it was not looked for."""
    return _read(folder / f"{kind}.npy")


def likes_of(folder: Path, kind: str) -> NDArray[np.int64]:
    """For each of `rows_of`, the earlier row that it is like; none for kinds that compare nothing."""
    return _read(folder / f"{kind}.of.npy")


def _read(path: Path) -> NDArray[np.int64]:
    if not path.is_file():
        return np.zeros(0, np.int64)
    rows: NDArray[np.int64] = np.load(path, allow_pickle=False)
    return rows
