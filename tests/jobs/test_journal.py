"""A run's events on disk: one writer, any number of readers, and crashes between."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.events import EvalDone, Note
from jobs.journal import EventWriter, read_events, read_wish, write_wish
from tests.small_disk import fill, small_disk


def test_events_are_read_back_whole_and_only_once(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventWriter(path) as writer:
        writer.write(Note(text="über\nzwei Zeilen"))
        first, offset = read_events(path)
        writer.write(EvalDone(step=3, loss=1.25))
    second, end = read_events(path, offset)
    assert (first, second) == ((Note(text="über\nzwei Zeilen"),), (EvalDone(step=3, loss=1.25),))
    assert read_events(path, end) == ((), end)


def test_every_line_says_when(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventWriter(path, clock=lambda: 1234.5) as writer:
        writer.write(Note(text="now"))
    assert json.loads(path.read_text()) == {"event": "note", "text": "now", "time": 1234.5}


def test_half_a_line_waits_for_its_other_half(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"event": "note", "text": "a"}\n{"event": "no')
    events, offset = read_events(path)
    assert events == (Note(text="a"),)
    with path.open("ab") as file:
        file.write(b'te", "text": "b"}\n')
    assert read_events(path, offset)[0] == (Note(text="b"),)


def test_a_line_cut_by_a_crash_is_ended_and_skipped(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"event": "note", "text": "a"}\n{"event": "step", "st')
    with EventWriter(path) as writer:
        writer.write(Note(text="b"))
    assert read_events(path)[0] == (Note(text="a"), Note(text="b"))


@pytest.mark.parametrize("size", range(0, 70, 3))
def test_a_crash_at_any_byte_costs_at_most_the_line_it_hit(tmp_path: Path, size: int) -> None:
    whole = b'{"event":"note","text":"a"}\n{"event":"note","text":"b"}\n{"event":"note","text":"c"}\n'
    path = tmp_path / "events.jsonl"
    path.write_bytes(whole[:size])
    with EventWriter(path) as writer:
        writer.write(Note(text="resumed"))
    texts = [event.text for event in read_events(path)[0] if isinstance(event, Note)]
    assert texts[-1] == "resumed" and len(texts) - 1 >= whole[:size].count(b"\n")
    assert set(texts[:-1]) <= {"a", "b", "c"}


def test_a_line_that_a_full_disk_cut_off_is_taken_back(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small disk", 1) as disk:
        with EventWriter(disk / "events.jsonl") as writer:
            writer.write(Note(text="first"))
            filler = fill(disk)
            with pytest.raises(OSError, match="No space left"):
                for _ in range(1000):
                    writer.write(Note(text="x" * 3000))
            filler.unlink()
            writer.write(Note(text="last"))
        events, _ = read_events(disk / "events.jsonl")
        lines = (disk / "events.jsonl").read_bytes().splitlines()
    assert len(events) == len(lines) >= 2
    assert isinstance(events[-1], Note) and events[-1].text == "last"


def test_a_file_that_is_not_there_yet_holds_nothing(tmp_path: Path) -> None:
    assert read_events(tmp_path / "events.jsonl", 0) == ((), 0)


def test_a_wish_is_read_as_it_was_written(tmp_path: Path) -> None:
    control = tmp_path / "control"
    assert read_wish(control) is None
    write_wish(control, "keep")
    assert read_wish(control) == "keep"
    write_wish(control, "cancel")
    assert read_wish(control) == "cancel"
    assert [path.name for path in tmp_path.iterdir()] == ["control"]
