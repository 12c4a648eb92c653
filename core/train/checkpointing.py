"""Gradient checkpointing: a block keeps its input alone and is computed again in the backward pass.

It costs a second forward pass, half as many products again, and leaves of the activations one block's and T · d
numbers for each other block. The result is the same to the bit: what is computed again is computed alike, and draws
the same random numbers. transformers' own switch is not used since it wants blocks in training mode, in which a model's
own dropout awakes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from core.errors import ConfigError


def checkpoint_blocks(model: Any) -> int:
    """Let every block of `model` be computed again; returns how many there are.

    Raises:
        ConfigError: on `optim.checkpointing`, where transformers does not know the model's blocks.
    """
    blocks = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not blocks:
        raise ConfigError(
            f"Models of the kind {model.config.model_type} cannot be computed in blocks",
            hint="Turn gradient checkpointing off, and lower the tokens at once to save memory",
            field="optim.checkpointing",
        )
    for block in blocks:
        block.forward = functools.partial(_checkpointed, block.forward)
    return len(blocks)


def _checkpointed(forward: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs, **named)
    return checkpoint(forward, *inputs, use_reentrant=False, **named)
