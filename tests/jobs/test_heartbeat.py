from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs import heartbeat
from jobs.heartbeat import silent_seconds
from jobs.home import PROJECT
from jobs.oom import oom_kills
from tests.jobs.waiting import wait_for

BEAT = (
    "import sys, time; from pathlib import Path; from jobs.heartbeat import begin_heartbeat\n"
    "begin_heartbeat(Path(sys.argv[1]), 0.02); time.sleep(600)"
)


def test_a_frozen_process_falls_silent_and_is_heard_again_when_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "SILENT_SECONDS", 0.5)
    path = tmp_path / "heartbeat"
    process = subprocess.Popen([sys.executable, "-c", BEAT, str(path)], cwd=PROJECT)
    wait_for(path.exists)
    assert wait_for(lambda: silent_seconds(path) is None)
    os.kill(process.pid, signal.SIGSTOP)
    assert wait_for(lambda: silent_seconds(path)) > 0.5
    os.kill(process.pid, signal.SIGCONT)
    wait_for(lambda: silent_seconds(path) is None)
    process.kill()
    process.wait()


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
