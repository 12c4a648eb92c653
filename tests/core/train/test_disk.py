"""A run on a disk that is really full."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors import SafetensorError

from core.events import Finished, Paused, Saved, StepDone
from core.train.disk import RESERVE_FILE, Reserve, is_disk_full
from tests.core.train.running import Make, of_kind, same_bits
from tests.small_disk import fill, small_disk

MEGABYTES = 12


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "small disk", MEGABYTES) as place:
        yield place


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_disk_that_fills_up_pauses_the_run_after_one_more_checkpoint(make: Make, disk: Path) -> None:
    straight, run = make("straight"), make(disk / "run")
    straight.carry_out()
    events = []
    for event in run.events():
        events.append(event)
        if isinstance(event, StepDone) and event.step == 3:
            filler = fill(disk)
    last = events[-1]
    assert isinstance(last, Paused) and last.step == 4 and last.title == "The disk is full"
    assert "MB" in last.detail and "resume" in last.hint
    assert [saved.step for saved in of_kind(events, Saved)] == [2, 4]
    assert not any("tmp" in name or RESERVE_FILE in name for name in files(run.folder))
    filler.unlink()
    assert isinstance(run.carry_out()[-1], Finished)
    assert same_bits(straight, run)


def test_a_run_on_a_full_disk_pauses_before_its_first_step(make: Make, disk: Path) -> None:
    run = make(disk / "run")
    for event in (events := run.events()):
        if event.event == "preparing" and event.phase == "injecting":
            filler = fill(disk)
            break
    rest = list(events)
    assert isinstance(rest[-1], Paused) and rest[-1].step == 0 and rest[-1].title == "The disk is full"
    assert not of_kind(rest, StepDone)
    filler.unlink()
    assert isinstance(run.carry_out()[-1], Finished)


def test_a_result_that_finds_no_room_waits_in_the_last_checkpoint(make: Make, disk: Path) -> None:
    straight, run = make("straight"), make(disk / "run")
    straight.carry_out()
    for event in (events := run.events()):
        if isinstance(event, Saved) and event.step == 8:
            (run.folder / RESERVE_FILE).unlink()
            filler = fill(disk)
            break
    last = list(events)[-1]
    assert isinstance(last, Paused) and last.step == 8
    assert not (run.folder / "adapter").exists() and not (run.folder / "adapter.tmp").exists()
    filler.unlink()
    again = run.carry_out()
    assert not of_kind(again, StepDone) and isinstance(again[-1], Finished) and same_bits(straight, run)


def test_room_is_taken_and_given_back(disk: Path) -> None:
    reserve = Reserve(disk, 2**20)
    reserve.set_aside()
    assert (disk / RESERVE_FILE).stat().st_blocks * 512 >= 2**20
    fill(disk)
    reserve.write(lambda: (disk / "needed").write_bytes(bytes(2**19)))
    assert reserve.is_used and (disk / "needed").stat().st_size == 2**19
    with pytest.raises(OSError, match="No space left"):
        Reserve(disk, 2**24).set_aside()
    assert not (disk / RESERVE_FILE).exists()


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path, 1)
    with pytest.raises(PermissionError):
        reserve.write(lambda: (_ for _ in ()).throw(PermissionError(errno.EACCES, "no")))
    assert not reserve.is_used
    assert not is_disk_full(ValueError("os error 28")) and not is_disk_full(SafetensorError("os error 5"))
    assert is_disk_full(OSError(errno.EDQUOT, "")) and is_disk_full(SafetensorError("I/O error (os error 28)"))
