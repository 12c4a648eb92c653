"""FAULTS.md, section 2: zips that write elsewhere or unpack to gigabytes, and Parquet files that do."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
import pytest
from pyarrow import parquet

import core.data.reading
from core.data.reading import read_dataset
from core.errors import DataError
from jobs.home import PROJECT
from jobs.service import Service
from tests.faults.files import files_under, names_in, our_sources, zip_of
from tests.faults.memory import Watched


def link(archive: zipfile.ZipFile) -> None:
    entry = zipfile.ZipInfo("adapter_config.json")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(entry, "/etc/passwd")


def twice(archive: zipfile.ZipFile) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        for content in ("one", "other"):
            archive.writestr("adapter_config.json", content)


ARCHIVES: dict[str, Callable[[], bytes]] = {
    "slip": lambda: zip_of(lambda archive: archive.writestr("../../slipped-out.txt", "x")),
    "link": lambda: zip_of(link),
    "bomb": lambda: zip_of(lambda archive: archive.writestr("rows.txt", bytes(200_000_000))),
    "twice": lambda: zip_of(twice),
    "nested": lambda: zip_of(lambda archive: archive.writestr("inner.zip", zip_of(link))),
}
REFUSALS = {
    "slip": "whose path leads out of it",
    "link": "holds a link",
    "bomb": "longer than 64 MB",
    "twice": "is not valid JSON",
    "nested": "holds another archive",
}


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".txt", ".parquet", ".zip", ".xlsx", ".csv.gz"])
@pytest.mark.parametrize("kind", ARCHIVES)
def test_an_archive_writes_nothing_and_unpacks_to_no_more_than_is_allowed_whatever_it_is_called(
    service: Service, tmp_path: Path, kind: str, suffix: str
) -> None:
    """Only what is called a zip is opened as one, and read where it lies; all else is told by its first bytes."""
    before = files_under(service.home)
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(ARCHIVES[kind]())
    refusal = {".zip": REFUSALS[kind], ".xlsx": "no Excel workbook|unpacks to"}.get(suffix, "a ZIP archive")
    with Watched(os.getpid()) as watched, pytest.raises(DataError, match=refusal):
        service.data.add(path)
    assert watched.growth < 100_000_000, "the bomb is 200 MB"
    assert files_under(service.home) == before
    assert [each.name for each in tmp_path.iterdir() if each != service.home] == [path.name]
    assert not list(tmp_path.parent.rglob("slipped-out*"))


def test_archives_are_opened_in_few_places_and_never_unpacked_whole() -> None:
    """A person's datasets, streamed; files of known names out of an adapter's zip; one such out of the starter's own
    package. Exports are written, and read back for the hub.
    """
    openers = {"zipfile", "tarfile", "shutil.unpack_archive", "unpack_archive", "extractall", "gzip", "bz2", "lzma"}
    found = {path.relative_to(PROJECT).as_posix(): names_in(path) & openers for path in our_sources()}
    assert {name: used for name, used in found.items() if used} == {
        "core/adapters/arrivals.py": {"zipfile"},
        "core/data/readers/archives.py": {"zipfile"},
        "core/data/readers/excel.py": {"zipfile"},
        "core/data/readers/sources.py": {"gzip", "zipfile"},
        "core/models/starter.py": {"zipfile"},
        "jobs/adapters.py": {"zipfile"},
    }
    for name in found:
        assert name == "core/models/starter.py" or "extract" not in names_in(PROJECT / name), name


def bomb(rows: int, letters: int, column: str = "text") -> bytes:
    """A Parquet file in which every row refers to one and the same long text."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * letters]))
    table = pa.table({"text": texts})
    if column == "messages":
        turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x" * letters}]
        table = pa.Table.from_pylist([{"messages": turns}] * rows)
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


@pytest.mark.parametrize("column", ["text", "messages"])
def test_a_parquet_file_whose_rows_share_one_text_is_counted_as_what_it_unpacks_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str
) -> None:
    """A few kilobytes of file would else be terabytes of memory: the file itself does not tell."""
    monkeypatch.setattr(core.data.reading, "MAX_BYTES", 10_000_000)
    path = tmp_path / "bomb.parquet"
    path.write_bytes(bomb(rows=2000, letters=10_000, column=column))
    assert path.stat().st_size < 50_000
    with pytest.raises(DataError, match="unpacks to more than 0.0 GB"):
        read_dataset(path)


def test_a_parquet_bomb_at_the_real_limit_takes_no_more_memory_than_an_honest_file(tmp_path: Path) -> None:
    path = tmp_path / "bomb.parquet"
    path.write_bytes(bomb(rows=1_000_000, letters=100_000))  # 100 GB
    code = """if True:
        import sys
        from pathlib import Path
        from core.data.reading import read_dataset
        from core.errors import DataError
        try:
            read_dataset(Path(sys.argv[1]))
        except DataError as error:
            print(error.title)
        from core.train.memory import peak_rss_bytes  # the system's other account begins with our own
        print(peak_rss_bytes())
    """
    command = [sys.executable, "-c", code, str(path)]
    child = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    title, peak = child.stdout.splitlines()
    assert "unpacks to more than" in title and int(peak) < 3e9


def test_text_in_dictionaries_reads_as_it_was_written(tmp_path: Path) -> None:
    rows = [{"prompt": f"question {i % 3} é🏴", "completion": "yes" if i % 2 else "no"} for i in range(3000)]
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.Table.from_pylist(rows), path)
    found = [[message.content for message in record.messages] for record in read_dataset(path).records]  # type: ignore[union-attr]
    assert found == [list(row.values()) for row in rows]
