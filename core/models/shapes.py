"""A model's linear layers and size, read from the headers of its safetensors files alone.

A safetensors file opens with the header's length (8 bytes, little-endian) and the header itself, a JSON object that
gives each tensor's dtype, shape and place in the file (https://github.com/huggingface/safetensors#format). Reading
it takes milliseconds and neither torch nor the weights, so the page can show every adapter's size before a run.

A checkpoint says nothing of module classes: a matrix `NAME.weight` counts as a linear layer unless its name is one
that embeddings and output heads have. The header lists tensors alphabetically, which puts layer 10 before layer 2
and `down_proj` before `q_proj`; `linear_shapes` restores the order of the computation as far as names tell it.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import orjson

from core.errors import ModelError

Kind = Literal["linear", "head", "embedding", "conv", "experts"]
Stamp: TypeAlias = tuple[tuple[int, int, int], ...]  # of each file: which it is, when it was written, its size

CONFIG_FILE = "config.json"
INDEX_FILE = "model.safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000
REMEMBERED = 8  # models, whose files are not read anew while they stay as they are

# Names that hold a matrix which is no linear layer, or that only projects to the vocabulary or to classes.
_NOT_LINEAR = frozenset({"wte", "wpe", "shared", "lm_head", "score", "classifier", "relative_attention_bias"})
_NOT_LINEAR_PART = "embed"

# transformers' Conv1D stores its weight as [in, out], the transpose of nn.Linear's.
_TRANSPOSED = {model: frozenset({"c_attn", "c_fc", "c_proj"}) for model in ("gpt2", "openai-gpt")}

_LEAF_ORDER = (
    "self", "q_proj", "query", "k_proj", "key", "v_proj", "value", "qkv_proj", "query_key_value", "c_attn",
    "o_proj", "out_proj", "gate_proj", "gate_up_proj", "fc1", "c_fc", "up_proj", "fc2", "c_proj", "down_proj",
)  # fmt: skip
_LEAF_RANK = {name: rank for rank, name in enumerate(_LEAF_ORDER)}


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearShape:
    """A layer that is a matrix: its module's dotted name (without `.weight`) and the sizes of what goes in and out.

    An embedding takes in its vocabulary, a convolution its channels times its kernel's places. The weight of a layer of
    `experts` is that many matrices. `is_transposed` says that it lies as `[in, out]` (Conv1D).
    """

    name: str
    in_features: int
    out_features: int
    kind: Kind = "linear"
    experts: int = 1
    is_transposed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tensor:
    name: str
    dtype: str
    shape: tuple[int, ...]


def linear_shapes(folder: Path) -> tuple[LinearShape, ...]:
    """The linear layers of the model in `folder`, in model order, without embeddings and output heads.

    Raises:
        ModelError: a file is missing, cut short or no safetensors file.
    """
    return _linear_shapes(folder, stamp_of(folder))


@functools.lru_cache(REMEMBERED)
def _linear_shapes(folder: Path, _stamp: Stamp) -> tuple[LinearShape, ...]:
    transposed = _TRANSPOSED.get(_model_type(folder), frozenset())
    shapes = [_linear_shape(tensor, transposed) for tensor in _tensors(folder) if _is_linear(tensor)]
    return tuple(sorted(shapes, key=lambda shape: _model_order(shape.name)))


def parameter_count(folder: Path) -> int:
    """How many numbers the tensors of the model in `folder` hold, a tied head counted once.

    Raises:
        ModelError: as `linear_shapes`.
    """
    return _parameter_count(folder, stamp_of(folder))


@functools.lru_cache(REMEMBERED)
def _parameter_count(folder: Path, _stamp: Stamp) -> int:
    return sum(math.prod(tensor.shape) for tensor in _tensors(folder))


def stamp_of(folder: Path) -> Stamp:
    """What changes when the model in `folder` does: a page asks for its shapes with every key that is pressed.

    Raises:
        ModelError: as `weight_files`.
    """
    found = [path.stat() for path in (folder / CONFIG_FILE, *weight_files(folder)) if path.is_file()]
    return tuple((status.st_ino, status.st_mtime_ns, status.st_size) for status in found)


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor in the safetensors file at `path`, by its name.

    Raises:
        ModelError: it is cut short or no safetensors file. OSError: it is not there.
    """
    return {tensor.name: tensor.shape for tensor in _header(path)}


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files that make up the model in `folder`: the shards of its index, or the only file.

    Raises:
        ModelError: there is none, a shard is missing, or the index points outside the folder.
    """
    if (folder / INDEX_FILE).is_file():
        return _shards(folder)
    if (folder / "model.safetensors").is_file():
        return (folder / "model.safetensors",)
    found = sorted(path for path in folder.glob("*.safetensors") if not path.name.startswith("adapter_"))
    if not found:
        raise ModelError(
            f"{folder.name} holds no model weights", str(folder), "Choose a folder with *.safetensors files"
        )
    return tuple(found)


def _shards(folder: Path) -> tuple[Path, ...]:
    index = _read_json(folder / INDEX_FILE)
    mapping = index.get("weight_map")
    names = sorted(set(map(str, mapping.values()))) if isinstance(mapping, dict) else []
    if not names:
        raise ModelError(f"{INDEX_FILE} lists no files", str(folder), "Download the model again")
    for name in names:
        if Path(name).name != name or "\\" in name:
            raise ModelError(f"{INDEX_FILE} points outside its folder, to {name!r}", str(folder))
        if not (folder / name).is_file():
            raise ModelError(f"{name} is missing", f"{INDEX_FILE} lists it", "Download the model again")
    return tuple(folder / name for name in names)


def _tensors(folder: Path) -> list[_Tensor]:
    return [tensor for path in weight_files(folder) for tensor in _header(path)]


def _header(path: Path) -> list[_Tensor]:
    """The tensors of one file, in the header's order."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise _broken(path, f"its header would have {length:,} bytes")
        text = file.read(length)
    try:
        entries = {name: entry for name, entry in orjson.loads(text).items() if name != "__metadata__"}
        tensors = [
            _Tensor(name=name, dtype=str(at["dtype"]), shape=_sizes(at["shape"])) for name, at in entries.items()
        ]
        end = max((int(at["data_offsets"][1]) for at in entries.values()), default=0)
    except (orjson.JSONDecodeError, AttributeError, LookupError, TypeError, ValueError):
        raise _broken(path, "its header cannot be read") from None
    if 8 + length + end > size:
        raise _broken(path, f"it has {size:,} bytes and should have {8 + length + end:,}")
    return tensors


def _sizes(shape: list[Any]) -> tuple[int, ...]:
    sizes = tuple(int(size) for size in shape)
    if any(size < 0 for size in sizes):
        raise ValueError(f"negative size in {shape}")
    return sizes


def _broken(path: Path, why: str) -> ModelError:
    return ModelError(f"{path.name} is no whole safetensors file", why, "Download the model again or choose another")


def _model_type(folder: Path) -> str:
    config = folder / CONFIG_FILE
    return str(_read_json(config).get("model_type", "")) if config.is_file() else ""


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError:
        values = None
    if not isinstance(values, dict):
        raise ModelError(f"{path.name} is not a JSON object", str(path.parent), "Download the model again")
    return values


def _is_linear(tensor: _Tensor) -> bool:
    *parts, leaf = tensor.name.split(".")
    if any(part == "experts" and parts[at + 1].isdecimal() for at, part in enumerate(parts[:-1])):
        return False  # transformers joins these into three-dimensional weights when it loads the model
    is_float_matrix = leaf == "weight" and len(tensor.shape) == 2 and "F" in tensor.dtype.upper()
    return is_float_matrix and not any(part in _NOT_LINEAR or _NOT_LINEAR_PART in part for part in parts)


def _linear_shape(tensor: _Tensor, transposed: frozenset[str]) -> LinearShape:
    name = tensor.name.removesuffix(".weight")
    is_transposed = name.rpartition(".")[2] in transposed
    sizes = tensor.shape if is_transposed else tensor.shape[::-1]
    return LinearShape(name=name, in_features=sizes[0], out_features=sizes[1], is_transposed=is_transposed)


def _model_order(name: str) -> tuple[Any, ...]:
    """A key that sorts blocks by number, attention before the rest of its block, and known names as they compute."""
    parts = name.split(".")
    block_end = next((at + 1 for at, part in enumerate(parts) if part.isdecimal()), len(parts))
    inside = parts[block_end:]
    is_attention = any("att" in part for part in inside)
    return ([_part_order(part) for part in parts[:block_end]], not is_attention, [_part_order(part) for part in inside])


def _part_order(part: str) -> tuple[int, int, str]:
    if part.isdecimal():
        return (0, int(part), "")
    return (1, _LEAF_RANK.get(part, len(_LEAF_RANK)), part)
