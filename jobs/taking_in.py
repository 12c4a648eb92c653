"""How a person's file becomes a dataset's folder: read once, as a stream, into rows, their index and their health.

Nothing here knows the store or a process: the command line does it in its own, the app in a child's (`jobs.intake`).
The folder is a draft until whoever ordered it puts it in place.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Self, TypeAlias

import orjson

from core.data.formats.mapping import Detection, Mapping, Unclear
from core.data.health.check import HealthCheck
from core.data.health.json_columns import is_plain
from core.data.health.lines import BLOCK_BYTES, Batch, batch_of, batches_of_lines
from core.data.health.near_search import with_near_duplicates
from core.data.health.report import Health
from core.data.readers.files import Table, open_files, open_path
from core.data.reading import RecordStream, refusal, stream_records, unsure
from core.data.records import Record
from core.data.row_index import RecordWriter
from core.data.rows import Problem, Row
from core.durable import flush_all
from core.errors import DataError
from jobs.home import DatasetFolder
from jobs.views import RunProblem

BATCH = 1000
TELL_SECONDS = 0.25
PROBLEMS_KEPT = 12  # more than a refusal names
_SAMPLE_ROWS, _SAMPLE_LETTERS = 5, 2000

Tell: TypeAlias = Callable[[int, float | None], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be read.

    `name` is what the person calls it, whose suffix says what it is. `mapping` is what the columns mean, where the
    person has said so; with `asks` they are to say so, however clear it seems. `files` are the parts of a dataset that
    came in several, in place of `source`.
    """

    source: Path
    name: str
    mapping: Mapping | None = None
    asks: bool = False
    files: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """How a dataset's rows came about. `note` says what was done to those of the dataset that it was made of; with
    `is_mapped` a person said what the columns mean.
    """

    file_format: str
    row_format: str
    mapping: Mapping
    why: str
    remarks: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    note: str = ""
    is_mapped: bool = False

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Self:
        """From plain values, as JSON has them."""
        lists = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **lists, "mapping": Mapping(**values["mapping"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What came of an order. `skipped` rows cannot be trained on, of which `problem` tells."""

    about: About
    rows: int
    skipped: int = 0
    problem: RunProblem | None = None

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Self:
        """From plain values, as JSON has them."""
        problem = RunProblem(**values["problem"]) if values["problem"] else None
        return cls(**{**values, "about": About.parse(values["about"]), "problem": problem})


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """What the columns of a file may mean: the best guess first, the columns, and some rows with long texts cut."""

    mappings: tuple[Mapping, ...]
    columns: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Self:
        """From plain values, as JSON has them."""
        mappings = tuple(Mapping(**mapping) for mapping in values["mappings"])
        return cls(mappings=mappings, columns=tuple(values["columns"]), rows=tuple(values["rows"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstPass:
    """What came of going through all rows once: the first problems, how many rows are sound and how many are not, and
    their health but for near-duplicates.
    """

    problems: list[Problem]
    rows: int
    skipped: int
    health: Health


class Unsure(DataError):
    """The columns do not say what they mean; `guess` is for a person to look at."""

    def __init__(self, guess: Guess, unclear: Unclear) -> None:
        super().__init__(unclear.title, unclear.detail, unclear.hint)
        self.guess = guess


def take_in(order: Order, draft: DatasetFolder, tell: Tell = lambda rows, compared: None) -> Taken:
    """Fill `draft` with what `order` names; `tell` hears now and then how many rows have been read and, once all have
    been, what share of them has been compared.

    Raises:
        DataError: the file cannot be read, or no row of it can be trained on.
        Unsure: nobody has said what the columns mean, and they do not tell.
        OSError: the disk is full.
    """
    draft.path.mkdir()
    stream = open_stream(order)
    problems, rows, skipped = write_rows(batches_of(stream), draft, tell)
    problem = refusal(problems, skipped, rows + skipped, order.name) if skipped else None
    if problem is not None and not rows:
        raise problem
    if not rows:
        raise DataError(f"No row of {order.name} is left", " ".join(stream.remarks), "Add rows that can be trained on")
    about = _about(stream, is_mapped=order.mapping is not None)
    keep_about(about, draft)
    if order.source.is_file() and not order.files:
        shutil.copyfile(order.source, draft.path / f"source{_suffix(order.name)}")
    flush_all(draft.path)
    told = RunProblem(title=problem.title, detail=problem.detail, hint=problem.hint) if problem is not None else None
    return Taken(about=about, rows=rows, skipped=skipped, problem=told)


def write_rows(batches: Iterable[Batch], draft: DatasetFolder, tell: Tell) -> tuple[list[Problem], int, int]:
    """Put rows and their health into `draft`; the first problems, and how many rows are sound and how many are not."""
    passed = first_pass(batches, draft, tell)
    health = passed.health
    if passed.rows:
        health = with_near_duplicates(health, draft.health, draft.records, draft.path, partial(tell, passed.rows))
    draft.health_summary.write_bytes(orjson.dumps(health.to_dict()))
    return passed.problems, passed.rows, passed.skipped


def first_pass(batches: Iterable[Batch], draft: DatasetFolder, tell: Tell) -> FirstPass:
    """Put rows into `draft`, and the rows' numbers of their health but for near-duplicates."""
    problems: list[Problem] = []
    check, skipped, told = HealthCheck(draft.health), 0, time.monotonic()
    with RecordWriter(draft.records) as writer:
        for batch in batches:
            check.add(batch.problems)
            if batch.examined is not None:
                check.take(batch.examined)
            problems += batch.problems[: PROBLEMS_KEPT - len(problems)]
            skipped += len(batch.problems)
            writer.append(batch.lines)
            if time.monotonic() - told >= TELL_SECONDS:
                told = time.monotonic()
                tell(writer.count + skipped, None)
    return FirstPass(problems=problems, rows=writer.count, skipped=skipped, health=check.finish())


def keep_about(about: About, folder: DatasetFolder) -> None:
    """Keep `about` in `folder`; `about_of` gives an equal one back."""
    folder.about.write_bytes(orjson.dumps(asdict(about), option=orjson.OPT_INDENT_2))


def about_of(folder: DatasetFolder) -> About | None:
    """How the rows of the dataset in `folder` came about; None for an older workbench's."""
    return About.parse(orjson.loads(folder.about.read_bytes())) if folder.about.exists() else None


def in_batches(items: Iterable[Record | Problem]) -> Iterator[Batch]:
    """Rows that went the usual way, as `write_rows` takes them."""
    rest = iter(items)
    while batch := list(islice(rest, BATCH)):
        yield batch_of(batch)


def batches_of(stream: RecordStream) -> Iterator[Batch]:
    """The rows of `stream`, the quick way where they can go it."""
    mapping = stream.detection.mapping
    if stream.json_lines is None or not is_plain(mapping):
        return in_batches(stream)
    return batches_of_lines(stream.json_lines.line_blocks(BLOCK_BYTES), mapping, stream.of_lines)


def _open(order: Order) -> Table:
    if order.files:
        return open_files(order.files, order.name)
    return open_path(order.source, order.name)


def open_stream(order: Order) -> RecordStream:
    """The records of what `order` names, where it is clear what the columns mean.

    Raises:
        DataError: it cannot be read, or not known what the columns mean (`Unsure`).
    """
    table = _open(order)
    try:
        stream = stream_records(table, order.name, order.mapping)
        if order.mapping is None and (order.asks or not stream.detection.is_sure):
            raise unsure(stream, order.name)
    except Unclear as error:
        raise Unsure(_guess(order, error.detection), error) from None
    return stream


def _about(stream: RecordStream, is_mapped: bool) -> About:
    detection = stream.detection
    return About(
        file_format=stream.file_format,
        row_format=detection.title,
        mapping=detection.mapping,
        why=detection.why,
        remarks=stream.remarks,
        unused=detection.unused,
        is_mapped=is_mapped,
    )


def _guess(order: Order, detection: Detection | None) -> Guess:
    """What may be meant, with the first rows, for which the file is opened once more."""
    head = (item.values for item in islice(_open(order).rows, _SAMPLE_ROWS) if isinstance(item, Row))
    rows = [values for values in head if isinstance(values, dict)]
    columns = tuple(dict.fromkeys(str(column) for row in rows for column in row))
    shown = tuple({str(key): _cut(value) for key, value in row.items()} for row in rows)
    mappings = (detection.mapping, *detection.alternatives) if detection is not None else ()
    return Guess(mappings=mappings, columns=columns, rows=shown)


def _cut(value: Any) -> Any:
    """A cell as it can be shown, and still be converted for a preview."""
    return value[:_SAMPLE_LETTERS] if isinstance(value, str) else value


def _suffix(name: str) -> str:
    """The end of a file's name that says what it is, `.jsonl.gz` as a whole."""
    suffixes = Path(name).suffixes
    return "".join(suffixes[-2:] if suffixes[-1:] == [".gz"] else suffixes[-1:]).lower()
