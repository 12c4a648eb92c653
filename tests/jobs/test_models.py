"""Choosing a base model: what is offered, and what is known of it before it is trained on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from core.config import parse
from core.errors import ModelError, RunError
from core.models.catalogue import STARTER_FOLDER
from core.models.hub_info import ask_hub
from jobs.home import Home
from jobs.launchers.local import Worker
from jobs.models import FRESH_SECONDS, RETRY_SECONDS, ModelChoice, Models
from jobs.store import Store
from tests.core.models.hub_stand_in import Hub, Model, hub
from tests.core.models.test_catalogue import cached, write_model
from tests.core.models.test_hub_info import ABOUT, FILES
from tests.jobs.conftest import add_dataset_row
from tests.jobs.tiny_model import write_tiny_model

NAME = "owner/name"


@pytest.fixture
def there() -> Iterator[Hub]:
    with hub() as running:
        yield running


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return tmp_path / "hub"


@pytest.fixture
def models(home: Home, store: Store, there: Hub, tmp_path: Path, clock: Clock) -> Models:
    return Models(home, store, tmp_path / "models", lambda ref: ask_hub(ref, endpoint=there.url), clock)


def queue(store: Store, name: str, base_model: str) -> None:
    if not store.datasets():
        add_dataset_row(store)
    store.add_run(name, parse({"name": name, "base_model": base_model, "data": {"dataset_id": "D"}}), None)


def by_group(choices: tuple[ModelChoice, ...]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for choice in choices:
        groups.setdefault(choice.group, []).append(choice.title)
    return groups


def test_at_first_there_is_the_starter_alone_whether_it_is_here_or_not(models: Models, tmp_path: Path) -> None:
    (choice,) = models.choices()
    assert (choice.ref, choice.group, choice.is_here, choice.used_at) == ("starter", "starter", False, None)
    write_model(tmp_path / "models" / STARTER_FOLDER)
    (choice,) = models.choices()
    assert choice.is_here


def test_models_of_earlier_runs_come_newest_first_with_the_run_that_used_them(
    models: Models, store: Store, tmp_path: Path
) -> None:
    mine = write_model(tmp_path / "mine")
    for name, base in (("first", str(mine)), ("second", NAME), ("third", "starter"), ("fourth", str(mine))):
        queue(store, name, base)
    starter, *recent = models.choices()
    assert (starter.run_name, starter.used_at is not None) == ("third", True)
    assert [(choice.title, choice.run_name, choice.is_here) for choice in recent] == [
        ("mine", "fourth", True),
        (NAME, "second", False),
    ]
    times = [choice.used_at for choice in recent if choice.used_at is not None]
    assert len(times) == 2 and times[0] > times[1]


def test_an_earlier_model_that_has_gone_stays_in_the_list_and_says_so(
    models: Models, store: Store, tmp_path: Path
) -> None:
    queue(store, "first", str(tmp_path / "gone"))
    (choice,) = models.choices()[1:]
    assert (choice.title, choice.is_here) == ("gone", False)
    assert "does not exist" in choice.problem


def test_a_folder_given_once_is_offered_from_then_on_until_it_is_forgotten(
    models: Models, home: Home, store: Store, tmp_path: Path
) -> None:
    mine, other = write_model(tmp_path / "mine"), write_model(tmp_path / "other")
    models.remember(str(mine))
    models.remember(f"{other}/")
    models.remember(str(mine))
    later = Models(home, store, tmp_path / "models")
    assert by_group(later.choices())["folder"] == ["mine", "other"]
    (mine / "config.json").rename(mine / "away.json")
    assert by_group(later.choices())["folder"] == ["other"]
    (mine / "away.json").rename(mine / "config.json")
    later.forget(str(other))
    assert by_group(models.choices())["folder"] == ["mine"]


def test_only_folders_with_models_are_remembered_and_no_ids(models: Models, home: Home, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        models.remember(str(tmp_path))
    models.remember(NAME)
    models.remember("starter")
    assert len(models.choices()) == 1


@pytest.mark.parametrize("content", ["", "{", "7", '["/absent", 3]'])
def test_a_broken_list_of_folders_is_begun_anew(models: Models, home: Home, tmp_path: Path, content: str) -> None:
    home.model_folders.write_text(content)
    assert len(models.choices()) == 1
    models.remember(str(write_model(tmp_path / "mine")))
    assert by_group(models.choices())["folder"] == ["mine"]


def test_a_home_whose_list_is_a_folder_is_told_and_nothing_is_left(models: Models, home: Home, tmp_path: Path) -> None:
    mine = write_model(tmp_path / "mine")
    home.model_folders.mkdir()
    before = set(home.path.iterdir())
    with pytest.raises(RunError, match="cannot be remembered"):
        models.remember(str(mine))
    assert set(home.path.iterdir()) == before


def test_models_beside_the_starter_and_in_the_hubs_cache_are_listed_where_they_are_complete(
    models: Models, hub_cache: Path, tmp_path: Path
) -> None:
    write_model(tmp_path / "models" / "beside")
    (tmp_path / "models" / "empty").mkdir()
    snapshot = write_model(cached(hub_cache))
    assert by_group(models.choices()) == {
        "starter": ["SmolLM2 135M Instruct (starter)"],
        "folder": ["beside"],
        "hub": [NAME],
    }
    (snapshot / "model.safetensors").unlink()
    assert "hub" not in by_group(models.choices())


def test_a_model_is_offered_once_however_it_was_named(
    models: Models, store: Store, hub_cache: Path, tmp_path: Path
) -> None:
    write_model(cached(hub_cache))
    mine = write_model(tmp_path / "models" / "mine")
    queue(store, "first", str(mine))
    queue(store, "second", NAME)
    models.remember(f"{mine.parent}/../models/mine")
    assert by_group(models.choices()) == {
        "starter": ["SmolLM2 135M Instruct (starter)"],
        "recent": [NAME, "mine"],
    }


def test_a_folder_is_described_by_its_own_files(models: Models, tmp_path: Path, there: Hub) -> None:
    folder = write_tiny_model(tmp_path / "tiny")
    (folder / "README.md").write_text("---\ntags: [x]\nlicense: other\nlicense_name: 'house-rules'\n---\nlicense: no\n")
    facts = models.describe(str(folder))
    size = (folder / "model.safetensors").stat().st_size
    assert (facts.is_here, facts.licence, facts.architecture) == (True, "house-rules", "LlamaForCausalLM")
    assert facts.parameters is not None and facts.bytes == size >= 4 * facts.parameters
    assert there.asked == []


@pytest.mark.parametrize("card", [None, "", "no front matter\nlicense: mit\n", "---\ntags: x\n---\nlicense: mit\n"])
def test_a_folder_without_a_licence_says_none(models: Models, tmp_path: Path, card: str | None) -> None:
    folder = write_tiny_model(tmp_path / "tiny")
    if card is not None:
        (folder / "README.md").write_text(card)
    assert models.describe(str(folder)).licence == ""


def test_the_starter_is_described_before_it_is_here(models: Models, there: Hub) -> None:
    facts = models.describe("starter")
    assert not facts.is_here and facts.parameters == 134_515_008 and facts.licence == "apache-2.0"
    assert there.asked == []


def test_the_starter_that_is_here_has_as_many_parameters_as_was_said(models: Models, starter_parameters: int) -> None:
    assert models.describe("starter").parameters == starter_parameters


@pytest.fixture
def starter_parameters() -> int:
    """As its configuration has them: 30 blocks of 576 with 9 heads, 3 of them shared, and a tied head."""
    block = 576 * (576 * 2 + 192 * 2) + 3 * 576 * 1536 + 2 * 576
    return 49_152 * 576 + 30 * block + 576


def test_a_hub_model_is_described_by_the_hub(models: Models, there: Hub) -> None:
    there.models[NAME] = Model(files=FILES, about=ABOUT)
    facts = models.describe(NAME)
    assert (facts.is_here, facts.parameters, facts.licence) == (False, 135_000_000, "apache-2.0")
    assert facts.bytes == 1022 and facts.url == f"{there.url}/{NAME}" and facts.problem is None


def test_the_hub_is_asked_once_for_a_while(models: Models, there: Hub, clock: Clock) -> None:
    there.models[NAME] = Model(files=FILES, about=ABOUT)
    for _ in range(3):
        models.describe(NAME)
    assert len(there.asked) == 1
    clock.now += FRESH_SECONDS
    models.describe(NAME)
    assert len(there.asked) == 2


def test_a_hub_that_did_not_answer_is_asked_again_soon(models: Models, there: Hub, clock: Clock) -> None:
    there.models[NAME] = Model(status=503)
    first = models.describe(NAME)
    assert first.problem is None and "503" in first.remark
    there.models[NAME] = Model(files=FILES, about=ABOUT)
    assert models.describe(NAME).remark == first.remark
    clock.now += RETRY_SECONDS
    assert models.describe(NAME).parameters == 135_000_000


def test_what_is_gated_or_missing_is_an_answer_and_no_exception(models: Models, there: Hub) -> None:
    there.models[NAME] = Model(about={"gated": "auto"}, files=FILES, access=403)
    gated = models.describe(NAME)
    missing = models.describe("owner/absent")
    assert gated.is_gated and gated.problem is not None and "gated" in gated.problem.title
    assert missing.problem is not None and "no model owner/absent" in missing.problem.title


def test_a_model_in_the_cache_is_described_without_the_hub(models: Models, there: Hub, hub_cache: Path) -> None:
    write_model(cached(hub_cache))
    assert models.describe(NAME).is_here
    assert there.asked == []


@pytest.mark.parametrize("ref", ["", "no model", "/absent/folder", "a..b/c"])
def test_what_is_no_model_is_refused(models: Models, ref: str, there: Hub) -> None:
    with pytest.raises(ModelError):
        models.describe(ref)
    assert there.asked == []


def test_a_broken_config_is_told_in_a_sentence(models: Models, tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny")
    (folder / "config.json").write_text("{")
    for ask in (models.describe, models.tree):
        with pytest.raises(ModelError, match=r"config\.json"):
            ask(str(folder))


def test_the_tree_is_there_once_the_model_is(models: Models, tmp_path: Path) -> None:
    assert models.tree(NAME) is None
    tree = models.tree(str(write_tiny_model(tmp_path / "tiny")))
    assert tree is not None and "lm_head" in [each.name for each in tree.children]
    classifier = models.tree(str(tmp_path / "tiny"), "classification")
    assert classifier is not None and not next(each for each in classifier.children if each.kind == "head").is_target


def test_a_tree_follows_its_files(models: Models, tmp_path: Path) -> None:
    folder = str(write_tiny_model(tmp_path / "tiny"))
    before = models.tree(folder)
    assert models.tree(folder) is before
    (tmp_path / "other").mkdir()
    os.replace(write_model(tmp_path / "other") / "model.safetensors", tmp_path / "tiny" / "model.safetensors")
    after = models.tree(folder)
    assert before is not None and after is not None and after.parameters != before.parameters


def test_a_whole_model_that_was_trained_here_goes_by_its_name(models: Models, store: Store, home: Home) -> None:
    values: dict[str, Any] = {"name": "captain", "method": "full", "data": {"dataset_id": "D"}}
    add_dataset_row(store)
    store.add_run("r1", parse(values), None)
    folder = write_tiny_model(home.run("r1").path / "adapter")
    give_result(store, "captain", folder)
    assert by_group(models.choices())["trained"] == ["captain"]
    assert models.describe(str(folder)).source.title == "captain"
    queue(store, "next", str(folder))
    assert by_group(models.choices()) == {"starter": ["SmolLM2 135M Instruct (starter)"], "recent": ["captain"]}


def give_result(store: Store, name: str, folder: Path) -> None:
    """The result of the run that waits, in the store, as the scheduler puts it there."""
    attempt = store.claim(lambda *_: Worker(pid=os.getpid(), birth="now"))
    assert attempt is not None
    values = {"name": name, "base_model": "starter", "folder": store.home.relative(folder), "rank": 0, "alpha": 0.0}
    store.finish(attempt, values | {"targets": "[]", "bytes": 1, "fingerprint": "0"})
