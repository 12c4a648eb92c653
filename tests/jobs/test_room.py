"""Room is asked for before anything is written; a full disk is told, stops nothing for good, and loses nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.config import RunConfig, parse
from core.errors import ConfigError, RunError
from jobs import room
from jobs.home import open_home
from jobs.launchers.local import LocalLauncher
from jobs.scheduler import Scheduler
from jobs.service import Service
from jobs.store import Store
from tests.jobs.conftest import add_dataset_row, queue_run
from tests.small_disk import fill, small_disk

MEGABYTES = 4


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "small disk", MEGABYTES) as place:
        yield place


@pytest.fixture
def little_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a disk of a few megabytes no gigabyte can stay free."""
    monkeypatch.setattr(room, "SPARE_BYTES", 2**20)


def on(folder: Path, tiny_model: Path) -> Service:
    return Service(folder, tiny_model.parent)


def config(dataset_id: str, base_model: Path) -> RunConfig:
    return parse({"name": "a run", "base_model": str(base_model), "data": {"dataset_id": dataset_id}})


def test_a_run_is_refused_where_the_disk_is_too_small(service: Service, dataset_file: Path, tiny_model: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    dataset = service.data.add(dataset_file)
    monkeypatch.setattr(room, "free_bytes", lambda folder: room.SPARE_BYTES)
    with pytest.raises(RunError, match=r"The run may take 0\.00 GB, and the disk has 1\.00 GB left"):
        service.submit(config(dataset.id, tiny_model))
    assert service.runs() == () and list(service._home.runs.iterdir()) == []


def test_a_dataset_is_refused_where_the_quota_is_used_up(service: Service, dataset_file: Path,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    service.data.add(dataset_file)
    monkeypatch.setenv(room.QUOTA_VARIABLE, str((room.used_bytes(service.home) + 100) / 1e9))
    with pytest.raises(RunError, match=r"The dataset may take .* of the .* are used"):
        service.data.add(dataset_file)
    assert len(service.data.all()) == len(list(service._home.datasets.iterdir())) == 1
    monkeypatch.setenv(room.QUOTA_VARIABLE, "1")
    assert service.data.add(dataset_file).rows == 12


@pytest.mark.parametrize("said", ["much", "0", "-1", "nan", "inf"])
def test_a_quota_that_is_no_number_is_refused(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(room.QUOTA_VARIABLE, said)
    with pytest.raises(ConfigError, match=said):
        room.quota_bytes()


def test_what_a_folder_takes_is_what_its_files_take_on_the_disk(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "full").write_bytes(bytes(10_000))
    with (tmp_path / "hollow").open("wb") as file:
        file.truncate(10**9)
    (tmp_path / "link").symlink_to("/")
    assert 10_000 <= room.used_bytes(tmp_path) < 100_000


@pytest.mark.usefixtures("little_is_enough")
def test_a_full_disk_is_told_everything_can_be_read_and_it_goes_on_by_itself(
    disk: Path, tiny_model: Path, dataset_file: Path
) -> None:
    service = on(disk / "home", tiny_model)
    dataset = service.data.add(dataset_file)
    run = service.submit(config(dataset.id, tiny_model))
    filler = fill(disk)
    with pytest.raises(RunError, match="Nothing can be saved: database or disk is full") as caught:
        service.cancel_run(run.id)
    assert "Make room" in caught.value.hint
    assert "Nothing can be saved" in service.storage_problem()
    assert service.run(run.id).state == "queued" and len(service.data.rows(dataset.id)) == 12
    with pytest.raises(RunError):
        service._scheduler.tick()
    filler.unlink()
    service.cancel_run(run.id)
    assert service.run(run.id).state == "cancelled" and service.storage_problem() == ""
    service.close()


@pytest.mark.usefixtures("little_is_enough")
def test_the_queue_waits_for_room_says_so_and_goes_on(disk: Path) -> None:
    store = Store(open_home(disk / "home"))
    add_dataset_row(store)
    queue_run(store, "R")
    scheduler = Scheduler(store, LocalLauncher({}, command=("sleep", "60")))
    filler = fill(disk)
    scheduler.tick()
    assert scheduler.problem.startswith("Waiting runs are not started") and store.run("R").state == "queued"
    filler.unlink()
    scheduler.tick()
    (attempt,) = store.attempts()
    assert scheduler.problem == "" and attempt.run_id == "R"
    scheduler._launcher.abandon(attempt.worker)
    store.close()
