"""What runs are in short, as tables and in checkpoints: `service.history`."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pytest

from benchmarks.instruments.past_runs import add_past_runs, history, write_history
from core.errors import ConfigError, NotFound
from core.events import EvalDone, Started, StepDone
from core.train.manifest import write_manifest
from jobs import figures, histories
from jobs.history import Steps, one_step, read_history
from jobs.home import Home, RunFolder
from jobs.journal import EventWriter
from jobs.service import Service
from jobs.summaries import POINTS, Summary, summary_of, write_summary


@pytest.fixture
def past(service: Service) -> list[str]:
    """Three runs of 40 steps that have finished."""
    return add_past_runs(service.home, 3, steps=40)


def folder(service: Service, run_id: str) -> RunFolder:
    return Home(service.home).run(run_id)


def resumed(path: Path) -> None:
    """A history of 6 steps, of which the last two were done twice."""
    start, *others = (event for event in history(6, evaluations=3) if not hasattr(event, "output"))
    assert isinstance(start, Started)
    again = Started(**{name: getattr(start, name) for name in Started.__slots__} | {"first_step": 5})
    with EventWriter(path) as writer:
        for event in (start, *others, again, *others[-6:]):
            writer.write(event)


# ---- in short


def test_a_summary_is_small_and_says_what_a_list_shows(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write_history(run.events, 5000)
    summary = write_summary(run)
    assert (summary.step, summary.steps) == (5000, 5000)
    assert summary.base_eval_loss == pytest.approx(2.7) and summary.eval_loss == pytest.approx(1.01, abs=0.01)
    assert POINTS // 2 <= len(summary.loss) <= POINTS and run.summary.stat().st_size < 1000
    assert summary_of(run) == summary


def test_a_summary_is_read_from_its_file_until_the_events_grow(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write_history(run.events, 40)
    made = summary_of(run)
    run.summary.write_text(run.summary.read_text().replace('"steps":40', '"steps":41'))
    assert summary_of(run).steps == 41  # it was not made anew
    with EventWriter(run.events) as writer:
        writer.write(EvalDone(step=40, loss=0.5))
    assert summary_of(run).eval_loss == 0.5 and summary_of(run).events_bytes > made.events_bytes


@pytest.mark.parametrize("kept", ["", "{}", "[]", '{"loss": 3}', '{"loss": [], "nothing": 1}'])
def test_a_damaged_summary_is_made_anew(tmp_path: Path, kept: str) -> None:
    run = RunFolder(tmp_path)
    write_history(run.events, 40)
    run.summary.write_text(kept)
    assert summary_of(run).step == 40


def test_a_run_that_told_nothing_has_an_empty_summary(tmp_path: Path) -> None:
    assert summary_of(RunFolder(tmp_path)) == Summary()


def test_a_resumed_run_is_summed_up_once(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    resumed(run.events)
    assert (summary_of(run).step, len(summary_of(run).loss)) == (6, 6)


def test_five_hundred_runs_are_read_once_and_no_events_after_that(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_past_runs(service.home, 500, steps=3)
    runs = service.runs()
    first = [service.history.summary(run) for run in runs]
    assert len(first) == 500 and {summary.step for summary in first} == {3}

    def refuse(*_: object) -> None:
        raise AssertionError("it was read again")

    monkeypatch.setattr(histories, "summary_of", refuse)
    assert [service.history.summary(run) for run in service.runs()] == first
    monkeypatch.undo()
    shutil.rmtree(service.home / "runs" / runs[0].id)
    again = Service(service.home, service.home)  # an app that is started anew reads the small files alone
    monkeypatch.setattr("jobs.summaries.read_history", refuse)
    try:
        assert [again.history.summary(run) for run in again.runs()[1:]] == first[1:]
    finally:
        again.close()


# ---- as tables


def test_a_table_has_a_row_for_each_step_and_all_figures(service: Service, past: list[str]) -> None:
    text = "".join(service.history.export(past[0], "csv"))
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [int(row["step"]) for row in rows] == list(range(41))
    assert tuple(rows[0]) == figures.COLUMNS and rows[0]["loss"] == "" and float(rows[0]["eval_loss"]) == 2.7
    steps = [event for event in history(40) if isinstance(event, StepDone)]
    for row, event in zip(rows[1:], steps, strict=True):
        for name in ("loss", "learning_rate", "grad_norm", "tokens", "seconds", "rss_bytes", "epoch"):
            assert float(row[name]) == getattr(event, name), name
    measured = [int(row["step"]) for row in rows if row["token_accuracy"]]
    assert measured == list(range(0, 41, 4))
    assert json.loads("".join(service.history.export(past[0], "json")))[5]["loss"] == steps[4].loss


def test_a_table_holds_numbers_alone_so_that_no_cell_is_a_formula(service: Service, past: list[str]) -> None:
    _, *lines = "".join(service.history.export(past[0], "csv")).splitlines()
    for cell in (cell for line in lines for cell in line.split(",")):
        assert cell == "" or float(cell) is not None


def test_what_a_resumed_run_did_twice_stands_in_the_table_once(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    resumed(path)
    rows = figures.rows(read_history(path)[0])
    assert [row["step"] for row in rows] == list(range(7))
    assert [row["step"] for row in rows if row["eval_loss"] is not None] == [0, 2, 4, 6]


def test_a_run_begun_anew_has_its_second_beginning_alone() -> None:
    start, first, *_ = history(3)
    step = StepDone(step=1, epoch=1, loss=2, learning_rate=1, grad_norm=1, tokens=1, seconds=1, rss_bytes=1)
    rows = figures.rows([start, first, one_step(step), start, EvalDone(step=0, loss=9.0), one_step(step)])
    assert [(row["step"], row["eval_loss"]) for row in rows] == [(0, 9.0), (1, None)]


def test_an_unknown_run_or_form_is_said_to_be_unknown(service: Service, past: list[str]) -> None:
    with pytest.raises(NotFound):
        service.history.export("nobody", "csv")
    with pytest.raises(ConfigError, match="csv or json"):
        service.history.export(past[0], "xlsx")


# ---- checkpoints


def test_checkpoints_are_told_with_step_size_and_whether_they_are_proved(service: Service, past: list[str]) -> None:
    for step in (4, 8):
        checkpoint = folder(service, past[0]).path / "checkpoints" / f"step-{step:08d}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "tensors.safetensors").write_bytes(bytes(1000 * step))
        (checkpoint / "state.json").write_text("{}")
        write_manifest(checkpoint)
    found = service.history.checkpoints(past[0])
    assert [(each.step, each.proof) for each in found] == [(8, "not verified"), (4, "not verified")]
    assert found[0].bytes > found[1].bytes > 4000
    assert {each.proof for each in service.history.verify(past[0])} == {"verified"}
    assert {each.proof for each in service.history.checkpoints(past[0])} == {"verified"}


@pytest.mark.parametrize("size", [1000, 999])
def test_damage_is_seen_by_its_size_at_once_and_by_its_bytes_when_verified(
    service: Service, past: list[str], size: int
) -> None:
    checkpoint = folder(service, past[1]).path / "checkpoints" / "step-00000004"
    checkpoint.mkdir(parents=True)
    (checkpoint / "tensors.safetensors").write_bytes(bytes(1000))
    write_manifest(checkpoint)
    (checkpoint / "tensors.safetensors").write_bytes(b"x" * size)
    (seen,) = service.history.checkpoints(past[1])
    assert seen.proof == ("not verified" if size == 1000 else "damaged")
    (read,) = service.history.verify(past[1])
    assert read.proof == "damaged"


def test_a_checkpoint_without_a_manifest_is_damaged(service: Service, past: list[str]) -> None:
    checkpoint = folder(service, past[1]).path / "checkpoints" / "step-00000004"
    checkpoint.mkdir(parents=True)
    (checkpoint / "tensors.safetensors").write_bytes(bytes(10))
    assert [each.proof for each in service.history.verify(past[1])] == ["damaged"]
    assert service.history.checkpoints(past[2]) == ()


def test_columns_of_steps_are_as_long_as_each_other() -> None:
    assert len(Steps(**dict.fromkeys(Steps.__slots__, (1,)))) == 1
