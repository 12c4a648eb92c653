"""What a table tells of itself: what stands between its cells, and whether it has a header."""

from __future__ import annotations

import csv
import io
import random
from typing import Any

import pytest

from core.data.readers.files import open_table
from core.data.readers.headers import NO_HEADER
from core.data.rows import Problem, Row
from core.errors import DataError
from tests.core.data.samples import Writer


def opened(write: Writer, name: str, content: str | bytes) -> tuple[list[Any], tuple[str, ...]]:
    """The values of the rows of a file, and the remarks on it."""
    table = open_table(write(name, content), name)
    items = list(table.rows)
    assert not [item for item in items if isinstance(item, Problem)], items
    return [item.values for item in items if isinstance(item, Row)], tuple(table.remarks)


SEPARATORS = {",": (), ";": ("semicolons between cells",), "\t": ("tabs between cells",),
              "|": ("vertical bars between cells",)}  # fmt: skip
PROSE = ["Hello, world; yes, you", "Say: a | b, c; d", "x,y,z", "one\ttwo, three", 'He said "no, never";', ""]


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("separator", SEPARATORS)
def test_the_separator_is_found_whatever_stands_in_the_cells(write: Writer, separator: str, quoting: Any) -> None:
    """Written by the standard library, with cells full of the other separators, header included."""
    dice = random.Random(separator)
    for header in (["prompt", "completion"], ["Frage, kurz", "Antwort; lang", "Nr."]):
        rows = [[dice.choice(PROSE) for _ in header] for _ in range(30)]
        sink = io.StringIO()
        csv.writer(sink, delimiter=separator, quoting=quoting).writerows([header, *rows])
        found, remarks = opened(write, "a.csv", sink.getvalue())
        assert found == [dict(zip(header, row, strict=True)) for row in rows]
        assert remarks == SEPARATORS[separator]


def test_semicolons_between_cells_are_found_though_unquoted_cells_hold_more_commas(write: Writer) -> None:
    content = "Frage, ganz kurz;Antwort\nWer, wie, was, wo?;Ich, du, er\nWann?;Jetzt, sofort, gleich\n"
    found, remarks = opened(write, "a.csv", content)
    assert found[0] == {"Frage, ganz kurz": "Wer, wie, was, wo?", "Antwort": "Ich, du, er"}
    assert remarks == ("semicolons between cells",)


def test_one_column_of_prose_is_not_cut_at_its_commas(write: Writer) -> None:
    found, remarks = opened(write, "a.csv", 'text\nHello, you\nNo comma\n"Quoted, too"\n')
    assert found == [{"text": "Hello, you"}, {"text": "No comma"}, {"text": "Quoted, too"}]
    assert remarks == ("one column; commas in its cells are part of the text",)


def test_commas_in_a_file_called_tsv_are_remarked_on(write: Writer) -> None:
    found, remarks = opened(write, "a.tsv", "prompt,completion\nHi,Ahoy\n")
    assert (found, remarks) == ([{"prompt": "Hi", "completion": "Ahoy"}], ("commas between cells",))


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        ("Who are you today?,I am Jack.\nAnd she?,She is Jill.\n", ["column 1", "column 2"]),
        ("great film,pos\nbad film,neg\nboring,neg\nfine,pos\n", ["column 1", "column 2"]),
        ("1,Hi,Ahoy\n2,Bye,Farewell\n", ["column 1", "column 2", "column 3"]),
        (
            "A first line that is far too long to be the name of any column that a person would write or two\nb\n",
            ["text"],
        ),
    ],
)
def test_a_table_without_a_header_keeps_its_first_row_and_numbers_its_columns(
    write: Writer, content: str, columns: list[str]
) -> None:
    table = open_table(write("a.csv", content), "a.csv")
    rows = [item for item in table.rows if isinstance(item, Row)]
    assert NO_HEADER in table.remarks
    assert [row.number for row in rows] == list(range(1, content.count("\n") + 1))
    assert all(isinstance(row.values, dict) and list(row.values) == columns for row in rows)


@pytest.mark.parametrize(
    "header",
    ["prompt,completion", "Frage,Antwort", "text,2020", "Q,A", "question text,answer given", "id,1", "Wer fragt?,Wer?"],
)
def test_a_header_is_taken_for_one_unless_something_speaks_against_it(write: Writer, header: str) -> None:
    found, remarks = opened(write, "a.csv", f"{header}\nHi there you.,Ahoy\nBye,Farewell\n")
    expected = header.split(",")
    assert (list(found[0]) == expected) == (header != "Wer fragt?,Wer?")
    assert (NO_HEADER in remarks) == (header == "Wer fragt?,Wer?")


@pytest.mark.parametrize("content", ["", "\n\n", "a,b\n", "prompt;completion"])
def test_a_table_without_rows_has_none(write: Writer, content: str) -> None:
    assert opened(write, "a.csv", content)[0] == []


def test_rows_agree_with_the_standard_parser_on_tables_of_all_kinds(write: Writer) -> None:
    """Cells with quotes, breaks and separators, numbered by the line they begin on."""
    dice = random.Random(0)
    pieces = ['"', "\n", ",", "word ", "é", "\u2028", "\x0c", " "]
    for _ in range(30):
        rows = [["".join(dice.choices(pieces, k=dice.randrange(12))) + "x" for _ in range(3)] for _ in range(20)]
        sink = io.StringIO()
        writer = csv.writer(sink, lineterminator="\n")
        starts = []
        for row in [["prompt", "system", "completion"], *rows]:
            starts.append(sink.getvalue().count("\n") + 1)
            writer.writerow(row)
        table = open_table(write("a.csv", sink.getvalue()), "a.csv")
        items = [item for item in table.rows if isinstance(item, Row)]
        assert [list(item.values.values()) for item in items if isinstance(item.values, dict)] == rows
        assert [item.number for item in items] == starts[1:]


def test_a_header_that_cannot_be_read_is_refused(write: Writer) -> None:
    with pytest.raises(DataError, match="header of a.csv cannot be read"):
        open_table(write("a.csv", '"prompt,completion\na,b\n'), "a.csv")
