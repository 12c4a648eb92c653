"""Takes dataset files in: reads them, keeps the source and the rows that came of it, and knows the examples."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from core.data.reading import read_dataset
from core.data.records import Record, read_records, write_records
from core.durable import flush, flush_all
from core.errors import DataError, NotFound
from jobs.home import EXAMPLES, Home
from jobs.ids import new_id
from jobs.names import checked_name, file_title
from jobs.room import require_room
from jobs.store import Store
from jobs.views import Dataset, Example

_EXAMPLES = (
    ("captain", "The Captain", "A persona: an old sailor answers everyday questions in a sea dog's words."),
    ("to_json", "To JSON", "Text to JSON: short orders and notes become objects with five fields."),
)


@dataclass(frozen=True, slots=True)
class Datasets:
    """The datasets of one home."""

    home: Home
    store: Store

    def add(
        self, path: Path, name: str | None = None, skip_bad_rows: bool = False, example_key: str | None = None
    ) -> Dataset:
        """Read the file at `path` and keep it, under its own name if no other is given. A refused file leaves nothing.

        Raises:
            DataError: it is not a regular file, or no dataset can be read from it.
            ConfigError: the name is empty, too long or holds control characters.
            RunError: there is no room for it.
        """
        _check_regular(path)
        title = checked_name(name) if name is not None else file_title(path)
        reading = read_dataset(path, name=path.name, skip_bad_rows=skip_bad_rows)
        require_room(self.home, "The dataset", 2 * path.stat().st_size)
        values: dict[str, object] = {
            "id": new_id(),
            "example_key": example_key,
            "name": title,
            "rows": len(reading.records),
            "file_format": reading.file_format,
            "row_format": reading.row_format,
            "skipped": len(reading.problems),
        }
        folder = self.home.dataset(str(values["id"]))
        try:
            self._write(path, reading.records, folder)
            return self._register(folder, values)
        except OSError as error:
            why = error.strerror or str(error)
            raise DataError(f"The file {path.name} could not be kept", why, "Make room on the disk") from error

    def _write(self, source: Path, records: Sequence[Record], folder: Path) -> None:
        """Fill a folder beside `folder`, then move it there, so that a dataset is there as a whole or not at all."""
        draft = folder.with_name(f".{folder.name}")
        try:
            draft.mkdir()
            shutil.copyfile(source, draft / f"source{source.suffix.lower()}")
            write_records(records, draft / self.home.records(folder.name).name)
            flush_all(draft)
            draft.rename(folder)
            flush([folder.parent])
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _register(self, folder: Path, values: dict[str, object]) -> Dataset:
        try:
            dataset = self.store.add_dataset(values)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if dataset.id != values["id"]:  # somebody added the same example at the same moment
            shutil.rmtree(folder, ignore_errors=True)
        return dataset

    def add_example(self, key: str) -> Dataset:
        """The dataset made of the example `key`, made now if it is not there yet.

        Raises:
            NotFound: there is no such example.
        """
        example = next((example for example in examples() if example.key == key), None)
        if example is None:
            raise NotFound(f"There is no example {key}", hint=f"Choose from {', '.join(row[0] for row in _EXAMPLES)}")
        return self.store.example_dataset(key) or self.add(example.path, name=example.title, example_key=key)

    def preview(self, dataset_id: str, limit: int) -> tuple[Record, ...]:
        """The first `limit` rows."""
        return tuple(islice(read_records(self.home.records(self.store.dataset(dataset_id).id)), limit))


def examples() -> tuple[Example, ...]:
    """The datasets that come with the workbench."""
    found = []
    for key, title, description in _EXAMPLES:
        path = EXAMPLES / f"{key}.jsonl"
        with path.open("rb") as file:
            rows = sum(1 for line in file if line.strip())
        found.append(Example(key=key, title=title, description=description, rows=rows, path=path))
    return tuple(found)


def _check_regular(path: Path) -> None:
    if not path.exists():
        raise DataError(f"There is no file {path}", hint="Check the path")
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "not a regular file"
        raise DataError(f"{path} is {kind}", hint="Give the dataset's file itself")
    if not os.access(path, os.R_OK):
        raise DataError(f"{path} may not be read", hint="Change its permissions")
