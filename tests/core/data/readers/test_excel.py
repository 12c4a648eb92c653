"""Excel workbooks, written by openpyxl or by hand."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from datetime import date, datetime
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from core.data.readers.files import open_table
from core.data.readers.headers import NO_HEADER
from core.data.rows import Row
from core.errors import DataError
from jobs.home import PROJECT
from tests.core.data.samples import PAIRS, Writer

Sheets = dict[str, list[list[Any]]]


def workbook(sheets: Sheets) -> bytes:
    book = openpyxl.Workbook()
    book.remove(book.active)  # type: ignore[arg-type]
    for title, rows in sheets.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    sink = io.BytesIO()
    book.save(sink)
    return sink.getvalue()


def changed(content: bytes, name: str, old: bytes, new: bytes) -> bytes:
    """A workbook with something in one of its files replaced."""
    sink = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as target:
        for info in source.infolist():
            data = source.read(info)
            assert info.filename != name or old in data
            target.writestr(info.filename, data.replace(old, new) if info.filename == name else data)
    return sink.getvalue()


HEADER = ["prompt", "completion"]
SHEET = "xl/worksheets/sheet1.xml"


def opened(path: Path) -> tuple[list[Row], tuple[str, ...]]:
    table = open_table(path, path.name)
    assert table.file_format == "Excel"
    return [item for item in table.rows if isinstance(item, Row)], tuple(table.remarks)


def test_the_rows_of_the_first_sheet_that_has_any_are_read_and_the_others_named(write: Writer) -> None:
    rows = [HEADER, *(list(row.values()) for row in PAIRS)]
    path = write("a.xlsx", workbook({"empty": [], "data": rows, "notes": [["x"]]}))
    found, remarks = opened(path)
    assert [row.values for row in found] == PAIRS and [row.number for row in found] == [2, 3]
    assert remarks == ("read from the sheet 'data', not from 'empty', 'notes'",)
    assert opened(write("b.xlsx", workbook({"data": rows})))[1] == ()


def test_cells_are_text_as_a_csv_of_them_would_be(write: Writer) -> None:
    cells = [5, 5.0, 0.5, True, None, date(2026, 1, 2), datetime(2026, 1, 2, 3, 4), "007", -3]
    expected = ["5", "5", "0.5", "TRUE", "", "2026-01-02", "2026-01-02 03:04:00", "007", "-3"]
    rows = [HEADER, *([cell, "x"] for cell in cells)]
    found, _ = opened(write("a.xlsx", workbook({"a": rows})))
    assert [row.values for row in found] == [{"prompt": cell, "completion": "x"} for cell in expected]


def test_blank_rows_are_left_out_and_the_others_keep_excels_numbers(write: Writer) -> None:
    rows = [[], [], HEADER, ["a", "b"], [None, None], [], ["c", "d"], ["", ""]]
    found, _ = opened(write("a.xlsx", workbook({"a": rows})))
    assert [(row.number, row.values) for row in found] == [
        (4, {"prompt": "a", "completion": "b"}), (7, {"prompt": "c", "completion": "d"}),
    ]  # fmt: skip


def test_cells_beside_the_named_columns_are_left_out_and_remarked_on(write: Writer) -> None:
    rows = [[*HEADER, None], ["a", "b", "note"], ["c"], ["d", "e", None, "far out"]]
    found, remarks = opened(write("a.xlsx", workbook({"a": rows})))
    assert [row.values for row in found] == [
        dict(zip(HEADER, row, strict=True)) for row in (["a", "b"], ["c", ""], ["d", "e"])
    ]
    assert remarks == ("cells in columns without a name were left out",)


def test_a_sheet_without_a_header_keeps_its_first_row(write: Writer) -> None:
    found, remarks = opened(write("a.xlsx", workbook({"a": [["Who are you today?", "Jack."], ["And she?", "Jill."]]})))
    assert found[0].values == {"column 1": "Who are you today?", "column 2": "Jack."} and found[0].number == 1
    assert remarks == (NO_HEADER,)


def test_of_a_formula_the_stored_result_is_read(write: Writer) -> None:
    content = workbook({"a": [HEADER, ["a", "=1+1"]]})
    stored = changed(content, SHEET, b"<f>1+1</f><v />", b"<f>1+1</f><v>2</v>")
    assert opened(write("a.xlsx", stored))[0][0].values == {"prompt": "a", "completion": "2"}


def test_a_workbook_that_tells_a_wrong_size_is_read_whole(write: Writer) -> None:
    content = workbook({"a": [HEADER, ["a", "b"], ["c", "d"]]})
    assert len(opened(write("a.xlsx", changed(content, SHEET, b'ref="A1:B3"', b'ref="A1:A1"')))[0]) == 2


def test_a_workbook_without_rows_has_none(write: Writer) -> None:
    assert opened(write("a.xlsx", workbook({"a": []})))[0] == []
    assert opened(write("a.xlsx", workbook({"a": [HEADER]})))[0] == []
    assert opened(write("a.xlsx", b""))[0] == []


def test_two_columns_of_one_name_are_refused(write: Writer) -> None:
    with pytest.raises(DataError, match="two columns named 'text'"):
        opened(write("a.xlsx", workbook({"a": [["text", "text"], ["a", "b"]]})))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xd0\xcf\x11\xe0rest", "looks like an old Excel"),
        (b"prompt,completion\na,b\n", "looks like something else"),
        (workbook({"a": [HEADER]})[:200], "is damaged"),
        (changed(workbook({"a": [HEADER]}), SHEET, b"</sheetData>", b""), "is damaged, or no Excel workbook"),
        (
            changed(workbook({"a": [HEADER]}), "xl/workbook.xml", b"<sheets>", b"<x>"),
            "is damaged, or no Excel workbook",
        ),
    ],
)
def test_what_is_no_workbook_is_refused(write: Writer, content: bytes, says: str) -> None:
    with pytest.raises(DataError, match=says):
        opened(write("a.xlsx", content))


def test_another_office_document_is_refused(write: Writer) -> None:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("word/document.xml", "<w/>")
    with pytest.raises(DataError, match="no Excel workbook"):
        opened(write("a.xlsx", sink.getvalue()))


# ---- what would take all memory


STRINGS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/sharedStrings"
STRINGS_TYPE = b"application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"


def with_table_of_texts(content: bytes, table: bytes, before: bytes = b"") -> bytes:
    """A workbook whose first cell of the second row refers to the first text of a table, as Excel writes them."""
    relation = f'<Relationship Id="rId99" Type="{STRINGS}" Target="sharedStrings.xml"/></Relationships>'.encode()
    kind = b'<Override PartName="/xl/sharedStrings.xml" ContentType="%s"/></Types>' % STRINGS_TYPE
    content = changed(content, "xl/_rels/workbook.xml.rels", b"</Relationships>", relation)
    content = changed(content, "[Content_Types].xml", b"</Types>", kind)
    content = changed(content, SHEET, b't="inlineStr"><is><t>a</t></is>', b't="s"><v>0</v>')
    space = b'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    sink = io.BytesIO(content)
    with zipfile.ZipFile(sink, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/sharedStrings.xml", before + b"<sst %s><si><t>%s</t></si></sst>" % (space, table))
    return sink.getvalue()


def test_texts_that_excel_keeps_in_a_table_are_found(write: Writer) -> None:
    content = with_table_of_texts(workbook({"a": [HEADER, ["a", "b"]]}), "café, shared".encode())
    assert opened(write("a.xlsx", content))[0][0].values == {"prompt": "café, shared", "completion": "b"}


def bomb(kind: str) -> bytes:
    good = workbook({"a": [HEADER, ["a", "b"]]})
    if kind == "blanks":
        return changed(good, "docProps/core.xml", b"<dc:creator>", b" " * 600_000_000 + b"<dc:creator>")
    if kind == "texts":
        return with_table_of_texts(good, b"x" * 600_000_000)
    if kind == "entities":
        entities = b"".join(b'<!ENTITY e%d "%s">' % (n, b"&e%d;" % (n - 1) * 10) for n in range(1, 12))
        return with_table_of_texts(good, b"&e11;", b'<!DOCTYPE sst [<!ENTITY e0 "ha">' + entities + b"]>")
    return changed(good, SHEET, b'<row r="2"', b'<row r="%d"' % (1048576 if kind == "a far row" else 2_000_000_000))


BOMBS = {
    "blanks": "unpacks to more than 0.5 GB",
    "texts": "unpacks to more than 0.5 GB",
    "entities": "is damaged",
    "a far row": "1 rows",
    "beyond the last row": "rows beyond Excel's last one",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_workbook_that_unpacks_to_far_more_is_refused_or_read_in_little_memory(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.xlsx"
    path.write_bytes(bomb(kind))
    assert path.stat().st_size < 1_000_000
    code = """if True:
        import sys
        from pathlib import Path
        from core.data.readers.files import open_table
        from core.errors import DataError
        try:
            print(len(list(open_table(Path(sys.argv[1]), "a.xlsx").rows)), "rows")
        except DataError as error:
            print(error)
        from tests.core.data.own_peak import own_peak_bytes
        print(own_peak_bytes())
    """
    command = [sys.executable, "-c", code, str(path)]
    child = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True, timeout=60)
    said, peak = child.stdout.splitlines()
    assert int(peak) < 150_000_000
    assert BOMBS[kind] in said
