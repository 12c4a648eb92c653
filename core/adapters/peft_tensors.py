"""`adapter_model.safetensors`: an adapter's tensors, told apart by their names.

For a module at path P peft writes, after `base_model.model.`:

    P.lora_A.weight               A [r, in], of a convolution [r, channels, kernel]
    P.lora_B.weight               B [out, r], of a convolution [out, r, 1, …]
    P.lora_embedding_A / _B       A [r, vocabulary], B [width, r]
    P.lora_magnitude_vector       DoRA's m [out], of a convolution [1, out, 1, …]
    P.base_layer.bias, P.bias     a trained bias; the first of an adapted layer
    P.token_adapter.trainable_tokens_delta    rows of an embedding, whole and not as a difference, in spite of the name
    P.weight and others           what a module that is trained whole consists of

and, unasked, copies of what the base holds: embeddings that it adapts or believes to have grown, and with `bias="all"`
the biases of modules that are trained whole. A name is read from its end, so no module's name can be taken for a part.

Only safetensors are read, and only after their header was found to be of a sane size; a pickle is never opened.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from core.adapters.peft_settings import PICKLES, WEIGHTS_FILE, PeftSettings
from core.errors import AdapterError

PREFIX = "base_model.model."
# Room for 30 layers of 64 experts each, with every matrix of theirs adapted.
MAX_HEADER_BYTES = 4_000_000
MAX_TENSORS = 20_000
MAX_NAME = 500

TOKENS = ".token_adapter.trainable_tokens_delta"
_PARTS = {
    ".lora_A.weight": "a",
    ".lora_B.weight": "b",
    ".lora_embedding_A": "embedding_a",
    ".lora_embedding_B": "embedding_b",
    ".lora_magnitude_vector": "magnitude",
    ".base_layer.bias": "bias",
}
_COPIES = (".token_adapter.base_layer.weight", ".original_module.weight", ".base_layer.weight")
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTensors:
    """One layer's `a` `[r, in]`, `b` `[out, r]` and `magnitude` `[out]`, fp32; `kernel` is A's shape behind r."""

    a: Tensor
    b: Tensor
    magnitude: Tensor | None
    kernel: tuple[int, ...]
    is_embedding: bool


@dataclass(frozen=True, slots=True)
class PeftTensors:
    """What an adapter's file holds, by module: low-rank updates, rows of tokens, biases, and modules that are trained
    whole (by their tensors' names inside). `experts` are A and B by peft's wrappers (`peft_experts`), `copies` weights
    that the base must have, by their full names.
    """

    layers: dict[str, LayerTensors] = field(default_factory=dict)
    tokens: dict[str, Tensor] = field(default_factory=dict)
    biases: dict[str, Tensor] = field(default_factory=dict)
    whole: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    copies: dict[str, Tensor] = field(default_factory=dict)
    experts: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


def read_tensors(folder: Path, settings: PeftSettings) -> PeftTensors:
    """The tensors of the adapter in `folder`, each in its place.

    Raises:
        AdapterError: the file is missing, broken or too large a puzzle; a tensor is of no known kind, unpaired,
            misshapen by what `settings` say, or not finite.
    """
    sorter = _Sorter(settings, folder)
    for key, tensor in _read(folder).items():
        sorter.take(key, tensor)
    return sorter.finish()


def _read(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS_FILE
    try:
        _check_header(path)
        return load_file(path)
    except FileNotFoundError:
        pickles = [name for name in PICKLES if (folder / name).exists()]
        beside = f", and {pickles[0]} is a pickle, which is never opened" if pickles else ""
        raise AdapterError(
            f"{WEIGHTS_FILE} is missing{beside}", str(folder), "Export the adapter as safetensors"
        ) from None
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{WEIGHTS_FILE} is broken: {error}", str(folder), "Copy or export it again") from None


def _check_header(path: Path) -> None:
    """Refuse a header that would cost more to read than any adapter's: it comes before anything that bounds it."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(MAX_HEADER_BYTES, path.stat().st_size):
            raise SafetensorError(f"its header would have {length:,} bytes, and may have {MAX_HEADER_BYTES:,}")
        try:
            names = orjson.loads(file.read(length))
        except orjson.JSONDecodeError:
            raise SafetensorError("its header cannot be read") from None
    if not isinstance(names, dict) or len(names) > MAX_TENSORS or max(map(len, names), default=0) > MAX_NAME:
        raise SafetensorError(f"it must hold at most {MAX_TENSORS:,} tensors, with names of {MAX_NAME} characters")


class _Sorter:
    """Puts tensors in their places, one by one."""

    def __init__(self, settings: PeftSettings, folder: Path) -> None:
        self._settings, self._where = settings, str(folder)
        self._parts: dict[str, dict[str, Tensor]] = {}
        self._seen: set[str] = set()
        self._found = PeftTensors()

    def take(self, key: str, tensor: Tensor) -> None:
        """Put one tensor in its place."""
        name = self._name(key)
        self._check_values(key, tensor)
        whole = self._settings.lies_in_whole(name)
        if whole is not None and whole != name:
            self._take_whole(whole, name.removeprefix(f"{whole}."), tensor, key)
        elif name.endswith(TOKENS):
            self._found.tokens[name.removesuffix(TOKENS)] = self._float(key, tensor)
        elif (suffix := next((suffix for suffix in _PARTS if name.endswith(suffix)), None)) is not None:
            part = self._parts.setdefault(name.removesuffix(suffix), {})
            part[_PARTS[suffix]] = self._float(key, tensor)
        elif (suffix := next((suffix for suffix in _COPIES if name.endswith(suffix)), None)) is not None:
            self._found.copies[f"{name.removesuffix(suffix)}.weight"] = tensor
        elif name.endswith(".bias") and not name.endswith(".lora_B.bias") and self._settings.bias == "all":
            self._found.biases[name.removesuffix(".bias")] = self._float(key, tensor)
        elif name.endswith(".weight") and ".lora_" not in name:
            self._found.copies[name] = tensor
        else:
            raise self._alien(key)

    def finish(self) -> PeftTensors:
        """Everything that was taken, once pairs are complete."""
        for module, parts in self._parts.items():
            bias = parts.pop("bias", None)
            if bias is not None:
                if self._settings.bias == "none":
                    raise self._refusal(f"{module} has a bias, but bias is none in its config")
                self._found.biases[module] = bias
            if parts and self._settings.owns_parameters(module) and set(parts) == {"a", "b"}:
                self._found.experts[module] = parts["a"], parts["b"]
            elif parts:
                self._found.layers[module] = self._layer(module, parts)
        found = self._found
        if not (found.layers or found.experts or found.tokens or found.biases or found.whole):
            raise self._refusal("The adapter holds no tensors")
        return found

    def _name(self, key: str) -> str:
        """The tensor's name in the base model; what `torch.compile` puts into it is dropped."""
        name = ".".join(part for part in key.removeprefix(PREFIX).split(".") if part != "_orig_mod")
        if not key.replace("_orig_mod.", "").startswith(PREFIX):
            raise self._alien(key)
        if name in self._seen:
            raise self._refusal(f"The tensor {name} is there twice")
        self._seen.add(name)
        return name

    def _take_whole(self, module: str, inner: str, tensor: Tensor, key: str) -> None:
        parts = self._found.whole.setdefault(module, {})
        owner, _, leaf = inner.rpartition(".")
        if owner == "original_module":
            self._found.copies[f"{module}.{leaf}"] = tensor
        elif owner == "modules_to_save":  # with bias="all" peft writes a bias of such a module a second time
            self._same(parts.setdefault(leaf, tensor), tensor, key)
        else:
            self._same(parts.setdefault(inner, tensor), tensor, key)

    def _same(self, one: Tensor, other: Tensor, key: str) -> None:
        if not torch.equal(one, other):
            raise self._refusal(f"The tensor {key} is there twice, with other values")

    def _layer(self, module: str, parts: dict[str, Tensor]) -> LayerTensors:
        is_embedding = "embedding_a" in parts or "embedding_b" in parts
        names = ("embedding_a", "embedding_b") if is_embedding else ("a", "b")
        shown = ("lora_embedding_A", "lora_embedding_B") if is_embedding else ("lora_A", "lora_B")
        present = [label for name, label in zip(names, shown, strict=True) if name in parts]
        if len(present) != 2 or len(parts) > 2 + ("magnitude" in parts):
            raise self._refusal(f"{module} has {' and '.join(present) or 'lora_magnitude_vector'} only")
        a, b, magnitude = parts[names[0]], parts[names[1]], parts.get("magnitude")
        self._check_rank(module, shown, a, b)
        if (magnitude is not None) != self._settings.use_dora:
            amount = "a" if magnitude is not None else "no"
            raise self._refusal(f"{module} has {amount} DoRA magnitude, but use_dora is {self._settings.use_dora}")
        if magnitude is not None and magnitude.numel() != b.shape[0]:
            raise self._refusal(f"{module} has {b.shape[0]} features and {magnitude.numel()} DoRA magnitudes")
        return LayerTensors(
            a=a.flatten(1),
            b=b.flatten(1),
            magnitude=None if magnitude is None else magnitude.flatten(),
            kernel=tuple(a.shape[1:]),
            is_embedding=is_embedding,
        )

    def _check_rank(self, module: str, shown: tuple[str, str], a: Tensor, b: Tensor) -> None:
        rank = self._settings.rank_of(module)
        for label, tensor, side in ((shown[0], a, 0), (shown[1], b, 1)):
            is_thin = (
                2 <= tensor.ndim <= 4 and tensor.shape[side] == rank and (side == 0 or math.prod(tensor.shape[2:]) == 1)
            )
            if not is_thin or a.ndim != b.ndim:
                shape = f"{module}.{label} has the shape {list(tensor.shape)}"
                if tensor.ndim < 2 or tensor.shape[side] != rank:
                    raise self._refusal(f"{shape}, but r is {rank}")
                raise self._refusal(f"{shape}, which is not half of a low-rank update")

    def _float(self, key: str, tensor: Tensor) -> Tensor:
        if tensor.dtype not in _FLOATS:
            raise self._refusal(f"{key} holds {str(tensor.dtype).removeprefix('torch.')}, not floating-point numbers")
        return tensor.float()

    def _check_values(self, key: str, tensor: Tensor) -> None:
        if tensor.is_floating_point() and not torch.isfinite(tensor.float()).all():
            raise AdapterError(
                f"{key} holds values that are not finite", self._where, "Train it again at a lower learning rate"
            )

    def _alien(self, key: str) -> AdapterError:
        return self._refusal(f"The tensor {key} is not part of the adapter that its config describes")

    def _refusal(self, title: str) -> AdapterError:
        return AdapterError(title, self._where, "Export the adapter again")
