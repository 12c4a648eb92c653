"""Nearly a hundred small files of as many dialects, each with what a person would say of it.

They lie in `tests/data/dialects`, with an index.

An entry names the format, the columns with their roles, the first record, and what is left over; with `alternatives` a
person has to be asked, with `unclear` nothing fits, and it lists the columns that are offered for mapping by hand.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import openpyxl  # type: ignore[import-untyped]
import pytest

from core.data.formats.detection import FORMATS, Detection, Mapping, Unclear, check_mapping, parse_mapping
from core.data.readers.files import open_table
from core.data.reading import RecordStream, read_dataset, stream_records
from core.data.records import Conversation, Labeled, Record
from core.data.rows import Problem
from tests.core.data.samples import as_parquet

DIALECTS = Path(__file__).parents[3] / "data" / "dialects"
ENTRIES: list[dict[str, Any]] = json.loads((DIALECTS / "index.json").read_text(encoding="utf-8"))
KNOWN = [entry for entry in ENTRIES if "format" in entry]
ASKED = [entry for entry in KNOWN if "alternatives" in entry]
UNCLEAR = [entry for entry in ENTRIES if "unclear" in entry]


def name_of(entry: dict[str, Any]) -> str:
    return str(entry["file"])


def opened(entry: dict[str, Any], folder: Path) -> Path:
    """The file, or the Parquet file or the Excel sheet that is made of it."""
    path = DIALECTS / entry["file"]
    if "as" not in entry:
        return path
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    made = (folder / path.name).with_suffix(f".{entry['as']}")
    if entry["as"] == "parquet":
        made.write_bytes(as_parquet(rows))
        return made
    book = openpyxl.Workbook()
    for cells in ([*rows[0]], *([*row.values()] for row in rows)):
        book.active.append(cells)
    book.save(made)
    return made


def stream(entry: dict[str, Any], folder: Path) -> RecordStream:
    path = opened(entry, folder)
    return stream_records(open_table(path, path.name), path.name)


def plain(record: Record) -> dict[str, Any]:
    """A record as the index writes it: what is as it mostly is goes unsaid, and JSON text is what it says."""
    values = {key: value for key, value in asdict(record).items() if value is not None}
    values["row"] = values.pop("source_row")
    if "tools" in values:
        values["tools"] = json.loads(values["tools"])
    for message in values.get("messages", ()):
        if message["weight"] == 1:
            del message["weight"]
        if message["tool_calls"] is not None:
            message["tool_calls"] = json.loads(message["tool_calls"])
    if "messages" in values:
        values["messages"] = [
            {key: value for key, value in message.items() if value is not None} for message in values["messages"]
        ]
    return values


def as_mapping(entry: dict[str, Any]) -> Mapping:
    return Mapping(format=entry["format"], columns=entry["columns"])


def test_there_are_as_many_dialects_as_promised_and_every_file_is_in_the_index() -> None:
    names = [entry["file"] for entry in ENTRIES]
    assert len(set(names)) == len(names) >= 48
    assert {path.name for path in DIALECTS.iterdir()} == {*names, "index.json"}
    assert {entry["format"] for entry in KNOWN} == set(FORMATS)


@pytest.mark.parametrize("entry", KNOWN, ids=name_of)
def test_what_the_columns_mean_is_found_or_asked(entry: dict[str, Any], tmp_path: Path) -> None:
    found = stream(entry, tmp_path)
    detection = found.detection
    assert detection.mapping == as_mapping(entry), detection.why
    assert detection.is_sure == ("alternatives" not in entry), detection.why
    assert detection.alternatives == tuple(map(as_mapping, entry.get("alternatives", ())))
    assert detection.unused == tuple(entry["unused"])


@pytest.mark.parametrize("entry", KNOWN, ids=name_of)
def test_the_first_record_says_what_the_row_says(entry: dict[str, Any], tmp_path: Path) -> None:
    found = stream(entry, tmp_path)
    items = list(found)
    assert not [item for item in items if isinstance(item, Problem)]
    assert isinstance(items[0], Record) and plain(items[0]) == entry["first"]
    assert entry.get("remarks", "") in " ".join(found.remarks)
    assert bool(found.remarks) == ("remarks" in entry)


@pytest.mark.parametrize("entry", KNOWN, ids=name_of)
def test_the_reason_is_one_sentence_that_names_the_columns(entry: dict[str, Any], tmp_path: Path) -> None:
    detection = stream(entry, tmp_path).detection
    assert detection.why[0].strip() and "\n" not in detection.why and not detection.why.endswith(".")
    said = {"rejected", "text", "label", "system", "tools", "history", "prompt"}  # roles that may go without saying
    for role, column in detection.mapping.columns.items():
        assert column.strip() in detection.why or role in said, (role, detection.why)


@pytest.mark.parametrize("entry", KNOWN, ids=name_of)
def test_mapping_by_hand_gives_the_same_records(entry: dict[str, Any], tmp_path: Path) -> None:
    path = opened(entry, tmp_path)
    by_hand = stream_records(open_table(path, path.name), path.name, as_mapping(entry))
    assert list(by_hand) == list(stream(entry, tmp_path))
    assert by_hand.detection.is_sure and by_hand.detection.unused == tuple(entry["unused"])


@pytest.mark.parametrize("entry", ASKED, ids=name_of)
def test_nobody_is_taken_at_a_guess(entry: dict[str, Any], tmp_path: Path) -> None:
    path = opened(entry, tmp_path)
    with pytest.raises(Unclear) as caught:
        read_dataset(path)
    assert caught.value.detection is not None and caught.value.detection.mapping == as_mapping(entry)
    for mapping in (as_mapping(entry), *map(as_mapping, entry["alternatives"])):
        reading = read_dataset(path, mapping=mapping)
        assert reading.records and reading.row_format == FORMATS[mapping.format].title


@pytest.mark.parametrize("entry", UNCLEAR, ids=name_of)
def test_where_nothing_fits_the_columns_are_offered_with_a_value(entry: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(Unclear, match="no columns that can be trained on") as caught:
        stream(entry, tmp_path)
    assert list(caught.value.columns) == entry["unclear"] and caught.value.detection is None
    assert all(len(value) <= 80 and "\n" not in value for value in caught.value.columns.values())
    assert all(caught.value.columns.values())


def test_texts_inside_of_objects_can_be_mapped_by_hand() -> None:
    path = DIALECTS / "unclear_translation.jsonl"
    columns = {"prompt": "translation.de", "completion": "translation.en"}
    reading = read_dataset(path, mapping=Mapping(format="prompt_completion", columns=columns))
    first = reading.records[0]
    assert isinstance(first, Conversation)
    assert [message.content for message in first.messages] == ["Leinen los", "Cast off"]


@pytest.mark.parametrize("entry", KNOWN[::10], ids=name_of)
def test_a_mapping_survives_json(entry: dict[str, Any]) -> None:
    mapping = as_mapping(entry)
    assert parse_mapping(json.loads(json.dumps(asdict(mapping)))) == mapping


def test_what_is_found_passes_the_check_of_what_is_mapped_by_hand(tmp_path: Path) -> None:
    for entry in KNOWN:
        found: Detection = stream(entry, tmp_path).detection
        names = [*found.unused, *(column.partition(".")[0] for column in found.mapping.columns.values())]
        for mapping in (found.mapping, *found.alternatives):
            check_mapping(mapping, names)


def test_labels_come_from_the_label_column_in_every_row() -> None:
    reading = read_dataset(DIALECTS / "labels.csv")
    assert [record.label for record in reading.records if isinstance(record, Labeled)] == [
        "complaint", "praise", "complaint", "praise",
    ]  # fmt: skip
