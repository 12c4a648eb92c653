"""The layers of a loaded model that an adapter can be put beside, and those that can be quantized."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from core.adapters.conv import LoraConv
from core.adapters.embedding import LoraEmbedding
from core.adapters.experts import LoraExperts, expert_matrices, expert_sizes
from core.adapters.layer import Adapted
from core.adapters.linear import LoraLinear
from core.models.quantize import QuantizedLinear
from core.models.shapes import Kind, LinearShape


def find_linears(model: nn.Module) -> tuple[LinearShape, ...]:
    """Every linear layer but the output head (plain, Conv1D, quantized or adapted already), in model order."""
    return tuple(shape for shape in find_layers(model) if shape.kind == "linear")


def find_layers(model: nn.Module) -> tuple[LinearShape, ...]:
    """Every layer that can carry an adapter, of each kind, in model order."""
    head = output_head(model)
    found = []
    for name, module in base_modules(model):
        kind = _kind(module, is_head=module is head)
        if kind is not None:
            found.append(_shape(name, kind, module))
        experts = module.base if isinstance(module, LoraExperts) else module
        found += [_expert_shape(name, experts, matrix) for matrix in expert_matrices(experts)]
    return tuple(found)


def base_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules that the base model itself has, by name, in model order: an adapted layer stands for what it wraps.

    What adapters hold is passed over, so that the way through a model is as long with fifty of them as with one.
    """
    waiting: list[tuple[str, nn.Module]] = [("", model)]
    seen: set[nn.Module] = set()
    while waiting:
        name, module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        yield name, module
        if not isinstance(module, Adapted):
            inner = [(f"{name}.{child}" if name else child, found) for child, found in module.named_children()]
            waiting += reversed(inner)


def output_head(model: nn.Module) -> nn.Module | None:
    """The layer that makes logits over the vocabulary; None where there is none (a classifier)."""
    get: Any = getattr(model, "get_output_embeddings", None)
    return get() if get else None


def input_embedding(model: nn.Module) -> nn.Module | None:
    """The layer that tokens go through first; None where the model takes none."""
    get: Any = getattr(model, "get_input_embeddings", None)
    try:
        return get() if get else None
    except NotImplementedError:  # transformers' answer for models that take no tokens
        return None


def is_tied(model: nn.Module) -> bool:
    """Whether the output head and the input embedding share their weight."""
    head, embedding = output_head(model), input_embedding(model)
    if head is None or embedding is None:
        return False
    ends = [module.base if isinstance(module, Adapted) else module for module in (head, embedding)]
    weights = [getattr(end, "weight", None) for end in ends]
    return weights[0] is not None and weights[0] is weights[1]


def _kind(module: nn.Module, *, is_head: bool) -> Kind | None:
    if isinstance(module, nn.Linear | Conv1D | QuantizedLinear | LoraLinear):
        return "head" if is_head else "linear"
    if isinstance(module, LoraEmbedding) or (isinstance(module, nn.Embedding) and _only_looks_up(module)):
        return "embedding"
    if isinstance(module, LoraConv) or (isinstance(module, nn.Conv1d | nn.Conv2d) and module.groups == 1):
        return "conv"
    return None


def _only_looks_up(embedding: nn.Embedding) -> bool:
    """Whether it takes token ids and nothing else; those of positions often work their indices out themselves."""
    return type(embedding).forward is nn.Embedding.forward or hasattr(embedding, "embed_scale")


def _expert_shape(name: str, module: nn.Module, matrix: str) -> LinearShape:
    experts, in_features, out_features = expert_sizes(module, matrix)
    return LinearShape(
        name=f"{name}.{matrix}", in_features=in_features, out_features=out_features, kind="experts", experts=experts
    )


def _shape(name: str, kind: Kind, module: Any) -> LinearShape:
    if isinstance(module, nn.Embedding):
        sizes = module.num_embeddings, module.embedding_dim
    elif isinstance(module, Conv1D):
        sizes = module.nx, module.nf
    elif isinstance(module, nn.Conv1d | nn.Conv2d):
        sizes = module.weight[0].numel(), module.out_channels
    else:
        sizes = module.in_features, module.out_features
    is_transposed = isinstance(module.base if isinstance(module, LoraLinear) else module, Conv1D)
    return LinearShape(name=name, in_features=sizes[0], out_features=sizes[1], kind=kind, is_transposed=is_transposed)
