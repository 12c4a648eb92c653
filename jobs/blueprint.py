"""A model as its files describe it, without loading it: every layer that can be adapted, every bias, every module.

The engine finds all this in the loaded model (`core.models.linears`). Here only file headers and `config.json` are
read, in milliseconds and without torch, so that the page can tell a run's size before it begins. Where transformers
joins tensors into others when it loads a model, names are those after loading: the experts of a mixture.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
from safetensors import safe_open

from core.errors import ConfigError
from core.models.shapes import REMEMBERED, Kind, LinearShape, Stamp, linear_shapes, stamp_of, weight_files
from core.models.targets import names
from jobs.views import ModelCard

LM_HEAD = "lm_head"
HEADS = (LM_HEAD, "embed_out")  # the second is GPT-NeoX's, which transformers calls by the first
# Tensors that some files hold beside the parameters: causal masks and rotary frequencies.
_BUFFER = re.compile(r"(.*\.)?(masked_bias|inv_freq|position_ids)")
_EMBEDDINGS = ("wte", "wpe", "shared", "relative_attention_bias")  # those that do not say so in their name
_OWN_POSITIONS = "embed_positions"  # works its indices out itself (OPT), so no update of it could be looked up
_PLACES = ("position", "wpe", "token_type")
# One expert of a mixture as its file names it, and the joint weight that it becomes a part of.
_EXPERT = re.compile(
    r"(?P<before>.*\.experts)\.(?P<number>\d+)\.(?P<matrix>w1|w2|w3|gate_proj|up_proj|down_proj)\.weight"
)
_JOINT = {"w1": "gate_up_proj", "w3": "gate_up_proj", "gate_proj": "gate_up_proj", "up_proj": "gate_up_proj"}
_DOWN = "down_proj"
_ROUTERS = ("gate", "router")

_QKV = ("q", "k", "v")
_THIRDS = (("gpt2", "c_attn"), ("gpt_neox", "query_key_value"), ("bloom", "query_key_value"), ("mpt", "Wqkv"))

Sizes = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """What the files in a model's folder say. `tensors` are the parameters' shapes by name, `linears` the linear layers
    in model order.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, Sizes]
    linears: tuple[LinearShape, ...]

    @functools.cached_property
    def parameters(self) -> int:
        """How many numbers the model has, a tied head counted once."""
        return sum(map(math.prod, self.tensors.values()))

    @property
    def talks(self) -> bool:
        """Whether it goes on with a text: an encoder or a classifier does not."""
        return any("LM" in str(name) for name in self.config.get("architectures") or ())

    @property
    def is_tied(self) -> bool:
        """Whether the output head, of a language model, is the input embedding."""
        has_head = any(_leaf(name.removesuffix(".weight")) in HEADS for name in self.tensors)
        return not has_head or bool(self._text.get("tie_word_embeddings"))

    @functools.cached_property
    def input_embedding(self) -> LinearShape | None:
        """The embedding that tokens go through: the largest that is not one of places or kinds of text."""
        found = [shape for shape in self._others if shape.kind == "embedding"]
        ours = [shape for shape in found if not any(word in shape.name for word in _PLACES)]
        return max(ours, key=lambda shape: shape.in_features, default=None)

    def layers(self, *, has_head: bool) -> tuple[LinearShape, ...]:
        """Every layer that can carry an adapter, of each kind; linear ones first.

        Args:
            has_head: whether the model is loaded with a head over the vocabulary; a classifier is not.
        """
        others = self._others
        experts = tuple(self._experts())
        linears = [shape for shape in self.linears if not (experts and _leaf(shape.name) in _ROUTERS)]
        heads = [shape for shape in others if shape.kind == "head"]
        embedding = self.input_embedding
        if not heads and embedding is not None:
            heads = [_layer(LM_HEAD, "head", embedding.out_features, embedding.in_features)]
        rest = [shape for shape in others if shape.kind != "head"]
        return (*linears, *experts, *rest, *(heads if has_head else ()))

    def biases(self) -> dict[str, int]:
        """The size of each module's bias, by the module's name."""
        found = {name.rpartition("."): sizes for name, sizes in self.tensors.items() if len(sizes) == 1}
        return {module: sizes[0] for (module, _, leaf), sizes in found.items() if leaf in ("bias", "beta")}

    def outermost(self, wanted: Sequence[str]) -> tuple[str, ...]:
        """The modules that `wanted` names, in full; the outermost where one lies in another.

        Raises:
            ConfigError: on `lora.modules_to_save`, where one names none.
        """
        modules = dict.fromkeys(parent for name in self.tensors for parent in _parents(name))
        embedding = self.input_embedding
        if self.is_tied and embedding is not None:
            wanted = [embedding.name if _leaf(name) == LM_HEAD else name for name in wanted]
        for name in wanted:
            if not any(names(name, module) for module in modules):
                known = dict.fromkeys(_leaf(module) for module in modules if not module[-1].isdecimal())
                raise ConfigError(
                    f"No module of this model is called {name}",
                    hint=f"Choose from {', '.join(known)}",
                    field="lora.modules_to_save",
                )
        found = [module for module in modules if any(names(name, module) for name in wanted)]
        return tuple(module for module in found if not lies_in(module, [other for other in found if other != module]))

    def size(self, modules: Sequence[str]) -> int:
        """How many numbers the parameters in `modules` have."""
        return sum(math.prod(sizes) for name, sizes in self.tensors.items() if lies_in(name, modules))

    def part_rows(self, shape: LinearShape) -> dict[str, int]:
        """How many output features each part of a fused layer has; nothing where it is not a fused one that we know."""
        kind, leaf, out = str(self._text.get("model_type", "")), _leaf(shape.name), shape.out_features
        if (kind, leaf) in _THIRDS:
            return dict.fromkeys(_QKV, out // 3)
        if (kind, leaf) == ("phi3", "gate_up_proj"):
            return dict.fromkeys(("gate", "up"), out // 2)
        if (kind, leaf) in (("phi3", "qkv_proj"), ("falcon", "query_key_value")):
            shared = self._shared_heads(kind) * self._head_size
            return {"q": out - 2 * shared, "k": shared, "v": shared}
        return {}

    def _shared_heads(self, kind: str) -> int:
        """How many heads keys and values have in a fused layer."""
        text = self._text
        heads = int(text.get("num_attention_heads") or text.get("n_head") or 1)
        if kind == "phi3":
            return int(text.get("num_key_value_heads") or heads)
        if text.get("new_decoder_architecture"):
            return int(text.get("num_kv_heads") or heads)
        return 1 if text.get("multi_query", True) else heads

    @property
    def _head_size(self) -> int:
        text = self._text
        return int(text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"])

    @property
    def _text(self) -> Mapping[str, Any]:
        """The language model's part of the config, where it is one of several."""
        inner = self.config.get("text_config")
        return inner if isinstance(inner, dict) else self.config

    @functools.cached_property
    def _others(self) -> list[LinearShape]:
        """Embeddings, heads, convolutions and weights of experts that lie as one."""
        linear = {shape.name for shape in self.linears}
        found = (_other(name, sizes) for name, sizes in self.tensors.items() if not _EXPERT.fullmatch(name))
        return [shape for shape in found if shape is not None and shape.name not in linear]

    def _experts(self) -> list[LinearShape]:
        """The joint weights that single experts become when the model is loaded."""
        joint: dict[str, list[Sizes]] = {}
        for name, sizes in self.tensors.items():
            if match := _EXPERT.fullmatch(name):
                before = match["before"].replace("block_sparse_moe", "mlp")
                joint.setdefault(f"{before}.{_JOINT.get(match['matrix'], _DOWN)}", []).append(sizes)
        return [_joint(name, matrices) for name, matrices in joint.items()]


def read_blueprint(folder: Path) -> Blueprint:
    """The model in `folder`, which `core.models.shapes` can read.

    Raises:
        ModelError: a file is missing, cut short or no safetensors file.
    """
    return _read(folder, stamp_of(folder))


@functools.lru_cache(REMEMBERED)
def _read(folder: Path, _stamp: Stamp) -> Blueprint:
    linears = linear_shapes(folder)
    tensors: dict[str, Sizes] = {}
    for path in weight_files(folder):
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                tensor = file.get_slice(name)
                sizes = tuple(tensor.get_shape())
                if "F" in tensor.get_dtype() and not _is_buffer(name, sizes):
                    tensors[name] = sizes
    return Blueprint(config=orjson.loads((folder / "config.json").read_bytes()), tensors=tensors, linears=linears)


def with_layers(card: ModelCard) -> ModelCard:
    """`card` with all that can be adapted in the model, where it is on this machine."""
    if card.source.folder is None:
        return card
    blueprint = read_blueprint(card.source.folder)
    layers = blueprint.layers(has_head=blueprint.talks)
    linears = tuple(shape for shape in layers if shape.kind == "linear")
    parts = [f"{_leaf(shape.name)}:{part}" for shape in linears for part in blueprint.part_rows(shape)]
    others = [_leaf(shape.name) for shape in layers if shape.kind != "linear"]
    return replace(card, shapes=linears, others=tuple(dict.fromkeys((*parts, *others))))


def lies_in(name: str, modules: Sequence[str]) -> bool:
    """Whether `name` is one of `modules` or inside one."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _is_buffer(name: str, sizes: Sizes) -> bool:
    return _BUFFER.fullmatch(name) is not None or (name.endswith(".bias") and len(sizes) != 1)


def _other(name: str, sizes: Sizes) -> LinearShape | None:
    """The layer that the tensor `name` is, if it is no linear one but can carry an adapter."""
    module, _, leaf = name.rpartition(".")
    if leaf in ("gate_up_proj", "up_proj", "down_proj") and len(sizes) == 3:
        return LinearShape(name=name, kind="experts", experts=sizes[0], in_features=sizes[2], out_features=sizes[1])
    if leaf != "weight" or len(sizes) < 2:
        return None
    if len(sizes) > 2:
        is_depthwise = sizes[1] == 1 and sizes[0] > 1
        within = math.prod(sizes[1:])
        return None if is_depthwise else _layer(module, "conv", within, sizes[0])
    if _leaf(module) in HEADS:
        return _layer(LM_HEAD, "head", sizes[1], sizes[0])
    is_embedding = _leaf(module) != _OWN_POSITIONS and ("embed" in _leaf(module) or _leaf(module) in _EMBEDDINGS)
    return _layer(module, "embedding", sizes[0], sizes[1]) if is_embedding else None


def _layer(name: str, kind: Kind, in_features: int, out_features: int) -> LinearShape:
    return LinearShape(name=name, kind=kind, in_features=in_features, out_features=out_features)


def _joint(name: str, matrices: Sequence[Sizes]) -> LinearShape:
    """The joint weight of experts whose matrices, `[out, in]` each, come in twos where gate and up are joined."""
    together = 1 if name.endswith(_DOWN) else 2
    out, within = matrices[0]
    return LinearShape(
        name=name, kind="experts", experts=len(matrices) // together, in_features=within, out_features=out * together
    )


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]
