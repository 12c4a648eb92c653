from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobs import heartbeat
from jobs.heartbeat import silent_seconds
from jobs.home import PROJECT
from jobs.oom import oom_kills
from tests.jobs.waiting import wait_for

BEAT = (
    "import sys, time; from pathlib import Path; from jobs.heartbeat import begin_heartbeat\n"
    "begin_heartbeat(Path(sys.argv[1]), float(sys.argv[2])); time.sleep(600)"
)


@contextmanager
def beating(path: Path, every: float) -> Iterator[int]:
    """A process whose heart beats each so many seconds; its id, once something was heard."""
    process = subprocess.Popen([sys.executable, "-c", BEAT, str(path), str(every)], cwd=PROJECT)
    try:
        wait_for(lambda: path.exists() and path.read_text())
        yield process.pid
    finally:
        process.kill()
        process.wait()


def test_a_frozen_process_falls_silent_and_is_heard_again_when_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "SILENT_SECONDS", 0.5)
    path = tmp_path / "heartbeat"
    with beating(path, every=0.02) as pid:
        assert wait_for(lambda: silent_seconds(path) is None)
        os.kill(pid, signal.SIGSTOP)
        assert wait_for(lambda: silent_seconds(path)) > 0.5
        os.kill(pid, signal.SIGCONT)
        wait_for(lambda: silent_seconds(path) is None)


def test_at_no_moment_is_the_file_empty_for_a_process_frozen_there_would_never_be_missed(tmp_path: Path) -> None:
    path = tmp_path / "heartbeat"
    begin = time.monotonic()
    with beating(path, every=0.0):
        read = {path.read_text() for _ in range(5_000)}
    assert len(read) > 1 and all(begin <= float(text) <= time.monotonic() for text in read)


@pytest.mark.parametrize("content", [None, "", "x", "\xff"])
def test_where_nothing_is_known_nothing_is_said(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "heartbeat").write_text(content, encoding="latin-1")
    assert silent_seconds(tmp_path / "heartbeat") is None


def test_the_clock_is_one_that_nobody_can_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "heartbeat").write_text(str(time.monotonic()))
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert silent_seconds(tmp_path / "heartbeat") is None


def test_the_systems_own_count_of_kills_is_read(tmp_path: Path) -> None:
    group, machine = tmp_path / "memory.events", tmp_path / "vmstat"
    assert oom_kills([group, machine]) is None
    machine.write_text("pgfault 7\noom_kill 5\n")
    assert oom_kills([group, machine]) == 5
    group.write_text("low 0\noom 9\noom_kill 3\noom_group_kill 1\n")
    assert oom_kills([group, machine]) == 3
