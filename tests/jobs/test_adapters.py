"""What a run left, told apart by its files alone, and copied and zipped without anything else."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from core.errors import AdapterError, ConfigError, ModelError
from jobs.adapters import check_output, copy_adapter, describe_adapter, require_adapter, zip_folder
from tests.jobs.stand_in import write_adapter, write_model

MODEL_FILES = [
    "config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
    "model.safetensors.index.json", "tokenizer.json",
]  # fmt: skip


def with_settings(folder: Path, **changes: Any) -> Path:
    write_adapter(folder)
    path = folder / "adapter_config.json"
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in values.items() if value != "gone"}))
    return folder


@pytest.mark.parametrize(
    ("changes", "method", "task", "rank", "targets"),
    [
        ({}, "lora", "chat", 4, ("q_proj",)),
        ({"task_type": "SEQ_CLS"}, "lora", "classification", 4, ("q_proj",)),
        ({"target_modules": "all-linear"}, "lora", "chat", 4, ("all-linear",)),
        ({"target_modules": None}, "lora", "chat", 4, ()),
        ({"peft_type": "BITFIT", "r": "gone", "lora_alpha": "gone", "target_modules": "gone"}, "bitfit", "chat", 0, ()),
    ],
)
def test_an_adapter_says_what_it_is(
    tmp_path: Path, changes: dict[str, Any], method: str, task: str, rank: int, targets: tuple[str, ...]
) -> None:
    facts = describe_adapter(with_settings(tmp_path / "a", **changes))
    assert (facts.method, facts.task, facts.rank, facts.targets) == (method, task, rank, targets)
    assert (facts.base_model, facts.bytes) == ("x/y", len(b"weights"))


def test_the_names_of_classes_make_a_classifier(tmp_path: Path) -> None:
    write_adapter(tmp_path)
    (tmp_path / "labels.json").write_text('["bad", "good"]')
    assert describe_adapter(tmp_path).task == "classification"


@pytest.mark.parametrize(
    ("architecture", "task"),
    [("LlamaForCausalLM", "chat"), ("BertForSequenceClassification", "classification")],
)
def test_a_whole_model_says_what_it_is(tmp_path: Path, architecture: str, task: str) -> None:
    write_model(tmp_path, architecture)
    facts = describe_adapter(tmp_path)
    assert (facts.method, facts.task, facts.rank, facts.targets) == ("full", task, 0, ())
    assert facts.bytes == sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    first = facts.fingerprint
    shard = tmp_path / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x01")
    assert describe_adapter(tmp_path).fingerprint != first


def test_a_whole_model_is_no_adapter(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    with pytest.raises(AdapterError, match="whole model"):
        require_adapter(tmp_path / "model")
    (tmp_path / "model" / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match="missing"):
        describe_adapter(tmp_path / "model")
    with pytest.raises(AdapterError, match="holds no adapter"):
        describe_adapter(tmp_path)


@pytest.mark.parametrize("config", ["[]", "{", '{"architectures": 3}'])
def test_a_models_config_that_is_none_is_refused(tmp_path: Path, config: str) -> None:
    write_model(tmp_path)
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(AdapterError, match="is not a model's"):
        describe_adapter(tmp_path)


def test_a_model_is_copied_and_zipped_whole_and_without_anything_else(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    copy_adapter(tmp_path / "model", tmp_path / "copy")
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == MODEL_FILES
    zip_folder(tmp_path / "model", tmp_path / "model.zip")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        assert sorted(archive.namelist()) == MODEL_FILES
    assert describe_adapter(tmp_path / "copy") == describe_adapter(tmp_path / "model")


def test_an_adapter_keeps_its_classes_and_its_tokenizer(tmp_path: Path) -> None:
    write_adapter(tmp_path / "a")
    for name in ("labels.json", "tokenizer.json", "optimizer.pt"):
        (tmp_path / "a" / name).write_text("{}")
    copy_adapter(tmp_path / "a", tmp_path / "b")
    copied = {path.name for path in (tmp_path / "b").iterdir()}
    assert {"labels.json", "tokenizer.json"} < copied and "optimizer.pt" not in copied


def test_a_model_is_never_written_over_anything(tmp_path: Path) -> None:
    check_output(tmp_path / "new", must_be_new=True)
    write_adapter(tmp_path / "old")
    check_output(tmp_path / "old")
    write_model(tmp_path / "base")
    for name in ("old", "base"):
        with pytest.raises(ConfigError, match="not empty"):
            check_output(tmp_path / name, must_be_new=True)
