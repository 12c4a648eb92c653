"""FAULTS.md, rows 17 and 24: files far too large, and a row of a million tokens."""

from __future__ import annotations

import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import core.data.reading
from core.data.reading import read_dataset
from core.errors import DataError
from core.events import Finished
from jobs.home import PROJECT
from jobs.service import Service
from tests.browser.driver import App
from tests.core.train.running import notes, of_kind
from tests.faults.memory import Watched
from tests.faults.running import carried_out, keep, lines
from tests.jobs.waiting import wait_for

GIGABYTE, MEGABYTE = 10**9, 10**6


# ---- 17: far too large


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where an app that is started now puts what is uploaded, while it comes and after."""
    folder = tmp_path / "uploads"
    folder.mkdir()
    for name in ("GRADIO_TEMP_DIR", "TMPDIR"):
        monkeypatch.setenv(name, str(folder))
    return folder


def upload(port: int, name: str, blocks: Iterator[bytes], size: int) -> tuple[bytes, int]:
    """Send a file as a browser does, until the server answers: what it said, and how much was sent by then."""
    head = f'--xx\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    tail = b"\r\n--xx--\r\n"
    sent = 0
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        request = f"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        request += "Content-Type: multipart/form-data; boundary=xx\r\n"
        connection.sendall(f"{request}Content-Length: {len(head) + size + len(tail)}\r\n\r\n".encode() + head)
        for block in blocks:
            if select.select([connection], [], [], 0)[0]:
                break
            connection.sendall(block)
            sent += len(block)
        else:
            connection.sendall(tail)
        return connection.recv(4096), sent


def test_ten_gigabytes_are_refused_while_they_are_uploaded_and_take_no_memory(uploads: Path, app: App) -> None:
    block = lines([{"prompt": "a", "completion": "b"}] * 30_000).encode()
    count = 10 * GIGABYTE // len(block)
    assert app.process is not None
    with Watched(app.process.pid) as watched:
        answer, sent = upload(app.port, "huge.jsonl", (block for _ in range(count)), count * len(block))
    assert answer.startswith(b"HTTP/1.1 413") and b"exceeded maximum allowed size" in answer
    assert sent < 2.5 * GIGABYTE, "the server did not wait for the end"
    assert watched.growth < 100 * MEGABYTE
    wait_for(lambda: not [path for path in uploads.rglob("*") if path.is_file()])
    assert app.answers()


def test_ten_gigabytes_on_the_disk_are_refused_by_their_size_alone(tmp_path: Path) -> None:
    path = tmp_path / "huge.jsonl"
    with path.open("wb") as file:
        file.truncate(10 * GIGABYTE)
    command = [
        sys.executable,
        "app.py",
        "train",
        "--data",
        path,
        "--output",
        tmp_path / "out",
        "--home",
        tmp_path / "home",
    ]
    child = subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    with Watched(child.pid) as watched, child.stderr as stream:
        said = stream.read()
    assert child.wait(60) == 2
    assert "huge.jsonl is too large to read: it has 10.0 GB" in said
    assert watched.peak < 400 * MEGABYTE
    assert list((tmp_path / "home" / "datasets").iterdir()) == []


def test_a_file_of_more_rows_than_can_be_held_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether they are good or bad: each takes memory while the file is read."""
    monkeypatch.setattr(core.data.reading, "MAX_ROWS", 1000)
    for row in ({"prompt": "a", "completion": "b"}, {}):
        path = keep(tmp_path, "a.jsonl", lines([{"prompt": "a", "completion": "b"}, *[row] * 1000]))
        with pytest.raises(DataError, match="more than 1,000 rows"):
            read_dataset(path, skip_bad_rows=True)


# ---- 24: a row of a million tokens


@pytest.mark.parametrize("shape", [pytest.param("words", marks=pytest.mark.slow), "one word"])
def test_a_row_of_a_million_tokens_is_cut_and_counted_and_takes_little_memory(
    working: Service, tiny_model: Path, tmp_path: Path, shape: str
) -> None:
    """The tiny model's tokens are bytes. Memory is compared with that of the same run without the row."""
    text = "sail " * 200_000 if shape == "words" else "x" * MEGABYTE
    rows = [{"prompt": f"What is {i}?", "completion": f"It is {i}."} for i in range(8)]
    peaks = {}
    for name, content in (("plain", rows), ("long", [*rows, {"prompt": "Sail?", "completion": text}])):
        run, events = carried_out(working, keep(tmp_path, f"{name}.jsonl", lines(content)), tiny_model, max_tokens=64)
        (finished,) = of_kind(events, Finished)
        assert run.state == "finished"
        assert ("1 rows are longer than 64 tokens and were cut" in notes(events)) == (name == "long")
        assert finished.tokens <= 3 * 2 * 64, "three steps of two rows"
        peaks[name] = finished.peak_rss_bytes
    assert peaks["long"] - peaks["plain"] < 400 * MEGABYTE, peaks
