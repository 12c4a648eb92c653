"""The datasets of a home, as `service.data`: files taken in, versions made of them, and the examples."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from core.config import RunConfig, Task
from core.data.formats.mapping import Mapping as Columns
from core.data.health.report import KINDS, Health
from core.data.records import Record
from core.data.row_index import IndexedRecords, open_records
from core.durable import flush
from core.errors import DataError, NotFound
from jobs.home import EXAMPLES, DatasetFolder, Home
from jobs.ids import new_id
from jobs.intakes import Intake, Intakes
from jobs.names import checked_name, file_title
from jobs.room import require_room
from jobs.store import Store
from jobs.taking_in import About, Order, Taken, about_of, take_in
from jobs.tasks import check_task, task_of
from jobs.views import Dataset, Example

DRAFT_SECONDS = 3600.0  # without a change; then nobody is writing it any more

_EXAMPLES = (
    ("captain", "The Captain", "A persona: an old sailor answers everyday questions in a sea dog's words."),
    ("to_json", "To JSON", "Text to JSON: short orders and notes become objects with five fields."),
)


class Datasets:
    """The datasets of one home; `intakes` are the files that are on their way."""

    def __init__(self, home: Home, store: Store, environment: Mapping[str, str]) -> None:
        self._home, self._store = home, store
        self.intakes = Intakes(home, environment)

    def add(
        self,
        path: Path,
        name: str | None = None,
        skip_bad_rows: bool = False,
        example_key: str | None = None,
        mapping: Columns | None = None,
    ) -> Dataset:
        """Read the file or folder at `path` here and now and keep it, under its own name if no other is given. What is
        refused leaves nothing.

        Raises:
            DataError: no dataset can be read from it.
            ConfigError: the name is empty, too long or holds control characters.
            RunError: there is no room for it.
        """
        values = self._expect(path, name) | {"example_key": example_key}
        draft = DatasetFolder(self._home.datasets / f".{values['id']}")
        try:
            taken = take_in(Order(source=path, name=path.name, mapping=mapping), draft)
            if taken.problem is not None and not skip_bad_rows:
                problem = taken.problem
                raise DataError(problem.title, problem.detail, problem.hint)
            return self._publish(values, draft, taken)
        except OSError as error:
            why = error.strerror or str(error)
            raise DataError(f"The file {path.name} could not be kept", why, "Make room on the disk") from error
        finally:
            shutil.rmtree(draft.path, ignore_errors=True)

    def begin(self, path: Path, name: str | None = None, mapping: Columns | None = None) -> Intake:
        """Let a process of its own read the file or folder at `path`; ask `intakes` how it goes.

        Raises:
            DataError, ConfigError, RunError: as `add`, where that can be told at once.
        """
        values = self._expect(path, name)
        columns = {"format": mapping.format, "columns": dict(mapping.columns)} if mapping is not None else None
        order = {"source": str(path.resolve()), "name": path.name, "mapping": columns}
        return self.intakes.begin(order, path.name, partial(self._publish, values))

    def begin_elsewhere(self, place: str) -> Intake:
        """Let a process read the folder `place` or, where it is no path, the dataset of that id on Hugging Face; behind
        a blank each may come the configuration and the split that are meant.

        Raises:
            DataError, ConfigError, RunError: as `begin`.
        """
        if not place:
            raise DataError("No folder and no dataset id is given", hint="Type one")
        if "/" not in place.strip("/") or place.startswith(("/", ".", "~")) or Path(place).exists():
            return self.begin(Path(place).expanduser())
        hub_id, config, split, *_ = *place.split(), None, None
        values = {"id": new_id(), "name": checked_name(place)}
        order = {"hub": hub_id, "config": config, "split": split, "name": hub_id, "mapping": None}
        return self.intakes.begin(order, place, partial(self._publish, values))

    def begin_again(self, dataset_id: str) -> Intake:
        """Let a process open the dataset's file once more, to ask what its columns mean.

        Raises:
            NotFound: there is no such dataset.
            DataError: its file is not there.
        """
        dataset, source = self._store.dataset(dataset_id), self.source(dataset_id)
        if source is None:
            raise DataError(f"{dataset.name} has no file of its own", hint="Choose the dataset that it was made of")
        values = {"id": new_id(), "name": dataset.name}
        order = {"source": str(source), "name": source.name, "mapping": None, "asks": True}
        return self.intakes.begin(order, dataset.name, partial(self._publish, values))

    def begin_cleaning(
        self, dataset_id: str, kinds: Sequence[str], profile: Path | None = None, limit: int = 0
    ) -> Intake:
        """Let a process make a version of the dataset without its rows of these kinds.

        Args:
            profile: the folder of a token profile, for the kinds that depend on a token `limit`.

        Raises:
            NotFound: there is no such dataset.
            DataError: rows of such a kind cannot be removed.
            RunError: there is no room for it.
        """
        for kind in kinds:
            if kind not in KINDS or not KINDS[kind].removal:
                options = ", ".join(key for key, known in KINDS.items() if known.removal)
                raise DataError(f"There is no {kind!r} that could be removed", hint=f"Choose from {options}")
        parent = self._store.dataset(dataset_id)
        folder = self._home.dataset(parent.id)
        require_room(self._home, "The new version", folder.records.stat().st_size)
        version = 1 + max(each.version for each in self._store.datasets() if _is_kin(each, parent))
        values = {"id": new_id(), "name": parent.name, "parent_id": parent.parent_id or parent.id, "version": version}
        order = {"parent": str(folder.path), "kinds": list(kinds), "limit": limit}
        order |= {"profile": str(profile) if profile is not None else None}
        return self.intakes.begin(order, f"{parent.name}, version {version}", partial(self._publish, values))

    def all(self) -> tuple[Dataset, ...]:
        """Newest first."""
        return self._store.datasets()

    def get(self, dataset_id: str) -> Dataset:
        """Raises: NotFound."""
        return self._store.dataset(dataset_id)

    def examples(self) -> tuple[Example, ...]:
        """The datasets that come with the workbench."""
        return examples()

    def task_of(self, dataset_id: str) -> Task:
        """What a model can learn from the dataset. Raises: NotFound."""
        return task_of(self.rows(dataset_id, 0, 1))

    def check_task(self, config: RunConfig) -> None:
        """Refuse a task that the config's dataset is not for.

        Raises:
            NotFound: there is no such dataset.
            ConfigError: on `task`.
        """
        check_task(config.task, self.rows(config.data.dataset_id, 0, 1))

    def add_example(self, key: str) -> Dataset:
        """The dataset made of the example `key`, made now if it is not there yet.

        Raises:
            NotFound: there is no such example.
        """
        example = next((example for example in examples() if example.key == key), None)
        if example is None:
            raise NotFound(f"There is no example {key}", hint=f"Choose from {', '.join(row[0] for row in _EXAMPLES)}")
        return self._store.example_dataset(key) or self.add(example.path, name=example.title, example_key=key)

    def about(self, dataset_id: str) -> About | None:
        """How the dataset's rows came about; None for an older workbench's. Raises: NotFound."""
        return about_of(self._folder(dataset_id))

    def health(self, dataset_id: str) -> Health | None:
        """What is wrong with which rows; None for an older workbench's. Raises: NotFound."""
        summary = self._folder(dataset_id).health_summary
        return Health.from_dict(orjson.loads(summary.read_bytes())) if summary.exists() else None

    def kept(self, dataset_id: str) -> tuple[str, ...]:
        """The kinds of fault that somebody has looked at and left as they are. Raises: NotFound."""
        file = self._folder(dataset_id).kept
        return tuple(orjson.loads(file.read_bytes())) if file.exists() else ()

    def keep(self, dataset_id: str, kind: str, is_kept: bool = True) -> None:
        """Note that the rows of `kind` are to stay, or that this is open again.

        Raises:
            NotFound: there is no such dataset, or nothing of that kind in it.
        """
        health = self.health(dataset_id)
        if health is None or health.found(kind) is None:
            raise NotFound(f"This dataset has no {kind!r}", hint="Reload the page")
        others = [each for each in self.kept(dataset_id) if each != kind]
        self._folder(dataset_id).kept.write_bytes(orjson.dumps([*others, *([kind] if is_kept else [])]))

    def source(self, dataset_id: str) -> Path | None:
        """The file as it was given; None where there is none of its own. Raises: NotFound."""
        return self._folder(dataset_id).source

    def rows(self, dataset_id: str, first: int = 0, count: int = 20) -> tuple[Record, ...]:
        """As many as `count` rows from number `first` (from 0) on. Raises: NotFound."""
        return self._records(dataset_id).at(first, count)

    def number_from(self, dataset_id: str, source_row: int) -> int:
        """Which row (from 0) is the first that came of row `source_row` of the file, or of a later one.

        Raises:
            NotFound: there is no such dataset.
        """
        return self._records(dataset_id).number_from(source_row)

    def clear_drafts(self) -> None:
        """Remove what an app that was killed was reading; drafts of late may be another process's."""
        for draft in self._home.datasets.glob(".*"):
            with suppress(FileNotFoundError):  # whoever writes it has just moved it to its place
                if time.time() - max(path.stat().st_mtime for path in (draft, *draft.rglob("*"))) > DRAFT_SECONDS:
                    shutil.rmtree(draft)

    def close(self) -> None:
        """Give up what is still being read."""
        self.intakes.close()

    def _folder(self, dataset_id: str) -> DatasetFolder:
        return self._home.dataset(self._store.dataset(dataset_id).id)

    def _records(self, dataset_id: str) -> IndexedRecords:
        return open_records(self._folder(dataset_id).records)

    def _expect(self, path: Path, name: str | None) -> dict[str, Any]:
        """What is known of a dataset before it is read."""
        _check_readable(path)
        title = checked_name(name) if name is not None else file_title(path)
        size = path.stat().st_size if path.is_file() else sum(each.stat().st_size for each in path.iterdir())
        require_room(self._home, "The dataset", 2 * size)
        return {"id": new_id(), "name": title}

    def _publish(self, values: dict[str, Any], draft: DatasetFolder, taken: Taken) -> Dataset:
        """Move a whole draft to its place and register it."""
        folder = self._home.dataset(values["id"])
        draft.path.rename(folder.path)
        flush([folder.path.parent])
        about = taken.about
        found: dict[str, Any] = {"rows": taken.rows, "skipped": taken.skipped}
        found |= {"file_format": about.file_format, "row_format": about.row_format}
        try:
            dataset = self._store.add_dataset({**values, **found})
        except BaseException:
            shutil.rmtree(folder.path, ignore_errors=True)
            raise
        if dataset.id != values["id"]:  # somebody added the same example at the same moment
            shutil.rmtree(folder.path, ignore_errors=True)
        return dataset


def examples() -> tuple[Example, ...]:
    """The datasets that come with the workbench."""
    found = []
    for key, title, description in _EXAMPLES:
        path = EXAMPLES / f"{key}.jsonl"
        with path.open("rb") as file:
            rows = sum(1 for line in file if line.strip())
        found.append(Example(key=key, title=title, description=description, rows=rows, path=path))
    return tuple(found)


def _is_kin(dataset: Dataset, other: Dataset) -> bool:
    """Whether both are versions of one."""
    return (dataset.parent_id or dataset.id) == (other.parent_id or other.id)


def _check_readable(path: Path) -> None:
    if not path.exists():
        raise DataError(f"There is no file {path}", hint="Check the path")
    if not path.is_file() and not path.is_dir():
        raise DataError(f"{path} is not a regular file", hint="Give the dataset's file itself")
    if not os.access(path, os.R_OK):
        raise DataError(f"{path} may not be read", hint="Change its permissions")
