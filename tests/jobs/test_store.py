"""The store: its schema, its durability, and that a run is moved by one only."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from core.errors import ConfigError, NotFound, RunError
from jobs import tables
from jobs.home import PROJECT, Home, open_home
from jobs.launchers.local import Worker
from jobs.rows import Attempt
from jobs.store import Store
from jobs.views import RunProblem
from tests.jobs.conftest import add_dataset_row, queue_run
from tests.jobs.waiting import wait_for

SOMEBODY = Worker(pid=1, birth="long ago")


def claim(store: Store) -> Attempt:
    attempt = store.claim(lambda *_: SOMEBODY)
    assert attempt is not None
    return attempt


def test_an_empty_home_gets_the_tables_that_the_code_expects(store: Store) -> None:
    engine = create_engine(f"sqlite:///{store.home.database}")
    with engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), tables.metadata)
    engine.dispose()
    assert differences == []


def test_two_processes_may_open_an_empty_home_at_once(home: Home) -> None:
    code = "import sys; from jobs.home import *; from jobs.store import *; Store(Home(Path(sys.argv[1])))"
    starting = [subprocess.Popen([sys.executable, "-c", code, str(home.path)], cwd=PROJECT) for _ in range(2)]
    assert [process.wait(60) for process in starting] == [0, 0]
    assert Store(home).runs() == ()


def test_a_home_of_a_newer_workbench_is_refused(home: Home) -> None:
    Store(home).close()
    with sqlite3.connect(home.database) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(ConfigError, match="newer"):
        Store(home)


def test_every_commit_reaches_the_disk(store: Store) -> None:
    with store._database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        journal = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
    assert journal == ("wal" if sqlite3.sqlite_version_info >= (3, 51, 3) else "delete")


def test_what_is_written_is_read_back_from_a_new_connection(store: Store) -> None:
    add_dataset_row(store)
    config = queue_run(store, "R1")
    run = Store(store.home).run("R1")
    assert (run.config, run.state, run.dataset_name, run.error, run.adapter_id) == (
        config,
        "queued",
        "rows",
        None,
        None,
    )


def test_an_exception_undoes_the_whole_transaction(store: Store) -> None:
    add_dataset_row(store)
    queue_run(store, "R1")

    def launch(run_id: str, _device: str) -> Worker:
        raise RunError("no room")

    with pytest.raises(RunError):
        store.claim(launch)
    assert store.run("R1").state == "queued"


def test_the_run_that_waited_longest_is_claimed_and_no_other_while_it_is_active(store: Store) -> None:
    add_dataset_row(store)
    for run_id in ("R1", "R2"):
        queue_run(store, run_id)
    assert claim(store).run_id == "R1"
    assert store.claim(lambda *_: SOMEBODY) is None


def test_threads_that_claim_at_once_start_a_run_once(store: Store) -> None:
    add_dataset_row(store)
    queue_run(store, "R1")
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda _: store.claim(lambda *_: SOMEBODY), range(8)))
    assert sum(attempt is not None for attempt in claims) == 1


def test_two_processes_on_one_home_start_each_run_once_and_one_at_a_time(store: Store) -> None:
    add_dataset_row(store)
    run_ids = [f"R{i}" for i in range(5)]
    for run_id in run_ids:
        queue_run(store, run_id)
    command = [sys.executable, "-m", "tests.jobs.host", str(store.home.path), "finishes"]
    hosts = [subprocess.Popen(command, cwd=PROJECT) for _ in range(2)]
    assert [host.wait(120) for host in hosts] == [0, 0]
    spans = []
    for run_id in run_ids:
        folder = store.home.run(run_id).path
        (start,) = (folder / "starts").read_text().splitlines()
        (end,) = (folder / "ends").read_text().splitlines()
        spans.append((float(start.split()[1]), float(end)))
    assert all(before[1] <= after[0] for before, after in zip(sorted(spans), sorted(spans)[1:], strict=False))
    assert {run.state for run in store.runs()} == {"finished"}
    assert len(store.adapters()) == len(run_ids)


def test_a_second_end_changes_nothing(store: Store) -> None:
    add_dataset_row(store)
    queue_run(store, "R1")
    attempt = claim(store)
    assert store.end(attempt, "interrupted", RunProblem(title="first"))
    assert not store.end(attempt, "cancelled")
    run = store.run("R1")
    assert (run.state, run.error) == ("interrupted", RunProblem(title="first"))


def test_an_end_of_an_earlier_attempt_does_not_touch_the_next(store: Store) -> None:
    add_dataset_row(store)
    queue_run(store, "R1")
    first = claim(store)
    store.end(first, "interrupted", RunProblem(title="gone"))
    store.requeue("R1")
    second = claim(store)
    assert not store.end(first, "failed")
    assert (second.number, store.run("R1").state) == (2, "preparing")


def test_resuming_clears_the_error_and_goes_to_the_end_of_the_queue(store: Store) -> None:
    add_dataset_row(store)
    queue_run(store, "R1")
    store.end(claim(store), "failed", RunProblem(title="full disk"))
    queue_run(store, "R2")
    run = store.requeue("R1")
    assert (run.state, run.error, run.ended_at) == ("queued", None, None)
    assert claim(store).run_id == "R2"


def test_a_finished_run_cannot_be_resumed_nor_cancelled(store: Store) -> None:
    add_dataset_row(store)
    queue_run(store, "R1")
    store.end(claim(store), "finished")
    with pytest.raises(RunError, match="finished"):
        store.requeue("R1")
    with pytest.raises(RunError, match="finished"):
        store.ask_to_end("R1", "cancel")


def test_a_queued_run_is_cancelled_at_once(store: Store) -> None:
    add_dataset_row(store)
    queue_run(store, "R1")
    assert store.ask_to_end("R1", "keep") == "cancelled"
    assert store.run("R1").ended_at is not None


def test_a_key_gives_the_same_run_again(store: Store) -> None:
    add_dataset_row(store)
    config = queue_run(store, "R1", key="k")
    assert store.add_run("R2", config, "k").id == "R1"
    assert len(store.runs()) == 1


def test_unknown_ids_are_told_apart_by_kind(store: Store) -> None:
    for ask, kind in ((store.run, "run"), (store.dataset, "dataset"), (store.adapter, "adapter")):
        with pytest.raises(NotFound, match=f"no {kind} ../../x"):
            ask("../../x")


def test_a_writer_waits_for_another(store: Store) -> None:
    add_dataset_row(store)
    with ThreadPoolExecutor(1) as pool:
        with store._database.write():
            writing = pool.submit(queue_run, store, "R1")
            wait_for(store.home.run("R1").path.exists)
            assert not writing.done()
        writing.result(30)
    assert store.run("R1").state == "queued"


def test_a_moved_home_is_found_again(store: Store) -> None:
    add_dataset_row(store)
    queue_run(store, "R1")
    row = {"name": "a", "folder": "runs/R1/adapter", "base_model": "starter", "rank": 1, "alpha": 1, "targets": "[]"}
    store.finish(claim(store), {**row, "bytes": 1, "fingerprint": "0" * 8})
    moved = store.home.path.rename(store.home.path.with_name("elsewhere"))
    (adapter,) = Store(open_home(moved)).adapters()
    assert adapter.path == moved / "runs/R1/adapter"
