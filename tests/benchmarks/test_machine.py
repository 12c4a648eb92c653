"""What is kept beside figures says what they were measured on, and not whose machine it is."""

from __future__ import annotations

import getpass
import json
import socket
from pathlib import Path

import pytest

from benchmarks import results
from benchmarks.instruments.machine import OthersShare, facts


def test_facts_name_the_machine_and_the_versions() -> None:
    found = facts()
    assert found["cores"] >= 1 and found["memory_bytes"] > 1e9
    assert "torch" in found["versions"]


def test_facts_tell_no_path_no_host_and_no_user() -> None:
    text = json.dumps(facts())
    assert str(Path.home()) not in text and str(Path.cwd()) not in text
    assert f'"{socket.gethostname()}"' not in text and f'"{getpass.getuser()}"' not in text


def test_a_machine_that_we_keep_busy_ourselves_is_not_taken_by_others() -> None:
    others = OthersShare()
    before, now = others.begin, others.begin
    others.look = lambda: (now[0] + 10, now[1] + 5, now[2] + 5)  # type: ignore[method-assign]
    assert before == now and others.stop() == pytest.approx(0, abs=1e-9)
    others.look = lambda: (now[0] + 10, now[1] + 8, now[2] + 5)  # type: ignore[method-assign]
    assert others.stop() == pytest.approx(0.3)


def test_results_come_back_as_they_were_kept_with_noise_cut_off(tmp_path: Path) -> None:
    results.keep("x", {"a": {"b": [1.23456789, 2]}, "text": "½"}, folder=tmp_path)
    found = results.last("x", tmp_path)
    assert found is not None
    assert (found["a"], found["text"]) == ({"b": [1.23457, 2]}, "½")
    assert found["machine"]["cores"] >= 1
    assert results.last("never", tmp_path) is None
