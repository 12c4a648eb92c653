"""What programs may ask, and by which names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from core.data.records import Message
from core.errors import ConfigError, NotFound
from jobs import tables
from jobs.service import Asked, Delta, Sampling, Service
from tests.jobs.adapters_on_tiny import put_adapters


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Service]:
    root = tmp_path_factory.mktemp("serving")
    put_adapters(root / "home", tiny_model, {"captain": 2, "json": 4, "twin": 3})
    service = Service(root / "home", tiny_model.parent)
    yield service
    service.close()


def rename(service: Service, old: str, new: str) -> None:
    with service._store._database.write() as connection:
        connection.execute(update(tables.adapters).filter_by(name=old).values(name=new))


def test_bases_and_adapters_are_listed_by_their_names_the_newest_first(serving: Service, tiny_model: Path) -> None:
    listed = serving.serving.models()
    assert [(each.id, each.fingerprint) for each in listed] == [
        ("tiny", None), ("twin", "00000002"), ("json", "00000001"), ("captain", "00000000"),
    ]  # fmt: skip
    assert {each.base_model for each in listed} == {str(tiny_model)}


def test_a_base_that_does_not_talk_is_not_listed(serving: Service, tiny_model: Path) -> None:
    encoder = tiny_model.parent / "encoder"
    shutil.copytree(tiny_model, encoder)
    config = json.loads((encoder / "config.json").read_text())
    (encoder / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaModel"]}))
    try:
        assert str(encoder) in {choice.ref for choice in serving.models.choices()}
        assert "encoder" not in {each.id for each in serving.serving.models()}
    finally:
        shutil.rmtree(encoder)


@pytest.mark.parametrize("name", ["captain", "captain#00000000"])
def test_an_adapter_is_found_by_either_name(serving: Service, name: str) -> None:
    found = serving.serving.find(name)
    assert (found.id, found.fingerprint) == ("captain", "00000000") and found.adapter_id


def test_several_of_one_name_are_told_apart_by_their_fingerprints(serving: Service) -> None:
    rename(serving, "twin", "json")
    try:
        ids = [each.id for each in serving.serving.models()]
        assert ids == ["tiny", "json#00000002", "json#00000001", "captain"]
        with pytest.raises(NotFound, match="json#00000001, json#00000002"):
            serving.serving.find("json")
        assert [serving.serving.find(name).fingerprint for name in ids[1:3]] == ["00000002", "00000001"]
    finally:
        with serving._store._database.write() as connection:
            connection.execute(update(tables.adapters).filter_by(fingerprint="00000002").values(name="twin"))


def test_a_base_that_is_called_as_an_adapter_is_gets_a_longer_name(serving: Service) -> None:
    rename(serving, "twin", "tiny")
    try:
        base, adapter, *_ = serving.serving.models()
        assert base.id.startswith("tiny#") and adapter.id == "tiny"
        assert serving.serving.find("tiny").adapter_id and serving.serving.find(base.id).adapter_id is None
    finally:
        rename(serving, "tiny", "twin")


def test_what_is_not_here_is_not_served(serving: Service, tmp_path: Path) -> None:
    with serving._store._database.write() as connection:
        connection.execute(update(tables.adapters).filter_by(name="twin").values(base_model=str(tmp_path / "gone")))
    assert "twin" not in [each.id for each in serving.serving.models()]
    for name in ("twin", "starter", "zebra", "", "captain#ffffffff"):
        with pytest.raises(NotFound, match="List the models|list the models"):
            serving.serving.find(name)


def test_what_nobody_could_answer_is_refused_at_once(serving: Service) -> None:
    found = serving.serving.find("captain")
    wrong = ([], [Asked(sampling=Sampling())], [Asked(sampling=Sampling(max_new_tokens=0), text="x")])
    for asked in wrong:
        with pytest.raises(ConfigError):
            serving.serving.answer(found, asked)


def test_a_conversation_and_a_text_are_answered(serving: Service) -> None:
    sampling = Sampling(max_new_tokens=3)
    hello = (Message(role="user", content="hello"),)
    asked = [Asked(sampling=sampling, messages=hello), Asked(sampling=sampling, text="hello")]
    updates = list(serving.serving.answer(serving.serving.find("json"), asked))
    last = {update.pane: update for update in updates if isinstance(update, Delta)}
    assert [last[pane].ended for pane in (0, 1)] == ["length", "length"]
    assert last[0].prompt_tokens > last[1].prompt_tokens == 5
