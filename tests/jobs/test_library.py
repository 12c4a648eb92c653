"""The library: adapters from elsewhere, by real processes."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from core.config import STARTER
from core.errors import AdapterError, NotFound
from core.models.catalogue import STARTER_UPSTREAM
from jobs.service import Delta, Pane, Service
from tests.core.models.hub_stand_in import Model, hub
from tests.jobs.adapters_at_hand import peft_folder, zip_of
from tests.jobs.shelf import ASK, left, rest, taken


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
