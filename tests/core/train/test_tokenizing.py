"""A run over more rows than are tokenized in a moment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.data.records import Record, read_records, write_records
from core.data.tokens import encoding
from core.events import Cancelled, Event, Paused, Preparing, Started
from core.train import run as run_module
from tests.core.train.running import RECORDS, Make, of_kind, same_bits


@pytest.fixture(autouse=True)
def little_by_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "BATCH_ROWS", 4)
    monkeypatch.setattr(run_module, "TELL_SECONDS", 0.0)


def test_a_run_tells_how_far_tokenizing_is(make: Make) -> None:
    told = [event.detail for event in of_kind(make(optim={"steps": 1}).carry_out(), Preparing)]
    place = told.index("10 rows")
    assert told[place : place + 4] == ["10 rows", "4 of 10 rows", "8 of 10 rows", "10 of 10 rows"]


@pytest.mark.parametrize("answer", ["keep", "cancel", "pause"])
def test_a_run_can_be_stopped_while_it_tokenizes(make: Make, answer: str) -> None:
    run, seen, read = make(), list[Event](), list[Record]()

    class Counted(list[Record]):
        def __iter__(self) -> Iterator[Record]:
            read.clear()
            for record in super().__iter__():
                read.append(record)
                yield record

    run.records = Counted(RECORDS)
    for event in run.events():
        seen.append(event)
        if isinstance(event, Preparing) and event.detail == "4 of 10 rows":
            run.answer = answer
    assert isinstance(seen[-1], Paused if answer == "pause" else Cancelled) and not of_kind(seen, Started)
    assert len(read) == 8  # the batch that was under way is the last


def test_records_in_a_file_train_what_those_in_a_list_do(make: Make, tmp_path: Path) -> None:
    write_records(RECORDS, tmp_path / "records.jsonl")
    listed, streamed = make("listed"), make("streamed")
    streamed.records = read_records(tmp_path / "records.jsonl")
    listed.carry_out()
    streamed.carry_out()
    assert same_bits(listed, streamed)


def test_no_file_of_rows_is_left_behind(make: Make) -> None:
    run = make(optim={"steps": 2})
    run.carry_out()
    kept = {"adapter", "checkpoints", "precision.json", "learned.json"}
    assert {path.name for path in run.folder.iterdir()} == kept
