"""Files of every supported kind, written to disk and read back through the one entry point."""

from __future__ import annotations

import json
from typing import Any

import pytest

from core.data.reading import read_dataset
from core.data.records import Passage
from core.errors import DataError
from tests.core.data.samples import (
    ANSWER,
    EXPECTED,
    PAIRS,
    ROLES,
    SPEAKERS,
    Writer,
    as_csv,
    as_parquet,
    exchanges,
    json_lines,
)


@pytest.mark.parametrize(
    ("name", "content", "file_format"),
    [
        ("a.jsonl", json_lines(PAIRS), "JSON Lines"),
        ("a.ndjson", json_lines(PAIRS), "JSON Lines"),
        ("A.JSONL", json_lines(PAIRS), "JSON Lines"),
        ("escaped.jsonl", "\n\n".join(json.dumps(row) for row in PAIRS), "JSON Lines"),
        ("a.json", json.dumps(PAIRS, indent=2), "JSON"),
        ("nested.json", json.dumps({"version": 2, "data": PAIRS}), "JSON"),
        ("columns.json", json.dumps({key: [row[key] for row in PAIRS] for key in PAIRS[0]}), "JSON"),
        ("pandas.json", json.dumps({key: {str(i): r[key] for i, r in enumerate(PAIRS)} for key in PAIRS[0]}), "JSON"),
        ("a.csv", as_csv(PAIRS), "CSV"),
        ("semicolon.csv", as_csv(PAIRS, ";"), "CSV"),
        ("tab.csv", as_csv(PAIRS, "\t"), "CSV"),
        ("pipe.csv", as_csv(PAIRS, "|"), "CSV"),
        ("a.tsv", as_csv(PAIRS, "\t"), "TSV"),
        ("a.parquet", as_parquet(PAIRS), "Parquet"),
    ],
)
def test_the_same_rows_are_read_from_every_file_format(
    write: Writer, name: str, content: Any, file_format: str
) -> None:
    reading = read_dataset(write(name, content))
    assert exchanges(reading.records) == EXPECTED
    assert (reading.file_format, reading.row_format) == (file_format, "prompt and completion")
    assert reading.problems == ()


@pytest.mark.parametrize(
    ("row", "row_format", "expected"),
    [
        ({"prompt": "Hi", "response": "Ahoy"}, "prompt and completion", ANSWER),
        ({"Question": "Hi", " Answer ": "Ahoy"}, "question and answer", ANSWER),
        ({"input": "Hi", "output": "Ahoy"}, "prompt and completion", ANSWER),
        ({"prompt": ROLES[:1], "completion": ROLES[1:]}, "prompt and completion", ANSWER),
        (
            {"system": "Be brief", "prompt": "Hi", "completion": "Ahoy"},
            "prompt and completion",
            [("system", "Be brief"), *ANSWER],
        ),
        ({"instruction": "Hi", "input": "", "output": "Ahoy"}, "Alpaca", ANSWER),
        ({"instruction": "Hi", "output": "Ahoy"}, "Alpaca", ANSWER),
        ({"instruction": "Hi", "input": None, "output": "Ahoy", "system": ""}, "Alpaca", ANSWER),
        ({"instruction": "Sum", "input": "1 2", "output": "3"}, "Alpaca", [("user", "Sum\n\n1 2"), ("assistant", "3")]),
        ({"messages": ROLES, "text": "rendered"}, "OpenAI messages", ANSWER),
        (
            {"messages": [{"role": "Human", "content": "Hi"}, {"role": "model", "content": "Ahoy"}]},
            "OpenAI messages",
            ANSWER,
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, ROLES[1]]},
            "OpenAI messages",
            ANSWER,
        ),
        ({"messages": [{"role": "developer", "content": "S"}, *ROLES]}, "OpenAI messages", [("system", "S"), *ANSWER]),
        ({"messages": json.dumps(ROLES)}, "OpenAI messages", ANSWER),
        ({"conversations": SPEAKERS, "system": "S"}, "ShareGPT", [("system", "S"), *ANSWER]),
        ({"conversations": ROLES}, "OpenAI messages", ANSWER),
    ],
)
def test_each_row_format_is_recognized(write: Writer, row: dict[str, Any], row_format: str, expected: Any) -> None:
    reading = read_dataset(write("a.jsonl", json_lines([row])))
    assert (reading.row_format, exchanges(reading.records)) == (row_format, [expected])


def test_text_columns_and_paragraphs_become_passages(write: Writer) -> None:
    assert read_dataset(write("a.jsonl", json_lines([{"text": " one "}]))).records == (
        Passage(text=" one ", source_row=1),
    )
    reading = read_dataset(write("a.txt", "\n\n  First line\nsecond line \n \t\n\nNext\n"))
    assert reading.records == (
        Passage(text="  First line\nsecond line ", source_row=3),
        Passage(text="Next", source_row=7),
    )
    assert (reading.file_format, reading.row_format) == ("plain text", "text")


def test_messages_survive_parquet_and_csv(write: Writer) -> None:
    row = {"id": 1, "messages": ROLES}
    assert exchanges(read_dataset(write("a.parquet", as_parquet([row]))).records) == [ANSWER]
    quoted = json.dumps(ROLES).replace('"', '""')
    assert exchanges(read_dataset(write("a.csv", f'messages\n"{quoted}"\n')).records) == [ANSWER]


def test_one_conversation_alone_in_a_json_file_is_one_row(write: Writer) -> None:
    assert exchanges(read_dataset(write("a.json", json.dumps({"messages": ROLES}))).records) == [ANSWER]
    assert exchanges(read_dataset(write("b.json", json.dumps(PAIRS[0]))).records) == EXPECTED[:1]


def test_turns_after_the_last_answer_are_cut(write: Writer) -> None:
    row = {"messages": [*ROLES, {"role": "user", "content": "Bye"}]}
    reading = read_dataset(write("a.jsonl", json_lines([row])))
    assert exchanges(reading.records) == [ANSWER]
    assert reading.problems == ()


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("line_break", ["\n", "\r\n"])
def test_encodings_and_line_breaks_change_no_record(write: Writer, name: str, encoding: str, line_break: str) -> None:
    content = {"a.jsonl": json_lines(PAIRS), "a.json": json.dumps(PAIRS, indent=1), "a.csv": as_csv(PAIRS)}.get(
        name, "Où est\nle café?\n\nIci\n"
    )
    plain = read_dataset(write(name, content))
    other = read_dataset(write(name, content.replace("\n", line_break).encode(encoding)))
    assert other.records == plain.records


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Elle est à côté du musée, près de la forêt.", "latin-1"),
        ("Ich heiße Jürgen und wohne in München.", "latin-1"),
        ("I want a café latte", "latin-1"),
        ("Jag är på väg till Malmö, då får vi äta räkor", "latin-1"),
        ("What’s up? “Nothing” – he said…", "cp1252"),
        ("Как приготовить борщ дома? Столица Франции называется Париж, и она стоит на реке Сене.", "cp1251"),
        ("Jak ugotować zupę? Stolicą Francji jest Paryż, który leży nad Sekwaną. Więc chodźmy.", "cp1250"),
        ("Yarın güneşli bir gün, çok güzel. Fransa'nın başkenti Paris'tir ve Seine nehri kıyısındadır.", "cp1254"),
    ],
)
def test_older_encodings_are_detected_and_named(write: Writer, text: str, encoding: str) -> None:
    reading = read_dataset(write("a.jsonl", json_lines([{"text": "Plain"}, {"text": text}]).encode(encoding)))
    assert [record.text for record in reading.records if isinstance(record, Passage)] == ["Plain", text]
    assert "read as cp125" in reading.file_format


@pytest.mark.parametrize(
    "content",
    [
        json_lines([{"text": "naïve café 🏴‍☠️"}]).encode()[:-5] + b'\xff"}\n',
        '{"text": "Dziękuję, świetnie, źle śpię"}'.encode("iso8859-2"),
        '{"text": "שלום עולם"}'.encode("cp1255"),
    ],
)
def test_a_doubtful_encoding_is_refused_with_the_byte(write: Writer, content: bytes) -> None:
    with pytest.raises(UnicodeDecodeError) as plain:
        content.decode()
    with pytest.raises(DataError, match=f"byte {plain.value.start} "):
        read_dataset(write("a.jsonl", content))


def test_text_is_never_changed(write: Writer) -> None:
    text = "  \u202bشكرا\u202c e\u0301 \u2028 👩‍👩‍👧\ttab\u00a0 "
    for name, content in (("a.jsonl", json_lines([{"text": text}])), ("a.csv", f'text,id\n"{text}",1\n')):
        assert read_dataset(write(name, content)).records[0] == Passage(
            text=text, source_row=1 if "json" in name else 2
        )


def test_rows_are_numbered_by_the_line_they_begin_on(write: Writer) -> None:
    jsonl = read_dataset(write("a.jsonl", '{"text": "a"}\n\n{"text": "b"}\n'))
    table = read_dataset(write("a.csv", 'text,id\n"a\nb",1\nc,2\n'))
    assert [record.source_row for record in jsonl.records] == [1, 3]
    assert [record.source_row for record in table.records] == [2, 4]


def test_the_uploaded_name_decides_the_format_and_is_the_one_mentioned(write: Writer) -> None:
    path = write("source.bin", json_lines(PAIRS))
    assert read_dataset(path, name="mine.jsonl").file_format == "JSON Lines"
    with pytest.raises(DataError, match=r"mine\.xyz"):
        read_dataset(path, name="mine.xyz")
