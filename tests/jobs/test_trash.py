"""What is noted on adapters, and the trash: what is deleted comes back, and what is needed stays."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from core.adapters.ways import Combination
from core.config import parse
from core.errors import AdapterError, ConfigError, NotFound
from jobs.names import LONGEST_NOTE
from jobs.service import Adapter, Pane, Service
from jobs.trash import DAYS
from tests.jobs.shelf import ASK, placed, rest
from tests.jobs.test_service_results import finish


def test_notes_are_kept_and_checked(service: Service, pair: tuple[Adapter, Adapter]) -> None:
    one, _ = pair
    service.library.note(one.id, "  Best so far.\nTry more rows. ")
    assert service.adapter(one.id).note == "Best so far.\nTry more rows."
    for text, says in (("x" * (LONGEST_NOTE + 1), f"{LONGEST_NOTE + 1:,} characters"), ("\x00", "control characters")):
        with pytest.raises(ConfigError, match=says):
            service.library.note(one.id, text)
    service.library.note(one.id, "")
    assert service.adapter(one.id).note == ""
    with pytest.raises(NotFound):
        service.library.note("nobody", "x")


def test_a_deleted_adapter_is_nowhere_and_comes_back_as_it_was(service: Service, pair: tuple[Adapter, Adapter]) -> None:
    one, two = pair
    trash = service.library.trash
    trash.put(one.id)
    assert service.adapters() == (two,) and [each.id for each in trash.all()] == [one.id]
    for act in (service.adapter, service.export_zip, trash.put, lambda each: service.library.note(each, "x")):
        with pytest.raises(NotFound, match="was deleted"):
            act(one.id)
    with pytest.raises(NotFound, match="was deleted"):
        list(service.chat([Pane(adapter=one.id, messages=ASK)]))
    assert trash.restore(one.id) == one
    assert service.adapter(one.id) == one and trash.all() == ()
    assert trash.restore(one.id) == one  # a second click changes nothing


def test_emptying_removes_files_and_what_is_left_still_knows_its_parents(
    service: Service, pair: tuple[Adapter, Adapter]
) -> None:
    one, two = pair
    wanted = Combination(how="concat", weights=(1.0, 1.0))
    done = rest(service, service.library.begin_combination([one.id, two.id], wanted, "Both"))
    assert done.adapter_id is not None
    zipped = service.export_zip(one.id)
    kept = service.export_zip(two.id)
    service.library.trash.put(one.id)
    assert one.path.is_dir() and zipped.is_file()
    assert service.library.trash.empty() == 1
    assert not one.path.exists() and not zipped.exists() and kept.is_file() and two.path.is_dir()
    assert service.library.trash.all() == ()
    with pytest.raises(AdapterError):
        service.library.trash.restore(one.id)
    assert [parent.name for parent in service.adapter(done.adapter_id).origin.parents] == ["one", "two"]


def test_what_was_deleted_a_month_ago_goes_by_itself(service: Service, pair: tuple[Adapter, Adapter]) -> None:
    one, two = pair
    trash = service.library.trash
    trash.put(one.id)
    trash.expire()
    assert one.path.is_dir()
    trash._clock = lambda: time.time() + timedelta(days=DAYS, seconds=60).total_seconds()
    trash.put(two.id)
    trash.restore(two.id)
    trash.expire()
    assert not one.path.exists() and two.path.is_dir()


def test_the_files_that_a_killed_emptying_left_are_removed_at_the_next_start(
    service: Service, pair: tuple[Adapter, Adapter]
) -> None:
    one, _ = pair
    service.library.trash.put(one.id)
    assert service._store.shelf.empty(one.id)  # and then it was killed
    service.library.start()
    assert not one.path.exists()


def test_a_copy_that_two_adapters_share_stays_for_the_other(service: Service, made: dict[str, Path]) -> None:
    one, twin = placed(service, made["one"]), placed(service, made["one"])
    assert one.fingerprint == twin.fingerprint and one.id != twin.id
    copy = service.export_zip(one.id)
    service.library.trash.put(one.id)
    service.library.trash.empty()
    assert copy.is_file() and twin.path.is_dir() and not one.path.exists()


@pytest.fixture
def model(service: Service, dataset_file: Path, tiny_model: Path) -> Iterator[tuple[Adapter, str]]:
    run_id = finish(service, dataset_file, tiny_model, method="full")
    (found,) = service.trained_models()
    yield found, run_id


def test_a_deleted_result_leaves_its_run_with_its_figures(service: Service, model: tuple[Adapter, str]) -> None:
    found, run_id = model
    service.library.trash.put(found.id)
    assert service.trained_models() == ()
    run = service.run(run_id)
    assert (run.adapter_id, run.eval_loss) == (None, 1.5)
    service.library.trash.restore(found.id)
    assert service.run(run_id).adapter_id == found.id
    service.library.trash.put(found.id)
    service.library.trash.empty()
    assert not (service.home / "runs" / run_id / "adapter").exists()
    assert (service.home / "runs" / run_id / "config.json").is_file()
    assert service.run(run_id).eval_loss == 1.5


def test_a_model_that_a_run_stands_on_is_not_deleted(
    service: Service, model: tuple[Adapter, str], made: dict[str, Path]
) -> None:
    found, run_id = model
    data = {"dataset_id": service.run(run_id).config.data.dataset_id}
    config = parse({"name": "on top", "base_model": str(found.path), "data": data})
    service._home.run("R9").path.mkdir()
    service._store.add_run("R9", config, None)
    with pytest.raises(AdapterError, match="base model of a run"):
        service.library.trash.put(found.id)
    service.cancel_run("R9")
    above = placed(service, made["one"])
    service._store.shelf.change(above.id, base_model=str(found.path))
    with pytest.raises(AdapterError, match="base model of other adapters"):
        service.library.trash.put(found.id)
    service.library.trash.put(above.id)
    service.library.trash.put(found.id)


def test_an_adapter_in_the_middle_of_a_reply_is_not_deleted(service: Service, pair: tuple[Adapter, Adapter]) -> None:
    one, _ = pair
    updates = service.chat([Pane(adapter=one.id, messages=ASK)], max_new_tokens=500)
    next(updates)
    with pytest.raises(AdapterError, match="is answering"):
        service.library.trash.put(one.id)
    updates.close()  # type: ignore[attr-defined]
    service.library.trash.put(one.id)
