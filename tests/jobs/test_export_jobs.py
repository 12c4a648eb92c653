"""Exports that the app has made by processes of their own, one after the other, and uploads to a hub of our own."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.config import parse
from core.errors import AdapterError, ConfigError, NotFound, RunError
from jobs.adapters import describe_adapter
from jobs.export_draft import check_path
from jobs.export_jobs import FormView
from jobs.service import Service
from tests.core.models.hub_stand_in import Hub, hub
from tests.jobs.test_exports import write
from tests.jobs.waiting import wait_for

TOKEN = "hf_CANARYwriteCANARYwriteCANARYwrite"
SECONDS = 200


def register(service: Service, folder: Path, base: Path, dataset_id: str, name: str) -> str:
    """The adapter in `folder` as the result of a run that is known with its data; its id."""
    run = service.submit(parse({"name": "run", "data": {"dataset_id": dataset_id}, "base_model": str(base)}))
    place = service._home.run(run.id).adapter
    place.mkdir()
    for file in folder.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    attempt = service._store.claim(lambda run_id, _: service._scheduler._launcher.launch(service._home.run(run_id)))
    assert attempt is not None
    service._scheduler._launcher.abandon(attempt.worker)
    row = {"name": name, "folder": f"runs/{run.id}/adapter", "base_model": str(base), "eval_loss": 1.5}
    service._store.finish(attempt, describe_adapter(place).as_row() | row)
    return service.adapters()[0].id


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {"one": write(folder / "one", tiny_model, 1), "dora": write(folder / "dora", tiny_model, 3, use_dora=True)}


@pytest.fixture
def adapter_id(service: Service, trained: dict[str, Path], tiny_model: Path, dataset_file: Path) -> str:
    return register(service, trained["one"], tiny_model, service.data.add(dataset_file).id, "The Captain: é/../x")


def over(service: Service, adapter_id: str, form: str) -> FormView:
    wait_for(lambda: service.exports.form(adapter_id, form).state in ("done", "failed"), SECONDS)
    return service.exports.form(adapter_id, form)


def test_an_export_is_made_by_a_child_with_its_figure_and_once(service: Service, adapter_id: str) -> None:
    views = service.exports.forms(adapter_id)
    assert [view.state for view in views] == ["absent"] * 6
    assert service.exports.start(adapter_id, "portable").state in ("waiting", "going on")
    done = over(service, adapter_id, "portable")
    assert done.state == "done" and done.path is not None and done.verdict is not None, done.sentence
    fingerprint = service.adapter(adapter_id).fingerprint
    assert done.path.name == f"the-captain-e-x-{fingerprint}-portable.zip"
    assert done.verdict.agreed == done.verdict.tokens == 64 and done.bytes == done.path.stat().st_size
    made = done.path.stat().st_mtime_ns
    assert service.exports.start(adapter_id, "portable").state == "done"
    assert service.exports.file(adapter_id, "portable") == done.path
    assert done.path.stat().st_mtime_ns == made
    check_path(done.path).unlink()
    assert service.exports.form(adapter_id, "portable").state == "absent"


def test_the_card_has_what_the_home_knows(service: Service, adapter_id: str) -> None:
    with zipfile.ZipFile(service.exports.file(adapter_id, "peft")) as archive:
        card = archive.read("README.md").decode()
    config = service.run(str(service.adapter(adapter_id).run_id)).config
    rows = service._home.records(config.data.dataset_id).read_bytes()
    assert f"12 rows with SHA-256 `{hashlib.sha256(rows).hexdigest()}`" in card
    assert "1.500" in card and "Read back by peft" in card


def test_one_waits_for_the_other_and_either_can_be_given_up(service: Service, adapter_id: str) -> None:
    service.exports.start(adapter_id, "merged")
    assert service.exports.start(adapter_id, "gguf").state == "waiting"
    service.exports.stop(adapter_id, "gguf")
    assert service.exports.form(adapter_id, "gguf").sentence == "It was stopped."
    service.exports.start(adapter_id, "merged-gguf")
    service.exports.stop(adapter_id, "merged")
    assert service.exports.form(adapter_id, "merged").state == "failed"
    assert over(service, adapter_id, "merged-gguf").state == "done"
    assert not list(service._home.exports.glob("*merged.zip"))


def test_what_cannot_be_made_says_why_and_leaves_nothing(
    service: Service, trained: dict[str, Path], tiny_model: Path, dataset_file: Path
) -> None:
    dora = register(service, trained["dora"], tiny_model, service.data.add(dataset_file).id, "dora")
    service.exports.start(dora, "portable")
    failed = over(service, dora, "portable")
    assert failed.state == "failed" and failed.sentence.startswith("The adapter has DoRA's magnitudes")
    with pytest.raises(AdapterError, match="dora was not exported: The adapter has DoRA's magnitudes"):
        service.exports.file(dora, "portable")
    assert list(service._home.exports.iterdir()) == []
    with pytest.raises(ConfigError, match="no export"):
        service.exports.start(dora, "../../x")
    with pytest.raises(NotFound):
        service.exports.start("nobody", "peft")


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub() as made:
        made.writers[TOKEN] = "me"
        monkeypatch.setenv("HF_ENDPOINT", made.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        yield made


# Our hub comes before the service, whose children have the environment that was there then.
def test_a_push_makes_the_export_and_uploads_it_with_its_card(ours: Hub, service: Service, adapter_id: str) -> None:
    assert service.exports.environment["HF_ENDPOINT"] == ours.url
    with pytest.raises(RunError, match="no repository's name"):
        service.exports.push(adapter_id, "captain", "portable")
    service.exports.push(adapter_id, "me/captain", "portable")
    with pytest.raises(RunError, match="goes on"):
        service.exports.push(adapter_id, "me/captain", "portable")
    wait_for(lambda: service.exports.pushed(adapter_id).state in ("done", "failed"), SECONDS)
    pushed = service.exports.pushed(adapter_id)
    assert (pushed.state, pushed.url) == ("done", f"{ours.url}/me/captain"), pushed.sentence
    model = ours.models["me/captain"]
    assert set(model.files) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert model.about == {"private": True}
    export = service.exports.form(adapter_id, "portable")
    assert export.verdict is not None and export.verdict.sentence in model.files["README.md"].decode()
    assert not any(str(service.home.parent).encode() in content for content in model.files.values())
    kept = b"".join(path.read_bytes() for path in service.home.rglob("*") if path.is_file())
    assert TOKEN.encode() not in kept and "CANARY" not in repr(pushed)

    service.exports.push(adapter_id, "other/captain", "portable", private=False)
    wait_for(lambda: service.exports.pushed(adapter_id).state == "failed", SECONDS)
    assert "may not write to other/captain" in service.exports.pushed(adapter_id).sentence
