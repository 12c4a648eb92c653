"""Put adapters into a model, choose among them, take them out again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from core.adapters.linear import LoraLinear
from core.adapters.lowrank import LowRank
from core.config import LoraConfig
from core.errors import AdapterError
from core.models.linears import find_linears
from core.models.targets import check_rank, match


def inject(model: nn.Module, config: LoraConfig, *, key: str, seed: int) -> tuple[str, ...]:
    """Give every layer that `config.targets` names a fresh update called `key`, and freeze all else.

    Returns:
        The adapted modules' names, in model order.

    Raises:
        ConfigError: a target matches nothing, or the rank is above a matched matrix; nothing was changed.
    """
    shapes = match(config.targets, find_linears(model))
    check_rank(config.rank, shapes)
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for shape in shapes:
        layer = wrap(model, shape.name)
        layer.adapters[key] = LowRank(
            shape.in_features,
            shape.out_features,
            rank=config.rank,
            alpha=config.alpha,
            dropout=config.dropout,
            device=device_of(layer.base),
            generator=generator,
        )
    return tuple(shape.name for shape in shapes)


def wrap(model: nn.Module, name: str) -> LoraLinear:
    """The `LoraLinear` at `name`, put around the linear layer there if there is none yet."""
    found = model.get_submodule(name)
    if isinstance(found, LoraLinear):
        return found
    layer = LoraLinear(found)
    parent_name, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent_name), child, layer)
    return layer


def device_of(base: nn.Module) -> torch.device:
    """The device that holds a plain or quantized linear layer's weight."""
    tensor = next(base.parameters(), None)
    return (tensor if tensor is not None else next(base.buffers())).device


def lora_layers(model: nn.Module) -> dict[str, LoraLinear]:
    """Every adapted layer of `model` by the name of the module that it stands for, in model order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}


def require(model: nn.Module, key: str) -> None:
    """Refuse a key that would match nothing, which looks like the base model and is a mistake.

    Raises:
        AdapterError: no layer of `model` has an adapter called `key`.
    """
    if not any(key in layer.adapters for layer in lora_layers(model).values()):
        raise AdapterError(f"No adapter {key} is loaded", hint="Load it first")


def activate(model: nn.Module, key: str | None) -> None:
    """Let every row of every batch use the adapter `key`, or the base alone where None.

    Raises:
        AdapterError: `key` names no adapter of `model`.
    """
    if key is not None:
        require(model, key)
    for layer in lora_layers(model).values():
        layer.active = key


def remove(model: nn.Module, key: str) -> None:
    """Take the adapter `key` out; layers that no adapter needs any more become the plain base layer again."""
    for name, layer in lora_layers(model).items():
        if key in layer.adapters:
            del layer.adapters[key]
        if len(layer.adapters) == 0:
            parent_name, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent_name), child, layer.base)


@contextmanager
def routed(model: nn.Module, keys: Sequence[str | None], dtype: torch.dtype) -> Iterator[None]:
    """Within the block, row i of every batch uses the adapter `keys[i]` (None: the base).

    Raises:
        AdapterError: a key names no adapter of `model`.
    """
    for key in {key for key in keys if key is not None}:
        require(model, key)
    layers = list(lora_layers(model).values())
    actives = [layer.active for layer in layers]
    try:
        for layer in layers:
            layer.rows, layer.active = layer.stack(keys, dtype), None
        yield
    finally:
        for layer, active in zip(layers, actives, strict=True):
            layer.rows, layer.active = None, active
