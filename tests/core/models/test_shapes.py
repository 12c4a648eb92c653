from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.errors import ModelError
from core.models.shapes import LinearShape, linear_shapes, parameter_count, weight_files

Header = dict[str, tuple[int, ...]]

LLAMA: Header = {
    "model.embed_tokens.weight": (100, 8),
    "lm_head.weight": (100, 8),
    "model.norm.weight": (8,),
    **{
        f"model.layers.{layer}.{name}.weight": shape
        for layer in (0, 1, 2, 10)
        for name, shape in {
            "input_layernorm": (8,),
            "mlp.down_proj": (8, 24),
            "mlp.gate_proj": (24, 8),
            "mlp.up_proj": (24, 8),
            "self_attn.k_proj": (4, 8),
            "self_attn.o_proj": (8, 8),
            "self_attn.q_proj": (8, 8),
            "self_attn.v_proj": (4, 8),
        }.items()
    },
}
GPT2: Header = {
    "wte.weight": (100, 8),
    "wpe.weight": (16, 8),
    "h.0.attn.bias": (1, 1, 16, 16),
    "h.0.attn.c_attn.weight": (8, 24),
    "h.0.attn.c_proj.weight": (8, 8),
    "h.0.mlp.c_fc.weight": (8, 32),
    "h.0.mlp.c_proj.weight": (32, 8),
}


def safetensors_file(header: Header, dtype: str = "F32") -> bytes:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in sorted(header.items()):
        size = 4
        for length in shape:
            size *= length
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + bytes(end)


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., Path]:
    """Writes a model folder of one file."""

    def to_folder(header: Header, model_type: str = "llama", dtype: str = "F32") -> Path:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
        (tmp_path / "model.safetensors").write_bytes(safetensors_file(header, dtype))
        return tmp_path

    return to_folder


def shard(folder: Path, header: Header, parts: int) -> None:
    """Split `header` over `parts` files with an index, as large models are."""
    names = sorted(header)
    weight_map = {name: f"model-{at % parts + 1:05}-of-{parts:05}.safetensors" for at, name in enumerate(names)}
    for file in set(weight_map.values()):
        part = {name: header[name] for name in names if weight_map[name] == file}
        (folder / file).write_bytes(safetensors_file(part))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_layers_come_in_the_order_of_the_computation(model: Callable[..., Path]) -> None:
    names = [shape.name for shape in linear_shapes(model(LLAMA))]
    leaves = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert [name.rpartition(".")[2] for name in names] == list(leaves) * 4
    assert [int(name.split(".")[2]) for name in names] == [layer for layer in (0, 1, 2, 10) for _ in leaves]


def test_embeddings_heads_and_norms_are_no_linear_layers(model: Callable[..., Path]) -> None:
    names = [shape.name for shape in linear_shapes(model(LLAMA))]
    assert not any(word in name for name in names for word in ("embed", "lm_head", "norm", ".weight"))


def test_sizes_are_those_of_a_linear_layer(model: Callable[..., Path]) -> None:
    shapes = {shape.name: shape for shape in linear_shapes(model(LLAMA))}
    name = "model.layers.0.mlp.down_proj"
    assert shapes[name] == LinearShape(name=name, in_features=24, out_features=8)


def test_gpt2_s_transposed_weights_are_turned(model: Callable[..., Path]) -> None:
    found = [(shape.name, shape.in_features, shape.out_features) for shape in linear_shapes(model(GPT2, "gpt2"))]
    assert found == [
        ("h.0.attn.c_attn", 8, 24),
        ("h.0.attn.c_proj", 8, 8),
        ("h.0.mlp.c_fc", 8, 32),
        ("h.0.mlp.c_proj", 32, 8),
    ]


def test_experts_that_are_joined_on_loading_are_not_taken_for_linear_layers(model: Callable[..., Path]) -> None:
    experts = {f"model.layers.0.mlp.experts.{at}.w1.weight": (24, 8) for at in range(4)}
    names = [shape.name for shape in linear_shapes(model(LLAMA | experts))]
    assert len(names) == 28
    assert not any("experts" in name for name in names)


def test_packed_integer_weights_are_not_taken_for_linear_shapes(model: Callable[..., Path]) -> None:
    assert linear_shapes(model(LLAMA, dtype="U8")) == ()


@pytest.mark.parametrize("header", [LLAMA, GPT2])
def test_every_tensor_counts_as_parameters(model: Callable[..., Path], header: Header) -> None:
    folder = model(header)
    data_bytes = sum(path.stat().st_size for path in weight_files(folder))
    header_bytes = int.from_bytes((folder / "model.safetensors").read_bytes()[:8], "little")
    assert parameter_count(folder) * 4 == data_bytes - header_bytes - 8


def test_a_model_that_was_written_anew_is_read_anew(model: Callable[..., Path]) -> None:
    folder = model(LLAMA)
    before = linear_shapes(folder), parameter_count(folder)
    assert (linear_shapes(folder), parameter_count(folder)) == before
    (folder / "model.safetensors").write_bytes(safetensors_file(GPT2))
    assert parameter_count(folder) != before[1]
    assert {shape.name.partition(".")[0] for shape in linear_shapes(folder)} == {"h"}


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_a_sharded_model_reads_as_the_whole_one(model: Callable[..., Path], tmp_path: Path, parts: int) -> None:
    whole = model(LLAMA)
    folder = tmp_path / "sharded"
    folder.mkdir()
    shard(folder, LLAMA, parts)
    assert linear_shapes(folder) == linear_shapes(whole)
    assert parameter_count(folder) == parameter_count(whole)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    shard(tmp_path, LLAMA, 3)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model-00002-of-00003\.safetensors is missing"):
        linear_shapes(tmp_path)


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/hosts", "..\\other.safetensors"])
def test_an_index_cannot_point_outside_its_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a.weight": name}}))
    with pytest.raises(ModelError, match="points outside its folder"):
        linear_shapes(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": {}}'])
def test_a_broken_index_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ModelError):
        linear_shapes(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 7,
        b"version https://git-lfs.github.com/spec/v1",
        (10**15).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (2).to_bytes(8, "little") + b"{x",
        (20).to_bytes(8, "little") + b'{"a":{"shape": [1]}}',
        safetensors_file({"a.weight": (4, 4)})[:-1],
    ],
)
def test_what_is_no_whole_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors is no whole safetensors file"):
        linear_shapes(tmp_path)


def test_damaged_files_give_no_other_error_than_ours(model: Callable[..., Path]) -> None:
    dice = random.Random(0)
    folder = model(GPT2)
    whole = (folder / "model.safetensors").read_bytes()
    header_end = 8 + int.from_bytes(whole[:8], "little")
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(dice.randint(1, 3)):
            damaged[dice.randrange(header_end)] = dice.randrange(256)
        (folder / "model.safetensors").write_bytes(damaged)
        try:
            linear_shapes(folder)
        except ModelError as error:
            assert error.hint


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(safetensors_file({"a.weight": (1, 1)}))
    with pytest.raises(ModelError, match="holds no model weights"):
        linear_shapes(tmp_path)


def test_the_header_is_read_as_the_safetensors_library_reads_it(model: Callable[..., Path]) -> None:
    from safetensors import safe_open

    folder = model({name: shape for name, shape in LLAMA.items() if "layers" in name and len(shape) == 2})
    with safe_open(folder / "model.safetensors", "np") as file:
        expected = {name: tuple(file.get_slice(name).get_shape()) for name in iter(file.keys())}
    assert {f"{s.name}.weight": (s.out_features, s.in_features) for s in linear_shapes(folder)} == expected
