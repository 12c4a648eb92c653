"""FAULTS.md, rows 16 to 30: files and rows that a person may bring, as the service reads them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pytest
from pyarrow import parquet

from core.data.records import Conversation, Record
from core.errors import DataError
from jobs.service import Service
from tests.faults.running import keep, lines


def records_hash(service: Service, file: Path) -> str:
    dataset = service.data.add(file)
    return hashlib.sha256((service.home / "datasets" / dataset.id / "records.jsonl").read_bytes()).hexdigest()


def texts(record: Record) -> list[str]:
    assert isinstance(record, Conversation)
    return [message.content for message in record.messages]


# ---- 16: no rows


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b""),
        ("a.jsonl", b"\xef\xbb\xbf\r\n"),
        ("a.json", b"[]"),
        ("a.csv", b"prompt,completion\r\n"),
        ("a.csv", "prompt,completion\n".encode("utf-16")),
        ("a.tsv", b"prompt\tcompletion"),
        ("a.txt", b"\n \n"),
        ("a.parquet", b""),
    ],
)
def test_a_file_without_rows_is_said_to_have_none_and_leaves_nothing(
    service: Service, tmp_path: Path, name: str, content: bytes
) -> None:
    with pytest.raises(DataError, match=f"{name} is empty: it has 0 rows"):
        service.data.add(keep(tmp_path, name, content))
    assert service.data.all() == () and list((service.home / "datasets").iterdir()) == []


# ---- 18: other encodings


def test_an_old_encoding_is_named_and_no_letter_is_changed(service: Service, tmp_path: Path) -> None:
    said = "Où est le café ? À côté du musée, près de la forêt."
    rows = lines([{"prompt": said, "completion": "Là-bas, derrière l’église."}])
    for encoding in ("cp1252", "utf-16", "utf-16-be"):
        dataset = service.data.add(keep(tmp_path, f"{encoding}.jsonl", rows.encode(encoding)))
        assert texts(service.data.rows(dataset.id)[0]) == [said, "Là-bas, derrière l’église."]
        is_guessed = encoding != "utf-16"  # the mark says it, so nothing is guessed
        assert (f"read as {encoding}" in dataset.file_format) == is_guessed


def test_a_broken_byte_is_told_with_its_place(service: Service, tmp_path: Path) -> None:
    content = lines([{"prompt": "naïve", "completion": "café 🏴"}]).encode()
    place = content.index("🏴".encode())
    with pytest.raises(DataError, match=rf"byte {place} \(0xf0\) is no valid UTF-8"):
        service.data.add(keep(tmp_path, "a.jsonl", content[: place + 2] + content[place + 3 :]))


# ---- 19: marks and line breaks


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
def test_a_mark_and_windows_line_breaks_give_the_same_hash_as_the_plain_file(
    service: Service, tmp_path: Path, name: str
) -> None:
    content = {
        "a.jsonl": lines([{"prompt": "Où?", "completion": "Là."}, {"prompt": "Wo?", "completion": "Süd."}]),
        "a.json": json.dumps([{"prompt": "Où?", "completion": "Là."}], indent=1, ensure_ascii=False),
        "a.csv": 'prompt,completion\nOù?,"Là,\nici"\n"Wo ""da""?",Süd\n',
        "a.txt": "Où est\nle café?\n\nIci\n",
    }[name]
    plain = records_hash(service, keep(tmp_path, name, content))
    windows = content.replace("\n", "\r\n")
    for other in (windows.encode(), content.encode("utf-8-sig"), windows.encode("utf-8-sig"), windows.encode("utf-16")):
        assert records_hash(service, keep(tmp_path, name, other)) == plain


# ---- 20: nested


def test_messages_inside_a_document_are_found_and_deeper_ones_are_named(service: Service, tmp_path: Path) -> None:
    """There is no picker: the refusal lists what was found there, and what would be understood."""
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ahoy"}]
    for document in ([{"messages": talk}], {"version": 2, "items": [{"id": 1, "messages": talk}]}, {"messages": talk}):
        dataset = service.data.add(keep(tmp_path, "a.json", json.dumps(document)))
        assert (dataset.row_format, texts(service.data.rows(dataset.id)[0])) == ("OpenAI messages", ["Hi", "Ahoy"])
    with pytest.raises(DataError, match=r"found: id, dialog\); say what the columns are, or name them .*messages"):
        service.data.add(keep(tmp_path, "b.jsonl", lines([{"id": 1, "dialog": {"messages": talk}}])))


# ---- 22: mixed types and nulls


def test_rows_of_mixed_types_are_numbered_and_left_out_only_with_consent(service: Service, tmp_path: Path) -> None:
    good = {"prompt": "a", "completion": "b"}
    bad: list[Any] = [{"prompt": None, "completion": "b"}, {"prompt": 7, "completion": "b"}, [1], None, {"prompt": "a"}]
    path = keep(tmp_path, "mixed.jsonl", lines([good, *bad, good]))
    with pytest.raises(DataError) as caught:
        service.data.add(path)
    assert "Row 2 has a prompt that is null" in caught.value.title
    assert "4 more rows have problems: 3, 4, 5, 6" in caught.value.detail and "left out" in caught.value.hint
    assert service.data.all() == ()
    dataset = service.data.add(path, skip_bad_rows=True)
    assert (dataset.rows, dataset.skipped) == (2, 5)
    assert [record.source_row for record in service.data.rows(dataset.id)] == [1, 7]


# ---- 23: NUL


def parquet_of(rows: list[dict[str, Any]], **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(rows), sink, **options)
    return bytes(sink.getvalue())


NUL = "a\x00b"
GOOD = {"prompt": "a", "completion": "b"}
NULS: dict[str, tuple[str, str | bytes, str]] = {
    "prompt": ("a.jsonl", lines([GOOD, GOOD | {"prompt": NUL}]), "Row 2 has a NUL character in its prompt"),
    "completion": ("a.json", json.dumps([GOOD, GOOD | {"completion": NUL}]), "Row 2 has a NUL .* completion"),
    "system": ("a.jsonl", lines([GOOD, GOOD | {"system": NUL}]), "Row 2 has a NUL .* system"),
    "message": (
        "a.jsonl",
        lines([{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": NUL}]}]),
        "Row 1 has a NUL .* assistant message",
    ),
    "label": ("a.jsonl", lines([{"text": "a", "label": "x"}, {"text": "b", "label": NUL}]), "Row 2 has a NUL .* label"),
    "text": ("a.txt", f"fine\n\nnot {NUL}\n", "Row 3 has a NUL .* text"),
    "cell": ("a.csv", f"prompt,completion\na,b\n{NUL},b\n", "Row 3 has a NUL .* prompt"),
    "raw": (
        "a.jsonl",
        lines([GOOD]).encode() + b'{"prompt": "a\x00b", "completion": "b"}\n',
        "Line 2 .*not valid JSON",
    ),
    "parquet": ("a.parquet", parquet_of([GOOD, GOOD | {"prompt": NUL}]), "Row 2 has a NUL .* prompt"),
}


@pytest.mark.parametrize("where", NULS)
def test_a_nul_is_told_with_its_row_wherever_it_stands(service: Service, tmp_path: Path, where: str) -> None:
    name, content, says = NULS[where]
    with pytest.raises(DataError, match=says):
        service.data.add(keep(tmp_path, name, content))
    assert service.data.all() == ()


# ---- 26: emoji and text from right to left


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_emoji_and_right_to_left_text_are_kept_to_the_byte(service: Service, tmp_path: Path, suffix: str) -> None:
    row = {"prompt": "👩‍👩‍👧‍👦 שלום \u202bعالم\u202c?", "completion": "e\u0301 🏴‍☠️ مرحبا بالعالم \u2028 नमस्ते"}
    table = "prompt,completion\n" + ",".join(f'"{cell}"' for cell in row.values()) + "\n"
    contents = {".jsonl": lines([row]), ".json": json.dumps([row]), ".csv": table, ".parquet": parquet_of([row])}
    dataset = service.data.add(keep(tmp_path, f"مرحبا🏴{suffix}", contents[suffix]))
    assert dataset.name == f"مرحبا🏴{suffix}"
    assert texts(service.data.rows(dataset.id)[0]) == list(row.values())
    kept = (service.home / "datasets" / dataset.id / "records.jsonl").read_bytes()
    assert all(text.encode() in kept for text in row.values())


def test_rows_without_anything_to_learn_are_refused_before_a_run_can_be_launched(
    service: Service, tmp_path: Path
) -> None:
    rows = [{"messages": [{"role": "user", "content": "Hello?"}]}, {"messages": []}]
    for skip in (False, True):
        with pytest.raises(DataError, match="Row 1 has no assistant message.*none of the 2 rows"):
            service.data.add(keep(tmp_path, "a.jsonl", lines(rows)), skip_bad_rows=skip)
    assert service.data.all() == ()
