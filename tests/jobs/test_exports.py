"""Adapters written for other programs: in the form that was asked for, whole or not at all."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.adapters.inject import inject, lora_layers
from core.adapters.peft_format import read_adapter, save_adapter
from core.adapters.ways import Combination
from core.config import LoraConfig
from core.errors import AdapterError, ConfigError, UserError
from core.models.load import load_model
from jobs import exports
from jobs.export_draft import check_path
from jobs.exports import Export, export_adapter
from jobs.home import PROJECT
from jobs.reworking import combine_adapters, shrink_adapter
from tests.jobs.stand_in import write_model


def write(folder: Path, model: Path, seed: int, **lora: Any) -> Path:
    """A real adapter of `model` that changes it."""
    loaded, config = load_model(model, dtype=torch.float32), LoraConfig(rank=4, **lora)
    inject(loaded.model, config, key="a", seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for layer in lora_layers(loaded.model).values():
        update = layer.update("a")
        update.b.data.copy_(torch.randn(update.b.shape, generator=generator) * 0.1)
    save_adapter(loaded.model, "a", folder, config, str(model))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {
        "one": write(folder / "one", tiny_model, 1),
        "two": write(folder / "two", tiny_model, 2, targets=("q_proj",)),
        "dora": write(folder / "dora", tiny_model, 3, use_dora=True),
    }


def order(trained: dict[str, Path], form: str, output: Path, name: str = "one", **more: Any) -> Export:
    return Export(adapter=trained[name], form=form, output=output, **({"is_checked": False} | more))


def test_every_form_of_a_folder_can_be_a_zip_of_the_same_files(trained: dict[str, Path], tmp_path: Path) -> None:
    for form in ("peft", "portable", "merged"):
        export_adapter(order(trained, form, tmp_path / form))
        export_adapter(order(trained, form, tmp_path / f"{form}.zip"))
        files = {path.name: path.read_bytes() for path in (tmp_path / form).iterdir()}
        with zipfile.ZipFile(tmp_path / f"{form}.zip") as archive:
            assert {name: archive.read(name) for name in archive.namelist()} == files
    assert {path.name for path in tmp_path.iterdir()} == {
        *(name for form in ("peft", "portable", "merged") for name in (form, f"{form}.zip"))
    }


@pytest.mark.parametrize(
    ("form", "name"),
    [("peft", "a"), ("portable", "a.zip"), ("merged", "a.zip"), ("gguf", "a.gguf"), ("merged-gguf", "a.gguf"),
     ("merged-gguf-q8_0", "a.gguf")],
)  # fmt: skip
def test_every_form_is_read_back_and_its_figure_is_beside_it(
    form: str, name: str, trained: dict[str, Path], tmp_path: Path
) -> None:
    phases: list[str] = []
    done = export_adapter(order(trained, form, tmp_path / name, is_checked=True), phases.append)
    assert done.verdict is not None and done.verdict.is_good and done.verdict.agreed >= 0.9 * done.verdict.tokens > 0
    assert json.loads(check_path(tmp_path / name).read_text())["difference"] == done.verdict.difference
    assert phases == [exports.WRITING, exports.CHECKING, exports.PACKING]
    assert {path.name for path in tmp_path.iterdir()} == {name, f"{name}.check.json"}
    if name.endswith(".zip"):
        with zipfile.ZipFile(tmp_path / name) as archive:
            assert done.verdict.sentence in archive.read("README.md").decode()


def test_what_does_not_say_the_same_is_not_handed_out(
    trained: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = exports._WRITERS["portable"]

    def damage(given: Export, base: Path | None, draft: Path) -> tuple[str, str]:
        told = write(given, base, draft)
        weights = draft / "adapter_model.safetensors"
        tensors = load_file(weights)
        name = next(name for name in tensors if name.endswith("lora_B.weight"))
        save_file(tensors | {name: -tensors[name]}, weights, metadata={"format": "pt"})
        return told

    monkeypatch.setitem(exports._WRITERS, "portable", damage)
    with pytest.raises(AdapterError, match=r"not kept: logits differ by [\d.e+-]+ of their spread"):
        export_adapter(order(trained, "portable", tmp_path / "out.zip", is_checked=True))
    assert list(tmp_path.iterdir()) == []


def test_where_memory_does_not_suffice_that_is_said(
    trained: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "_BYTES_A_PARAMETER", 10**9)
    done = export_adapter(order(trained, "peft", tmp_path / "out", is_checked=True))
    assert done.verdict is not None and done.verdict.sentence.startswith("Not read back: that takes ")
    assert done.verdict.sentence in (tmp_path / "out" / "README.md").read_text()


def test_a_merge_says_what_rounding_did(trained: dict[str, Path], tmp_path: Path) -> None:
    assert "nothing was lost" in export_adapter(order(trained, "merged", tmp_path / "a", fp32=True)).words
    assert "rounding is off by up to" in export_adapter(order(trained, "merged", tmp_path / "b", bits=4)).words
    assert (tmp_path / "b" / "config.json").is_file()


@pytest.mark.parametrize(
    ("more", "says"),
    [({"form": "onnx"}, "portable, merged, gguf, merged-gguf or merged-gguf-q8_0"),
     ({"form": "portable", "fp32": True}, "about merging"), ({"form": "merged", "shard_size": "much"}, "'much'"),
     ({"form": "merged", "bits": 3}, "Bits is 3"), ({"form": "portable", "name": "dora"}, "DoRA"),
     ({"form": "gguf", "name": "dora"}, "DoRA")],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_written_leaves_nothing(
    trained: dict[str, Path], tmp_path: Path, more: dict[str, Any], says: str
) -> None:
    for name in ("out", "out.zip"):
        with pytest.raises(UserError) as caught:
            export_adapter(order(trained, output=tmp_path / name, **more))
        assert says in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over(trained: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    for form in ("portable", "merged"):
        with pytest.raises(ConfigError, match="not empty"):
            export_adapter(order(trained, form, tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
    (tmp_path / "empty").mkdir()
    export_adapter(order(trained, "portable", tmp_path / "empty"))
    assert read_adapter(tmp_path / "empty").tensors


def test_a_whole_model_is_not_exported_as_an_adapter(trained: dict[str, Path], tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    with pytest.raises(AdapterError, match="whole model"):
        export_adapter(Export(adapter=tmp_path / "model", form="peft", output=tmp_path / "x"))
    with pytest.raises(AdapterError, match="whole model"):
        shrink_adapter(tmp_path / "model", tmp_path / "x", rank=2, energy=None)


def delta(folder: Path, module: str) -> torch.Tensor:
    """ΔW of one module of an adapter on disk."""
    files = read_adapter(folder)
    a, b = files.tensors[module]
    return files.settings.scale_of(module) * b @ a


def test_adapters_are_combined_with_their_weights(trained: dict[str, Path], tmp_path: Path) -> None:
    wanted = Combination(how="concat", weights=(0.5, -2.0))
    assert "exact" in combine_adapters([trained["one"], trained["two"]], wanted, tmp_path / "sum")
    module = "model.layers.1.self_attn.q_proj"
    expected = 0.5 * delta(trained["one"], module) - 2.0 * delta(trained["two"], module)
    assert torch.allclose(delta(tmp_path / "sum", module), expected, atol=1e-6)
    words = combine_adapters(
        [tmp_path / "sum"], replace(wanted, how="svd", weights=(1.0,), rank=8), tmp_path / "svd.zip"
    )
    assert words == "Rank 8 keeps 100.0% of the combined change's energy."
    assert zipfile.is_zipfile(tmp_path / "svd.zip")


def test_a_combination_that_cannot_be_leaves_nothing(trained: dict[str, Path], tmp_path: Path) -> None:
    for how, weights in (("svd", (1.0, 1.0)), ("concat", (1.0,)), ("magic", (1.0, 1.0))):
        with pytest.raises(ConfigError):
            wanted = Combination(how=how, weights=weights)  # type: ignore[arg-type]
            combine_adapters([trained["one"], trained["two"]], wanted, tmp_path / "x")
    with pytest.raises(AdapterError):
        combine_adapters([trained["one"], tmp_path], Combination(how="concat", weights=(1.0, 1.0)), tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_shrinking_tells_what_is_kept(trained: dict[str, Path], tmp_path: Path) -> None:
    words = shrink_adapter(trained["one"], tmp_path / "small", rank=1, energy=None)
    assert words.startswith("Rank 1 keeps ") and not words.startswith("Rank 1 keeps 100")
    assert all(a.shape[0] == 1 for a, _ in read_adapter(tmp_path / "small").tensors.values())
    assert "keep" in shrink_adapter(trained["one"], tmp_path / "most", rank=None, energy=0.9)


def test_the_command_line_prints_the_figure(trained: dict[str, Path], tmp_path: Path) -> None:
    command = [
        sys.executable,
        "app.py",
        "export",
        "--adapter",
        str(trained["one"]),
        "--output",
        str(tmp_path / "a.gguf"),
    ]
    done = subprocess.run([*command, "--to", "gguf"], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.strip() == str(tmp_path / "a.gguf"), done.stderr
    assert "Read back by gguf" in done.stderr and "64 of 64 greedy tokens agree" in done.stderr
    refused = subprocess.run([*command, "--to", "onnx"], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and "merged-gguf" in refused.stderr
