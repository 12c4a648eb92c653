"""What goes to a hub of our own arrives whole, where it should, and only where it may."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import RunError
from core.export.about import About
from core.export.hub import check_repo_id, make_public, push_folder
from tests.core.models.hub_stand_in import Hub, Model, hub

# of the hub's client, as it hands large files to its HTTP client
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
TOKEN = "hf_CANARYwriteCANARYwriteCANARYwrite"


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub() as made:
        made.writers[TOKEN] = "me"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", made.url)
        monkeypatch.setattr("huggingface_hub._commit_api.is_xet_available", lambda: False)
        monkeypatch.setattr("huggingface_hub.hf_api.is_xet_available", lambda: False, raising=False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "adapter"
    made.mkdir()
    (made / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 300)
    (made / "adapter_config.json").write_text('{"r": 8}')
    (made / "README.md").write_text("---\nlibrary_name: peft\n---\n# A\n")
    return made


def test_every_file_arrives_byte_for_byte_in_a_private_repository(ours: Hub, folder: Path) -> None:
    assert push_folder(folder, "me/captain", private=True) == f"{ours.url}/me/captain"
    assert ours.models["me/captain"].about == {"private": True}
    assert ours.models["me/captain"].files == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_again_it_is_written_over_and_public_only_where_that_is_wanted(ours: Hub, folder: Path) -> None:
    push_folder(folder, "me/captain", private=False)
    assert ours.models["me/captain"].about == {"private": False}
    (folder / "README.md").write_text("# B\n")
    push_folder(folder, "me/captain", private=False)
    assert ours.models["me/captain"].files["README.md"] == b"# B\n"


def test_nothing_that_is_to_be_private_goes_to_a_public_repository(ours: Hub, folder: Path) -> None:
    ours.models["me/open"] = Model(about={"private": False})
    with pytest.raises(RunError, match="there already and public"):
        push_folder(folder, "me/open", private=True)
    assert ours.models["me/open"].files == {}


def test_who_may_not_write_is_told_without_the_token(ours: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match="may not write to other/captain") as caught:
        push_folder(folder, "other/captain", private=True)
    assert "CANARY" not in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(RunError, match="does not accept the token"):
        push_folder(folder, "me/captain", private=True)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(RunError, match="no token for the hub"):
        push_folder(folder, "me/captain", private=True)
    assert ours.models == {}


def test_a_hub_that_is_not_there_is_one_sentence(ours: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RunError, match="The upload to me/captain broke off"):
        push_folder(folder, "me/captain", private=True)


@pytest.mark.parametrize("name", ["", "captain", "a/b/c", "../x", "me/..", "me/a b", "http://x/y", "me/" + "a" * 97])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(RunError, match="no repository's name"):
        check_repo_id(name)
    assert check_repo_id(" me/my-adapter.v2 ") == "me/my-adapter.v2"


def test_paths_of_this_machine_stay_here(tmp_path: Path) -> None:
    settings = tmp_path / "adapter_config.json"
    settings.write_text(json.dumps({"r": 8, "base_model_name_or_path": "/home/ann/models/tiny"}))
    make_public(tmp_path, About(name="a", base_model="/home/ann/models/tiny"))
    assert json.loads(settings.read_text()) == {"r": 8, "base_model_name_or_path": "tiny"}
    settings.write_text(json.dumps({"base_model_name_or_path": "owner/base"}))
    make_public(tmp_path, About(name="a", base_model="owner/base"))
    assert json.loads(settings.read_text()) == {"base_model_name_or_path": "owner/base"}
