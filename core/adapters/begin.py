"""A fresh update for one layer: the start that its settings ask for, on that layer's weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from core.adapters.embedding import LoraEmbedding
from core.adapters.layer import LoraLayer
from core.adapters.lowrank import AnchoredRank, FusedRank, LowRank
from core.adapters.plan import Placement
from core.adapters.starts import Place, begin
from core.config import LoraConfig
from core.kernels.dora import dora_norm, squared_row_norms
from core.models.quantize import QuantizedLinear


def new_update(
    layer: LoraLayer,
    placement: Placement,
    config: LoraConfig,
    generator: torch.Generator,
    *,
    directions: Tensor | None = None,
    original: Tensor | None = None,
) -> LowRank:
    """The update that `layer` begins with: as the base answers, whatever the start (LoftQ's aside).

    Args:
        directions, original: see `inject`.

    Raises:
        ConfigError: the start cannot be had on this layer.
    """
    settings: dict[str, Any] = {
        "alpha": placement.alpha,
        "use_rslora": config.use_rslora,
        "dropout": config.dropout,
    }
    device = device_of(layer.base)
    if isinstance(layer, LoraEmbedding):
        update = LowRank(*_embedding_start(placement, generator), **settings)
    elif placement.parts:
        update = _fused(placement, config, generator, settings)
    else:
        scale = placement.alpha / (math.sqrt(placement.rank) if config.use_rslora else placement.rank)
        found = begin(config.init, _place(layer, placement, config, scale, directions, original), generator)
        update = AnchoredRank(found.anchor, **settings) if found.anchor else LowRank(found.a, found.b, **settings)
    update = update.to(device)
    if config.use_dora:
        weight = layer.matrix()
        norm = dora_norm(weight, squared_row_norms(weight), *update.factors(), update.scale)
        update.magnitude = nn.Parameter(norm)
    bias: Tensor | None = getattr(layer.base, "bias", None)
    if config.bias != "none" and bias is not None:
        update.bias = nn.Parameter(bias.detach().float().clone())
    update.a.requires_grad_(not config.freeze_a)
    return update


def new_expert_update(
    placement: Placement, config: LoraConfig, generator: torch.Generator, device: torch.device
) -> LowRank:
    """The update that a three-dimensional weight of experts begins with: each expert's A drawn alone, B zero."""
    shape = placement.shape
    place = Place(in_features=shape.in_features, out_features=shape.out_features, rank=placement.rank, scale=1.0)
    drawn = [begin(config.init, place, generator) for _ in range(shape.experts)]
    a, b = torch.stack([factors.a for factors in drawn]), torch.stack([factors.b for factors in drawn])
    update = LowRank(a.to(device), b.to(device), alpha=placement.alpha, use_rslora=config.use_rslora)
    update.a.requires_grad_(not config.freeze_a)
    return update


def device_of(base: nn.Module) -> torch.device:
    """The device that holds a plain or quantized layer's weight."""
    tensor = next(base.parameters(), None)
    return (tensor if tensor is not None else next(base.buffers())).device


def _place(
    layer: LoraLayer,
    placement: Placement,
    config: LoraConfig,
    scale: float,
    directions: Tensor | None,
    original: Tensor | None,
) -> Place:
    weight = layer.matrix()
    is_quantized = isinstance(layer.base, QuantizedLinear)
    return Place(
        in_features=placement.shape.in_features,
        out_features=placement.shape.out_features,
        rank=placement.rank,
        scale=scale,
        weight=original if config.init == "loftq" else weight,
        quantized=weight if is_quantized else None,
        directions=directions,
    )


def _embedding_start(placement: Placement, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A zero and B normal, as peft has it: a token's row of A learns, and the random B spreads what it learned."""
    shape = placement.shape
    return (
        torch.zeros(placement.rank, shape.in_features),
        torch.randn(shape.out_features, placement.rank, generator=generator),
    )


def _fused(placement: Placement, config: LoraConfig, generator: torch.Generator, settings: dict[str, Any]) -> FusedRank:
    shape = placement.shape
    drawn = [
        begin(
            config.init,
            Place(in_features=shape.in_features, out_features=len(part), rank=placement.rank, scale=1.0),
            generator,
        )
        for part in placement.parts
    ]
    a, b = torch.cat([factors.a for factors in drawn]), torch.cat([factors.b for factors in drawn])
    return FusedRank(a, b, placement.parts, shape.out_features, **settings)
