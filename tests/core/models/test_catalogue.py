from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.errors import ModelError
from core.models.catalogue import STARTER_FOLDER, default_models_root, find
from tests.core.models.test_shapes import LLAMA, safetensors_file, shard


def write_model(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (folder / "model.safetensors").write_bytes(safetensors_file(LLAMA))
    return folder


def test_the_starter_has_a_folder_once_it_is_there(tmp_path: Path) -> None:
    before = find("starter", tmp_path)
    assert (before.kind, before.folder, before.title) == ("starter", None, "SmolLM2 135M Instruct (starter)")
    write_model(tmp_path / STARTER_FOLDER)
    assert find("starter", tmp_path).folder == tmp_path / STARTER_FOLDER


@pytest.mark.parametrize(
    "ref", ["{folder}", "{folder}/", "{folder}/../mine", "./mine", "mine", "sub/../mine", "~/mine"]
)
def test_a_folder_is_found_by_any_path_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ref: str) -> None:
    folder = write_model(tmp_path / "mine")
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    source = find(ref.format(folder=folder), tmp_path)
    assert (source.kind, source.folder, source.title) == ("folder", folder.resolve(), "mine")


def test_a_folder_that_exists_wins_over_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path / "owner" / "name")
    monkeypatch.chdir(tmp_path)
    assert find("owner/name", tmp_path).kind == "folder"
    assert find("owner/other", tmp_path).kind == "hub"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([], "no config.json"),
        (["model.safetensors"], "no config.json"),
        (["adapter_config.json", "adapter_model.safetensors"], "LoRA adapter, not a base model"),
        (["config.json"], "no model weights"),
        (["config.json", "pytorch_model.bin"], "pickled weights only.*[Cc]onvert the model to safetensors"),
        (["config.json", "adapter_model.safetensors"], "no model weights"),
    ],
)
def test_a_folder_without_a_model_says_what_it_lacks(tmp_path: Path, files: list[str], expected: str) -> None:
    for file in files:
        (tmp_path / file).write_text("{}")
    with pytest.raises(ModelError, match=expected):
        find(str(tmp_path), tmp_path)


def test_a_missing_folder_and_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        find(str(tmp_path / "absent"), tmp_path)
    file = tmp_path / "model.gguf"
    file.touch()
    with pytest.raises(ModelError, match="is a file"):
        find(str(file), tmp_path)


@pytest.mark.parametrize(
    "ref", ["", "gpt2", "a b/c", "owner/na..me", "owner/name\n", "owner/name\0", "öwner/näme", "*/*"]
)
def test_what_is_neither_folder_nor_hub_id_is_refused(tmp_path: Path, ref: str) -> None:
    with pytest.raises(ModelError, match="neither a folder, nor a hub id"):
        find(ref, tmp_path)


@pytest.mark.parametrize(
    "ref", ["/absent/model", "./absent", "~/absent-model", "a/b/c", "C:\\models\\mine", "x" * 5000 + "/y/z"]
)
def test_what_looks_like_a_path_is_never_taken_for_a_hub_id(tmp_path: Path, ref: str) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        find(ref, tmp_path)


def cached(hub_cache: Path) -> Path:
    """The folder of a snapshot in a hub cache, with what makes the cache find it."""
    repository = hub_cache / "models--owner--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    return snapshot


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_hub_model_that_is_not_here_has_no_folder(tmp_path: Path, hub_cache: Path) -> None:
    source = find("owner/name", tmp_path)
    assert (source.kind, source.folder, source.title) == ("hub", None, "owner/name")


def test_a_hub_model_in_the_cache_is_found_there(tmp_path: Path, hub_cache: Path) -> None:
    snapshot = write_model(cached(hub_cache))
    assert find("owner/name", tmp_path).folder == snapshot


def test_a_hub_model_that_came_only_in_part_counts_as_not_here(tmp_path: Path, hub_cache: Path) -> None:
    snapshot = cached(hub_cache)
    (snapshot / "config.json").write_text("{}")
    assert find("owner/name", tmp_path).folder is None
    shard(snapshot, LLAMA, 3)
    assert find("owner/name", tmp_path).folder == snapshot
    (snapshot / "model-00002-of-00003.safetensors").unlink()
    assert find("owner/name", tmp_path).folder is None


def test_the_models_root_can_be_chosen_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_WORKBENCH_MODELS", str(tmp_path))
    assert default_models_root() == tmp_path
    monkeypatch.delenv("LORA_WORKBENCH_MODELS")
    assert default_models_root().parts[-2:] == ("lora-workbench", "models")
