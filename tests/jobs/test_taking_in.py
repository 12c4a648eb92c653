"""A file of JSON lines becomes the same dataset to the byte, whether its rows go the quick way or the usual one."""

from __future__ import annotations

import gzip
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.data.formats.mapping import Mapping
from core.data.health.json_columns import is_plain
from core.data.reading import RecordStream
from core.errors import DataError
from jobs import taking_in
from jobs.home import DatasetFolder
from jobs.taking_in import Order, take_in
from tests.core.data.health.planted import words
from tests.core.data.health.test_json_columns import MAPPINGS, ODD_LINES, TEXTS, odd_line

ESCAPED = (
    'a "quoted" \\ b', "tab\tand\r\nline", "\b\f", "bell\x07", "\x01\x02\x1f", "\x7f", "\u2028\u2029", "\ud7ff\ue000",
    "grüße", "世界" * 9, "🙂", '"', "\\", "\n", "mail jane.doe@firm.org", "card 4111 1111 1111 1111", "Ã¼", "\ufffd",
)  # fmt: skip
NAMES = [f"{mapping.format}-{len(mapping.columns)}" for mapping in MAPPINGS]


def said(chance: random.Random) -> str:
    """Text that is mostly words."""
    return chance.choice([*ESCAPED, *TEXTS]) if chance.random() < 0.3 else words(chance, chance.randint(2, 9))


def sound_line(chance: random.Random, mapping: Mapping) -> bytes:
    """A row of the format, mostly with nothing wrong."""
    who, what = ("from", "value") if mapping.format == "sharegpt" else ("role", "content")
    asks, answers = chance.choice([("user", "assistant"), ("human", "gpt")])
    turns = [{who: speaker, what: said(chance)} for speaker in (asks, answers) * chance.choice([1, 1, 1, 2])]
    if chance.random() < 0.2:
        turns.insert(0, {who: "system", what: said(chance)})
    label = chance.choice(["yes", " no ", 'q"', 3, "ü", "3"])
    last = label if mapping.format == "labeled" else said(chance)
    return orjson.dumps({"a": said(chance), "b": last, "c": said(chance), "messages": turns, "more": chance.random()})


def file_of(seed: int, mapping: Mapping) -> bytes:
    """A file in which some rows are something else."""
    chance = random.Random(seed)
    oddity = chance.choice([0.0, 0.02, 0.2, 1.0])
    lines = [sound_line(chance, mapping) for _ in range(chance.randint(1, 60))]
    lines += chance.choices(lines, k=chance.randint(0, 5))
    lines = [odd_line(chance) if chance.random() < oddity else line for line in lines]
    end = chance.choice([b"\n", b"\n", b"\r\n"])
    content = end.join(lines) + chance.choice([end, b"", end * 3, b"  "])
    marked = b"\xef\xbb\xbf" + content if chance.random() < 0.1 else content
    return content.decode(errors="ignore").encode("utf-16") if chance.random() < 0.1 else marked


@contextmanager
def way(is_quick: bool, block: int = 4 << 20, longest: int = 64 << 20) -> Iterator[None]:
    """A file is read the quick way or the usual one, in blocks and with lines of so many bytes."""
    with (
        patch.object(taking_in, "is_plain", is_plain if is_quick else lambda mapping: False),
        patch.object(taking_in, "BLOCK_BYTES", block),
        patch("core.data.readers.sources.BLOCK_BYTES", block),
        patch("core.data.readers.texts.MAX_ROW_BYTES", longest),
        patch("core.data.health.lines._SMALLEST_BYTES", block // 8),
    ):
        yield


def taken(path: Path, name: str, folder: Path, mapping: Mapping | None = None) -> tuple[Any, dict[str, bytes]]:
    """What is said of an order, and the files that came of it."""
    draft = DatasetFolder(folder)
    try:
        told: Any = take_in(Order(source=path, name=name, mapping=mapping), draft)
    except DataError as error:
        told = (type(error), error.title, error.detail, error.hint)
    files = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    return told, files


def both_ways(
    content: bytes, folder: Path, mapping: Mapping | None = None, name: str = "rows.jsonl", **sizes: int
) -> tuple[Any, dict[str, bytes]]:
    """What comes of a file by the quick way, held to what comes of it by the usual one."""
    path = folder / name
    path.write_bytes(content)
    with way(True, **sizes):
        quick = taken(path, name, folder / "quick", mapping)
    with way(False, **sizes):
        usual = taken(path, name, folder / "usual", mapping)
    assert quick[0] == usual[0]
    assert sorted(quick[1]) == sorted(usual[1])
    for file, held in usual[1].items():
        assert quick[1][file] == held, file
    return quick


@pytest.mark.parametrize("mapping", MAPPINGS, ids=NAMES)
@given(seed=st.integers(0, 2**32), block=st.sampled_from([200, 1500, 4 << 20]), is_told=st.booleans())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_both_ways_give_the_same_dataset(
    tmp_path_factory: pytest.TempPathFactory, mapping: Mapping, seed: int, block: int, is_told: bool
) -> None:
    both_ways(file_of(seed, mapping), tmp_path_factory.mktemp("rows"), mapping if is_told else None, block=block)


@given(
    rows=st.lists(st.tuples(st.text(max_size=30), st.text(st.characters(max_codepoint=127), max_size=30)), max_size=9)
)
@settings(max_examples=60, deadline=None)
def test_any_text_is_written_as_it_always_was(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    lines = [orjson.dumps({"prompt": asked, "completion": answered}) for asked, answered in [("a", "b"), *rows]]
    both_ways(b"\n".join(lines), tmp_path_factory.mktemp("rows"))


def chats(count: int, seed: int = 0) -> list[bytes]:
    """Lines of sound conversations."""
    chance = random.Random(seed)
    return [
        orjson.dumps({"messages": [
            {"role": "user", "content": words(chance, 8)}, {"role": "assistant", "content": words(chance, 12)},
        ]})
        for _ in range(count)
    ]  # fmt: skip


TYPED = (
    b'{"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, {"role": "gpt", "content": "Yes"}]}'
)
GERMAN = '{"prompt": "größer als früher", "completion": "schön für die Straße"}'
LONG = orjson.dumps({"messages": [{"role": "user", "content": "long " * 900}, {"role": "gpt", "content": "y"}]})
FILES = {
    "nothing wrong": b"\n".join(chats(300)),
    "rows of other shapes among them": b"\n".join([*chats(150), TYPED, *chats(200, 1), TYPED, TYPED, *chats(9, 2)]),
    "every kind of broken line": b"\n".join([*chats(110), *ODD_LINES, *chats(9, 1), *ODD_LINES]),
    "blank lines": b"\n\n  \n" + b"\n\n".join(chats(150)) + b"\n\n",
    "line ends of Windows": b"\r\n".join(chats(150)),
    "a byte order mark": b"\xef\xbb\xbf" + b"\n".join(chats(150)),
    "UTF-16": b"\n".join(chats(150)).decode().encode("utf-16"),
    "Windows-1252": "\n".join([GERMAN] * 5).encode("cp1252"),
    "rows that are lists": b"\n".join([b'["Hi", "Ahoy"]'] * 120),
    "objects after lists": b"\n".join([b'["Hi", "Ahoy"]'] * 120 + chats(3)),
    "only rows that cannot be trained on": b'{"prompt": "a", "completion": ""}\n' * 130,
    "another format after the first rows": b"\n".join([*chats(120), *[b'{"prompt": "a", "completion": "b"}'] * 30]),
    "lines longer than a block": b"\n".join([*chats(120), LONG, *chats(3, 1), LONG]),
    "nothing": b"",
    "a table": b"a,b\n1,2\n",
    "a letter of no encoding far behind": b"\n".join([*chats(200), b'{"messages": "\xff\xfe"}', "世界".encode()]),
    "many classes": b"\n".join(b'{"text": "t%d", "label": "l%d"}' % (number, number) for number in range(130)),
}  # fmt: skip


@pytest.mark.parametrize("block", [700, 4 << 20])
@pytest.mark.parametrize("kind", FILES)
def test_both_ways_agree_on(kind: str, block: int, tmp_path: Path) -> None:
    both_ways(FILES[kind], tmp_path, block=block)


def test_both_ways_agree_on_what_is_packed(tmp_path: Path) -> None:
    content = gzip.compress(FILES["every kind of broken line"])

    told, _ = both_ways(content, tmp_path, name="rows.jsonl.gz", block=900)

    assert told.rows > 110 and told.skipped


@pytest.mark.parametrize("end", [b"\n", b""])
@pytest.mark.parametrize("block", [700, 3000])
def test_a_line_that_is_too_long_is_told_and_the_others_are_read(end: bytes, block: int, tmp_path: Path) -> None:
    limit = len(max(chats(120), key=len))
    lines = [*chats(60), LONG, *chats(60), LONG]

    told, _ = both_ways(b"\n".join(lines) + end, tmp_path, block=block, longest=limit)

    assert (told.rows, told.skipped) == (120, 2)
    assert "Line 61 of rows.jsonl is longer than" in told.problem.title


def test_sound_rows_all_go_the_quick_way_and_rows_of_other_shapes_take_few_with_them(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join([*chats(4000), TYPED, *chats(4000, 1)]))
    slow: list[int] = []
    usual = RecordStream.of_lines

    def noted(stream: RecordStream, numbered: Any) -> Any:
        slow.extend(number for number, _ in numbered)
        return usual(stream, numbered)

    with patch.object(RecordStream, "of_lines", noted), way(True, block=400_000):
        told = take_in(Order(source=path, name=path.name), DatasetFolder(tmp_path / "draft"))

    assert told.rows == 8001 and 4001 in slow and len(slow) < 400


def test_progress_is_told_and_ends_with_all_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join([*chats(500), b"{no json", *chats(500, 1)]))
    heard: list[tuple[int, float | None]] = []

    with way(True, block=5000), patch.object(taking_in, "TELL_SECONDS", 0.0):
        take_in(Order(source=path, name=path.name), DatasetFolder(tmp_path / "draft"), lambda *told: heard.append(told))

    reading = [rows for rows, compared in heard if compared is None]
    assert reading == sorted(reading) and reading[-1] == 1001 and len(reading) > 10
    assert heard[-1] == (1000, 1.0)


def test_whoever_stops_listening_stops_the_reading(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(chats(5000)))

    def leave(rows: int, compared: float | None) -> None:
        raise InterruptedError(f"after {rows} rows")

    with way(True, block=5000), patch.object(taking_in, "TELL_SECONDS", 0.0), pytest.raises(InterruptedError):
        take_in(Order(source=path, name=path.name), DatasetFolder(tmp_path / "draft"), leave)

    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("lines")]
