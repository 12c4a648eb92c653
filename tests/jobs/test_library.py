"""The library: adapters from elsewhere and out of others, by real processes; names, notes, the trash."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from core.adapters.peft_format import read_adapter
from core.adapters.portable import products_in
from core.adapters.ways import Combination
from core.config import STARTER, parse
from core.data.records import Message
from core.errors import AdapterError, ConfigError, NotFound, UserError
from core.models.catalogue import STARTER_UPSTREAM
from jobs.adapters import describe_adapter
from jobs.ids import new_id
from jobs.makings import Making
from jobs.names import LONGEST_NOTE
from jobs.origins import Origin
from jobs.service import Adapter, Delta, Pane, Service
from jobs.trash import DAYS
from tests.core.models.hub_stand_in import Model, hub
from tests.jobs.adapters_at_hand import peft_folder, zip_of
from tests.jobs.test_service_results import finish
from tests.jobs.waiting import wait_for

ASK = (Message(role="user", content="hello"),)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("peft")
    return {
        "one": peft_folder(folder / "one", tiny_model, 1),
        "two": peft_folder(folder / "two", tiny_model, 2, r=2),
        "elsewhere": peft_folder(folder / "elsewhere", tiny_model, 3, base="somebody/tiny-llama"),
    }


def rest(service: Service, making: Making, seconds: float = 120) -> Making:
    """The making once it is over."""

    def settled() -> Making | None:
        now = service.library.makings.look(making.id, 0.1)
        return now if now.state != "making" else None

    return wait_for(settled, seconds)


def taken(service: Service, path: Path) -> Adapter:
    done = rest(service, service.library.begin_elsewhere(str(path)))
    assert done.adapter_id is not None, done.problem
    return service.adapter(done.adapter_id)


def placed(service: Service, path: Path) -> Adapter:
    """As `taken`, without the process that takes seconds."""
    adapter_id = new_id()
    folder = service.home / "adapters" / adapter_id
    shutil.copytree(path, folder)
    origin = Origin(kind="uploaded", place=f"{path.name}.zip").as_json()
    values = {"id": adapter_id, "name": path.name, "folder": f"adapters/{adapter_id}", "source": origin}
    return service._store.shelf.add({**describe_adapter(folder).as_row(), **values})


def left(service: Service) -> list[str]:
    """What lies among the adapters."""
    return sorted(path.name for path in (service.home / "adapters").iterdir())


def dense(folder: Path) -> dict[str, torch.Tensor]:
    """Every module's ΔW in fp64."""
    products = products_in(read_adapter(folder)).items()
    return {name: product.scale * product.b.double() @ product.a.double() for name, product in products}


# -- from elsewhere --------------------------------------------------------------------------------------------------


def test_a_zip_that_plain_peft_made_becomes_an_adapter_that_chats(
    service: Service, made: dict[str, Path], tiny_model: Path
) -> None:
    done = rest(service, service.library.begin_upload(zip_of(made["one"], "captain/")))
    assert done.state == "done" and done.adapter_id is not None
    adapter = service.adapter(done.adapter_id)
    assert (adapter.name, adapter.rank, adapter.alpha, adapter.run_id) == ("one", 4, 8.0, None)
    assert set(adapter.targets) == {"q_proj", "v_proj"}
    assert (adapter.origin.kind, adapter.origin.place) == ("uploaded", "one.zip")
    assert service.library.base_state(adapter) == "here"
    assert left(service) == [adapter.id] and service.adapters() == (adapter,)
    panes = [Pane(adapter=None, messages=ASK), Pane(adapter=adapter.id, messages=ASK)]
    updates = list(service.chat(panes, max_new_tokens=4))
    assert {update.pane for update in updates if isinstance(update, Delta)} == {0, 1}
    assert service.export_zip(adapter.id).is_file()


def test_a_folder_becomes_an_adapter_and_stays(service: Service, made: dict[str, Path]) -> None:
    before = sorted(path.name for path in made["two"].iterdir())
    adapter = taken(service, made["two"])
    assert (adapter.name, adapter.rank) == ("two", 2)
    assert sorted(path.name for path in made["two"].iterdir()) == before
    weights = "adapter_model.safetensors"
    assert (adapter.path / weights).read_bytes() == (made["two"] / weights).read_bytes()


def test_the_files_of_an_adapter_are_taken_side_by_side(service: Service, made: dict[str, Path]) -> None:
    done = rest(service, service.library.begin_upload(*sorted(made["two"].iterdir())))
    assert done.adapter_id is not None, done.problem
    assert service.adapter(done.adapter_id).rank == 2
    readme = [path for path in made["two"].iterdir() if path.suffix != ".safetensors"]
    refused = rest(service, service.library.begin_upload(*readme))
    assert refused.problem is not None and "adapter_model.safetensors is missing" in refused.problem.detail


def test_an_adapter_of_the_hub_is_taken_by_its_id(
    tmp_path: Path, made: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {path.name: path.read_bytes() for path in made["one"].iterdir()}
    with hub() as there:
        there.models["ann/captain"] = Model(files=files)
        for name, value in {"HF_ENDPOINT": there.url, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": ""}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        service = Service(tmp_path / "home", tmp_path / "models")
        try:
            done = rest(service, service.library.begin_elsewhere("ann/captain"))
            assert done.adapter_id is not None, done.problem
            adapter = service.adapter(done.adapter_id)
            assert (adapter.name, adapter.origin.place) == ("captain", "hub ann/captain")
            refused = rest(service, service.library.begin_elsewhere("ann/nobody"))
            assert refused.problem is not None and "ann/nobody" in refused.problem.title
            assert left(service) == [adapter.id]
        finally:
            service.close()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"peft_type": "IA3"}, "not a LoRA adapter"),
        ({"r": 5}, "but r is 5"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"r": -1}, "r is -1"),
    ],
)
def test_what_the_engine_cannot_read_is_refused_in_one_sentence_and_leaves_nothing(
    service: Service, made: dict[str, Path], tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    for path in made["one"].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    done = rest(service, service.library.begin_upload(zip_of(folder)))
    assert done.state == "refused" and done.problem is not None and says in done.problem.title
    assert str(service.home) not in f"{done.problem.title} {done.problem.detail}"
    assert left(service) == [] and service.adapters() == ()


def test_a_classifier_is_known_as_one(service: Service, made: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "moods"
    folder.mkdir()
    for path in made["one"].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "labels.json").write_text('["bad", "good"]')
    adapter = taken(service, folder)
    assert (adapter.method, adapter.task, adapter.can_chat) == ("lora", "classification", False)
    assert (adapter.path / "labels.json").is_file()


def test_what_is_not_there_is_refused_at_once(service: Service, tmp_path: Path) -> None:
    for place, says in (("", "No folder"), ("/nowhere/at/all", "nothing at"), ("nowhere", "nothing at")):
        with pytest.raises(AdapterError, match=says):
            service.library.begin_elsewhere(place)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(AdapterError, match="no regular file"):
        service.library.begin_elsewhere(str(tmp_path / "pipe"))


def test_a_maker_that_is_killed_is_told_of_and_one_that_is_stopped_leaves_nothing(
    service: Service, made: dict[str, Path]
) -> None:
    making = service.library.begin_elsewhere(str(made["one"]))
    child = service.library.makings._makers[making.id]._child
    assert child is not None
    os.kill(child.pid, signal.SIGKILL)
    gone = rest(service, making)
    assert gone.problem is not None and "ended with status -9" in gone.problem.title
    second = service.library.begin_elsewhere(str(made["one"]))
    service.library.makings.stop(second.id)
    with pytest.raises(NotFound):
        service.library.makings.look(second.id)
    assert left(service) == [] and service.adapters() == ()


def test_what_a_killed_app_was_making_is_gone_when_another_starts(service: Service) -> None:
    old, young = service.home / "adapters" / ".old", service.home / "adapters" / ".young"
    for draft in (old, young):
        draft.mkdir()
        (draft / "adapter_config.json").write_text("{}")
    long_ago = time.time() - 7200
    for path in (*old.iterdir(), old):
        os.utime(path, (long_ago, long_ago))
    service.library.start()
    assert left(service) == [".young"]


def test_a_base_that_is_not_here_is_said_and_another_of_its_shapes_can_be_chosen(
    service: Service, made: dict[str, Path], tiny_model: Path
) -> None:
    adapter = taken(service, made["elsewhere"])
    assert adapter.base_model == "somebody/tiny-llama"
    assert service.library.base_state(adapter) == "hub"
    assert service.library.fitting_bases(adapter.id) == ()
    service.models.remember(str(tiny_model))
    assert service.library.fitting_bases(adapter.id) == ((tiny_model.name, str(tiny_model)),)
    with pytest.raises(AdapterError, match="no layers of the shapes"):
        service.library.choose_base(adapter.id, STARTER)
    service.library.choose_base(adapter.id, str(tiny_model))
    assert service.adapter(adapter.id).base_model == str(tiny_model)


def test_the_starter_is_known_by_the_name_that_others_have_for_it(
    service: Service, tiny_model: Path, tmp_path: Path
) -> None:
    folder = peft_folder(tmp_path / "for-starter", tiny_model, base=STARTER_UPSTREAM)
    assert taken(service, folder).base_model == STARTER


# -- out of others ---------------------------------------------------------------------------------------------------


@pytest.fixture
def pair(service: Service, made: dict[str, Path]) -> tuple[Adapter, Adapter]:
    return placed(service, made["one"]), placed(service, made["two"])


def test_a_combination_changes_what_its_parents_change_by_their_weights(
    service: Service, pair: tuple[Adapter, Adapter]
) -> None:
    one, two = pair
    wanted = Combination(how="concat", weights=(0.5, -1.0))
    done = rest(service, service.library.begin_combination([one.id, two.id], wanted, "Both"))
    assert done.adapter_id is not None, done.problem
    both = service.adapter(done.adapter_id)
    assert (both.name, both.rank, both.base_model) == ("Both", 6, one.base_model)
    assert both.origin.kind == "combined" and both.origin.energy == 1.0 and both.origin.rank is None
    assert [(parent.id, parent.name, parent.weight) for parent in both.origin.parents] == [
        (one.id, "one", 0.5),
        (two.id, "two", -1.0),
    ]
    first, second, sums = dense(one.path), dense(two.path), dense(both.path)
    for name, delta in sums.items():
        assert torch.allclose(delta, 0.5 * first[name] - second[name], atol=1e-6)


@pytest.mark.parametrize("how", ["svd", "ties", "dare_linear", "dare_ties"])
def test_every_other_way_ends_with_the_rank_asked_for(
    service: Service, pair: tuple[Adapter, Adapter], how: Any
) -> None:
    wanted = Combination(how=how, weights=(1.0, 1.0), rank=3, density=0.7, seed=5)
    done = rest(service, service.library.begin_combination([each.id for each in pair], wanted, how))
    assert done.adapter_id is not None, done.problem
    origin = service.adapter(done.adapter_id).origin
    assert service.adapter(done.adapter_id).rank == 3
    assert origin.energy is not None and 0 < origin.energy < 1
    assert (origin.density, origin.seed) == {
        "svd": (None, None),
        "ties": (0.7, None),
        "dare_linear": (0.7, 5),
        "dare_ties": (0.7, 5),
    }[how]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"ids": 1}, "1 adapters cannot be combined"),
        ({"weights": (1.0,)}, "1 weights for 2 adapters"),
        ({"weights": (0.0, 0.0)}, "All weights are 0"),
        ({"how": "magic"}, "no way magic"),
        ({"how": "svd"}, "Rank is 0"),
        ({"how": "ties", "rank": 2, "density": 0.0}, "Density is 0"),
        ({"name": " "}, "name is empty"),
        ({"weights": (float("nan"), 1.0)}, "nan"),
    ],
)
def test_what_cannot_be_combined_is_refused_at_once(
    service: Service, pair: tuple[Adapter, Adapter], values: dict[str, Any], says: str
) -> None:
    given = {"how": "concat", "weights": (1.0, 1.0), **values}
    ids = [each.id for each in pair][: given.pop("ids", 2)]
    name = given.pop("name", "x")
    with pytest.raises(UserError, match=says):
        service.library.begin_combination(ids, Combination(**given), name)


def test_adapters_of_different_bases_are_not_combined(service: Service, made: dict[str, Path]) -> None:
    one, other = placed(service, made["one"]), placed(service, made["elsewhere"])
    wanted = Combination(how="concat", weights=(1.0, 1.0))
    with pytest.raises(AdapterError, match="different base models"):
        service.library.begin_combination([one.id, other.id], wanted, "x")
    service._store.shelf.change(other.id, base_model=one.base_model)  # as `choose_base` does
    done = rest(service, service.library.begin_combination([one.id, other.id], wanted, "x"))
    assert done.state == "done", done.problem


def test_what_a_rank_keeps_is_said_before_and_comes_true(service: Service, pair: tuple[Adapter, Adapter]) -> None:
    one, _ = pair
    weighing = service.library.begin_weighing(one.id)
    rest(service, weighing)
    said = service.library.kept(weighing.id, rank=2)
    assert said is not None and 0 < said.energy < 1 and said.highest_rank == 2
    done = rest(service, service.library.begin_shrinking(one.id, "small", rank=2, energy=None))
    assert done.adapter_id is not None, done.problem
    small = service.adapter(done.adapter_id)
    assert (small.rank, small.origin.kind, small.origin.rank) == (2, "shrunk", 2)
    assert small.origin.energy == pytest.approx(said.energy, rel=1e-9)
    assert abs(small.bytes - said.bytes) < 4000  # the header
    share = service.library.kept(weighing.id, energy=0.8)
    by_share = rest(service, service.library.begin_shrinking(one.id, "share", rank=None, energy=0.8))
    assert by_share.adapter_id is not None and share is not None
    assert service.adapter(by_share.adapter_id).origin.energy == pytest.approx(share.energy, rel=1e-9)


@pytest.mark.parametrize(
    ("rank", "energy", "says"), [(0, None, "Rank is 0"), (None, 1.5, "Energy is 1.5"), (None, None, "to a rank or")]
)
def test_a_size_that_cannot_be_is_refused(
    service: Service, pair: tuple[Adapter, Adapter], rank: int | None, energy: float | None, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        service.library.begin_shrinking(pair[0].id, "x", rank=rank, energy=energy)


# -- notes and the trash ---------------------------------------------------------------------------------------------


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
