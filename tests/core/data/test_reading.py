"""Files of every supported kind, good and bad, written to disk and read back through the one entry point."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow  # type: ignore[import-untyped]
import pytest
from pyarrow import parquet

import core.data.files
from core.data.reading import read_dataset
from core.data.records import Conversation, Message, Passage, Record
from core.errors import DataError

EXAMPLES = Path(__file__).parents[3] / "examples"
PAIRS = [
    {"prompt": "Hello?", "completion": "Ahoy!"},
    {"prompt": '  Name, "please"\nnow', "completion": "Jack 🏴‍☠️ مرحبا "},
]

Writer = Callable[[str, Any], Path]


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """Writes a file from text (as UTF-8) or bytes."""

    def to_file(name: str, content: Any) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return to_file


def json_lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def as_csv(rows: list[dict[str, str]], delimiter: str = ",") -> str:
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    return "".join(delimiter.join('"' + cell.replace('"', '""') + '"' for cell in line) + "\n" for line in lines)


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return bytes(sink.getvalue())


def texts(record: Record) -> list[tuple[str, str]]:
    assert isinstance(record, Conversation)
    return [(message.role, message.content) for message in record.messages]


def exchanges(records: tuple[Record, ...]) -> list[list[tuple[str, str]]]:
    return [texts(record) for record in records]


EXPECTED = [[("user", row["prompt"]), ("assistant", row["completion"])] for row in PAIRS]


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


ANSWER = [("user", "Hi"), ("assistant", "Ahoy")]
ROLES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ahoy"}]
SPEAKERS = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ahoy"}]


@pytest.mark.parametrize(
    ("row", "row_format", "expected"),
    [
        ({"prompt": "Hi", "response": "Ahoy"}, "prompt and completion", ANSWER),
        ({"Question": "Hi", " Answer ": "Ahoy"}, "prompt and completion", ANSWER),
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


# What cannot be read


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", ""),
        ("a.jsonl", "\n \n"),
        ("a.json", ""),
        ("a.json", "[]"),
        ("a.json", '{"prompt": [], "completion": []}'),
        ("a.csv", ""),
        ("a.csv", "prompt,completion\n"),
        ("a.txt", "\n\n"),
        ("a.parquet", b""),
        ("a.parquet", as_parquet(PAIRS[:1])[:0] or as_parquet([])),
    ],
)
def test_an_empty_file_is_said_to_have_no_rows(write: Writer, name: str, content: Any) -> None:
    with pytest.raises(DataError, match="0 rows"):
        read_dataset(write(name, content))


PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


@pytest.mark.parametrize(
    ("name", "content", "looks_like"),
    [
        ("a.jsonl", PNG, "a PNG image"),
        ("a.txt", PNG, "a PNG image"),
        ("a.parquet", PNG, "a PNG image"),
        ("a.csv", b"PK\x03\x04rest", "Excel"),
        ("a.jsonl", as_parquet(PAIRS), "a Parquet file"),
        ("a.parquet", json_lines(PAIRS), "JSON"),
        ("a.jsonl", json.dumps(PAIRS), "a JSON list"),
        ("a.jsonl", json.dumps(PAIRS, indent=2), "a JSON list"),
        ("a.jsonl", json.dumps({"data": PAIRS}, indent=2), "one JSON object"),
        ("a.jsonl", as_csv(PAIRS), "a table"),
        ("a.json", json_lines(PAIRS), "JSON Lines"),
        ("a.csv", json_lines(PAIRS), "JSON"),
        ("a.txt", json_lines(PAIRS), "JSON"),
        ("a.json", "<!DOCTYPE html><html></html>", "a web page"),
        ("a.csv", "version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_named(
    write: Writer, name: str, content: Any, looks_like: str
) -> None:
    with pytest.raises(DataError, match="not what its name says") as caught:
        read_dataset(write(name, content))
    assert looks_like in caught.value.title
    assert caught.value.hint


@pytest.mark.parametrize("name", ["a.xlsx", "a.jsonl.gz", "noname", "a.pkl"])
def test_an_unknown_suffix_lists_the_supported_ones(write: Writer, name: str) -> None:
    with pytest.raises(DataError, match=r"\.jsonl, \.ndjson, \.json, \.csv, \.tsv, \.txt, \.md, \.parquet"):
        read_dataset(write(name, "x"))


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    for name in ("absent.csv", "folder.csv"):
        with pytest.raises(DataError, match="cannot be opened"):
            read_dataset(tmp_path / name)


def test_a_huge_file_is_refused_by_its_size_alone(tmp_path: Path) -> None:
    path = tmp_path / "huge.jsonl"
    with path.open("wb") as file:
        file.truncate(10_000_000_000)
    with pytest.raises(DataError, match="too large to read: it has 10.0 GB"):
        read_dataset(path)


def test_a_parquet_file_that_unpacks_to_too_much_is_refused(write: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("a.parquet", as_parquet([{"text": f"{number} " * 50} for number in range(1000)]))
    monkeypatch.setattr(core.data.files, "MAX_BYTES", path.stat().st_size + 10)
    with pytest.raises(DataError, match="unpacks to"):
        read_dataset(path)


@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_a_damaged_parquet_file_is_refused(write: Writer, cut: float) -> None:
    whole = as_parquet(PAIRS * 50)
    with pytest.raises(DataError, match="damaged"):
        read_dataset(write("a.parquet", whole[: int(len(whole) * cut)]))


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet", "a.json"])
def test_unknown_columns_are_listed_with_what_is_expected(write: Writer, name: str) -> None:
    rows = [{"Frage": "Hi", "Antwort": "Ahoy"}]
    contents = {
        "a.jsonl": json_lines(rows),
        "a.csv": as_csv(rows),
        "a.parquet": as_parquet(rows),
        "a.json": json.dumps(rows),
    }
    with pytest.raises(DataError, match=r"found: Frage, Antwort.*prompt and completion"):
        read_dataset(write(name, contents[name]))


def test_columns_are_told_from_the_first_rows_together(write: Writer) -> None:
    rows = [{"id": 1}, {"prompt": "Hi"}, {"prompt": "Hi", "completion": "Ahoy"}]
    reading = read_dataset(write("a.jsonl", json_lines(rows)), skip_bad_rows=True)
    assert exchanges(reading.records) == [ANSWER]
    assert [problem.title for problem in reading.problems] == ["Row 1 has no prompt", "Row 2 has no completion"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"prompt": ["a"], "completion": ["b", "c"]}', "prompt has 1, completion has 2"),
        ('{"train": [{"text": "a"}], "test": [{"text": "b"}]}', "train, test"),
        ("5", "it is a number"),
        ('[{"text": "a"}', "line 1, column"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_json_file_without_rows_says_why(write: Writer, content: str, expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        read_dataset(write("a.json", content))


def test_a_table_with_two_columns_of_one_name_is_refused(write: Writer) -> None:
    with pytest.raises(DataError, match="two columns named 'prompt'"):
        read_dataset(write("a.csv", "prompt,prompt,completion\na,b,c\n"))


# Rows that cannot be trained on

GOOD = {"messages": ROLES}


def test_a_broken_line_is_named_and_left_out_on_consent(write: Writer) -> None:
    lines = [json.dumps(GOOD)] * 9
    lines[6] = '{"messages": [{"role": "user"'
    path = write("x.jsonl", "\n".join(lines))
    with pytest.raises(DataError, match=r"Line 7 of x\.jsonl is not valid JSON"):
        read_dataset(path)
    reading = read_dataset(path, skip_bad_rows=True)
    assert ([problem.row for problem in reading.problems], len(reading.records)) == ([7], 8)


def test_rows_without_an_answer_are_counted_and_left_out_on_consent(write: Writer) -> None:
    rows = [{"messages": ROLES[:1]} if number in (41, 44, 50, 61) else GOOD for number in range(1, 100)]
    path = write("x.jsonl", json_lines(rows))
    with pytest.raises(DataError) as caught:
        read_dataset(path)
    assert str(caught.value) == (
        "Row 41 has no assistant message (and 3 more rows have problems: 44, 50, 61); "
        "add one or remove the row, or let bad rows be left out."
    )
    reading = read_dataset(path, skip_bad_rows=True)
    assert [problem.row for problem in reading.problems] == [41, 44, 50, 61]
    assert [record.source_row for record in reading.records] == [n for n in range(1, 100) if n not in (41, 44, 50, 61)]


@pytest.mark.parametrize(
    ("row", "title"),
    [
        ({"prompt": 5, "completion": "a"}, "has a prompt that is a number, not text"),
        ({"prompt": "a", "completion": None}, "has a completion that is null, not text"),
        ({"prompt": "a", "completion": " \n"}, "has an empty completion"),
        ({"prompt": "", "completion": "a"}, "has an empty prompt"),
        ({"prompt": "a\x00b", "completion": "a"}, "has a NUL character in its prompt"),
        ({"prompt": "a"}, "has no completion"),
        (["a", "b"], "is a list, not an object"),
        ("a", "is text, not an object"),
        (None, "is null, not an object"),
    ],
)
def test_a_row_of_the_wrong_kind_is_named(write: Writer, row: Any, title: str) -> None:
    path = write("a.jsonl", json_lines([PAIRS[0], row]))
    with pytest.raises(DataError, match=f"^Row 2 {title}"):
        read_dataset(path)
    assert exchanges(read_dataset(path, skip_bad_rows=True).records) == EXPECTED[:1]


@pytest.mark.parametrize(
    ("messages", "title"),
    [
        ([], "has no assistant message"),
        (None, "has messages that are null"),
        ("Hi", "has messages that are text"),
        (["Hi"], "has a message that is text"),
        ([{"content": "Hi"}], "has a message without a role"),
        ([ROLES[0], {"role": "tool", "content": "5"}, ROLES[1]], "has a message of the role 'tool'"),
        ([ROLES[0], {"role": "assistant", "content": ""}], "has an empty assistant message"),
        ([ROLES[0], {"role": "assistant", "content": None}], "has an assistant message that is null"),
        ([{"role": "user", "content": [{"type": "image_url"}]}, ROLES[1]], "has a user message with something else"),
    ],
)
def test_a_conversation_that_cannot_be_trained_on_is_named(write: Writer, messages: Any, title: str) -> None:
    with pytest.raises(DataError, match=f"^Row 2 ({title})"):
        read_dataset(write("a.jsonl", json_lines([GOOD, {"messages": messages}])))


@pytest.mark.parametrize("skip_bad_rows", [False, True])
@pytest.mark.parametrize("rows", [[{"messages": ROLES[:1]}] * 3, ["a", "b", "c"]])
def test_a_file_of_bad_rows_alone_is_refused_even_on_consent(
    write: Writer, rows: list[Any], skip_bad_rows: bool
) -> None:
    with pytest.raises(DataError, match=r"Row 1 .*none of the 3 rows"):
        read_dataset(write("a.jsonl", json_lines(rows)), skip_bad_rows=skip_bad_rows)


@pytest.mark.parametrize(
    ("line", "title"),
    [
        ("only one", "Line 3 of a.csv has 1 cells? where the header has 2"),
        ("a,b,c", "Line 3 of a.csv has 3 cells where the header has 2"),
        ('"a"b,c', "Line 3 of a.csv is not valid CSV"),
        ("a\x00,b", "Row 3 has a NUL character in its prompt"),
    ],
)
def test_a_broken_line_of_a_table_is_named_and_left_out_on_consent(write: Writer, line: str, title: str) -> None:
    path = write("a.csv", f"prompt,completion\na,b\n{line}\nc,d\n")
    with pytest.raises(DataError, match=f"^{title}"):
        read_dataset(path)
    assert [record.source_row for record in read_dataset(path, skip_bad_rows=True).records] == [2, 4]


def test_a_quote_that_is_never_closed_is_named_by_its_line(write: Writer) -> None:
    with pytest.raises(DataError, match=r"^Line 3 of a\.csv .*never closed"):
        read_dataset(write("a.csv", 'prompt,completion\na,b\n"c,d\ne,f\ng,h\n'))


def test_a_very_long_cell_is_read_whole(write: Writer) -> None:
    text = "word " * 200_000
    assert read_dataset(write("a.csv", f'text,id\n"{text}",1\n')).records == (Passage(text=text, source_row=2),)


def test_python_s_nan_in_another_column_does_no_harm(write: Writer) -> None:
    path = write("a.jsonl", '{"prompt": "Hi", "completion": "Ahoy", "score": NaN}\n')
    assert exchanges(read_dataset(path).records) == [ANSWER]


def test_damaged_files_give_no_other_error_than_ours(write: Writer) -> None:
    dice = random.Random(0)
    wholes = {
        "a.jsonl": json_lines(PAIRS).encode(),
        "a.json": json.dumps(PAIRS).encode(),
        "a.csv": as_csv(PAIRS).encode(),
    }
    wholes["a.parquet"] = as_parquet(PAIRS)
    for name, whole in wholes.items():
        for _ in range(60):
            damaged = bytearray(whole[: dice.randint(1, len(whole))])
            for _ in range(dice.randint(0, 4)):
                damaged[dice.randrange(len(damaged))] = dice.randrange(256)
            try:
                read_dataset(write(name, bytes(damaged)))
            except DataError as error:
                assert error.title


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.jsonl")), ids=lambda path: path.name)
def test_our_own_examples_are_sound(path: Path) -> None:
    reading = read_dataset(path)
    assert len(reading.records) == sum(bool(line.strip()) for line in path.read_bytes().splitlines())
    assert all(isinstance(record, Passage) or isinstance(record.messages[-1], Message) for record in reading.records)
