"""Long histories read in blocks: the same as event by event, whatever is wrong with a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.instruments.past_runs import history, write_history
from core.events import EvalDone, Event, Note, StepDone
from jobs.history import BLOCK_LINES, Steps, Told, read_history
from jobs.journal import EventWriter, read_events


def steps_in(told: tuple[Told, ...]) -> list[StepDone]:
    """The steps, one by one again."""
    names = [name for name in Steps.__slots__ if name != "time"]
    found: list[StepDone] = []
    for each in told:
        if isinstance(each, Steps):
            columns = zip(*(getattr(each, name) for name in names), strict=True)
            found += [StepDone(**dict(zip(names, values, strict=True))) for values in columns]
    return found


def others_in(told: tuple[Told, ...]) -> list[Event]:
    return [each for each in told if not isinstance(each, Steps)]


@pytest.mark.parametrize("steps", [1, 37, BLOCK_LINES + 3])
def test_blocks_hold_what_single_events_do_in_their_order(tmp_path: Path, steps: int) -> None:
    path = tmp_path / "events.jsonl"
    write_history(path, steps)
    events, end = read_events(path)
    told, offset = read_history(path)
    assert offset == end == path.stat().st_size
    assert steps_in(told) == [event for event in events if isinstance(event, StepDone)]
    assert others_in(told) == [event for event in events if not isinstance(event, StepDone)]
    before_evaluations = [sum(map(len, filter(is_steps, told[:at]))) for at, each in enumerate(told) if is_eval(each)]
    assert before_evaluations == [event.step for event in events if isinstance(event, EvalDone)]


def is_steps(each: Told) -> bool:
    return isinstance(each, Steps)


def is_eval(each: Told) -> bool:
    return isinstance(each, EvalDone)


def test_a_run_of_a_hundred_thousand_steps_is_a_few_blocks(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    write_history(path, 100_000)
    told, _ = read_history(path)
    blocks = [each for each in told if isinstance(each, Steps)]
    assert sum(map(len, blocks)) == 100_000 and len(blocks) < 50
    assert [step for block in blocks for step in block.step] == list(range(1, 100_001))
    assert blocks[0].time[0] is not None and blocks[-1].time[-1] > blocks[0].time[0]  # type: ignore[operator]


@pytest.mark.parametrize(
    "broken",
    [
        b"no JSON", b'{"event": "step", "st', b'{"event": "step", "step": 3}', b"[1, 2]", b"7", b'{"step": 1}',
        b'{"event": "nothing that we know"}', b"\xff\xfe", b'{"event":"step"},{"event":"step"}', b'"',
    ],
)  # fmt: skip
def test_a_line_that_holds_no_event_is_skipped_and_its_neighbors_are_not(tmp_path: Path, broken: bytes) -> None:
    path = tmp_path / "events.jsonl"
    write_history(path, 20)
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*lines[:9], broken, *lines[9:]]))
    expected = [event for event in history(20) if isinstance(event, StepDone)]
    assert steps_in(read_history(path)[0]) == expected


@pytest.mark.parametrize("change", [{"loss": "low"}, {"step": 2.5}, {"is_spike": "maybe"}, {"loss": None}])
def test_a_step_with_a_value_of_another_kind_is_judged_alone(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "events.jsonl"
    write_history(path, 20)
    lines = path.read_text().splitlines()
    number = next(at for at, line in enumerate(lines) if '"step":7,' in line and '"event":"step"' in line)
    lines[number] = json.dumps(json.loads(lines[number]) | change)
    path.write_text("\n".join(lines) + "\n")
    expected = [event for event in read_events(path)[0] if isinstance(event, StepDone)]
    assert steps_in(read_history(path)[0]) == expected
    assert [event.step for event in expected] == [step for step in range(1, 21) if step != 7]


def test_what_comes_later_is_read_from_where_one_stopped(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    assert read_history(path) == ((), 0)
    write_history(path, 5)
    _, offset = read_history(path)
    with EventWriter(path) as writer:
        writer.write(Note(text="resumed"))
    assert read_history(path, offset)[0] == (Note(text="resumed"),)


def test_steps_of_earlier_workbenches_without_a_device_or_spikes_are_read_as_blocks(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    old = {"event": "step", "epoch": 0.1, "loss": 2.0, "learning_rate": 1e-4, "grad_norm": 1, "tokens": 5,
           "seconds": 1.0, "rss_bytes": 9}  # fmt: skip
    path.write_text("".join(json.dumps({**old, "step": number}) + "\n" for number in (1, 2)))
    (block,) = read_history(path)[0]
    assert isinstance(block, Steps) and block.step == [1, 2] and block.device_bytes == [None, None]
    assert block.is_spike == [False, False]
