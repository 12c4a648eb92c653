"""A dataset's rows without those of some kinds, as the folder of a new version; the one it is made of stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from core.data.health.report import KINDS, rows_of
from core.data.row_index import open_records
from core.data.tokens.profile import TokenProfile
from core.durable import flush_all
from core.errors import DataError
from jobs.home import DatasetFolder
from jobs.taking_in import Taken, Tell, about_of, in_batches, keep_about, write_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleaning:
    """Which rows of the dataset in `parent` go: those of `kinds`, two of which a token `limit` decides on by the token
    profile in the folder `profile`.
    """

    parent: DatasetFolder
    kinds: Sequence[str]
    profile: Path | None = None
    limit: int = 0


def clean(cleaning: Cleaning, draft: DatasetFolder, tell: Tell) -> Taken:
    """Fill `draft` with the rows that stay; of copies, the first does.

    Raises:
        DataError: no row would be left, or it is not known which rows are of these kinds.
        OSError: the disk is full.
    """
    parent = cleaning.parent
    about = about_of(parent)
    if about is None or not parent.health.exists():
        raise DataError("This dataset has never been checked", hint="Upload its file again")
    gone = {row for kind in cleaning.kinds for row in _rows(cleaning, kind)}
    draft.path.mkdir()
    kept = (record for record in open_records(parent.records) if record.source_row not in gone)
    _, rows, _ = write_rows(in_batches(kept), draft, tell)
    if not rows:
        raise DataError("No row would be left", hint="Keep one of the kinds")
    titles = ", ".join(KINDS[kind].title for kind in cleaning.kinds)
    about = replace(about, note=f"{about.note}, {titles}" if about.note else f"without {titles}")
    keep_about(about, draft)
    flush_all(draft.path)
    return Taken(about=about, rows=rows)


def _rows(cleaning: Cleaning, kind: str) -> list[int]:
    """The source rows of a kind."""
    by_limit = {"over_limit": TokenProfile.rows_cut, "no_labels": TokenProfile.rows_without_labels}
    if kind not in by_limit:
        return [int(row) for row in rows_of(cleaning.parent.health, kind)]
    if cleaning.profile is None:
        raise DataError("The tokens of this dataset have not been counted", hint="Count them first")
    return [int(row) for row in by_limit[kind](TokenProfile(cleaning.profile), cleaning.limit)]
