"""Choosing the next token from a row of logits."""

from __future__ import annotations

import torch
from torch import Tensor

from core.generate.requests import Sampling


def choose(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """The next token's id.

    Args:
        logits: `[vocab]`, any float dtype. generator: advanced by one draw unless the temperature is 0.
    """
    if sampling.temperature == 0:
        return int(logits.argmax())
    probabilities = torch.softmax(logits.float().cpu() / sampling.temperature, dim=-1)
    return int(torch.multinomial(nucleus(probabilities, sampling.top_p), 1, generator=generator))


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """`[vocab]` probabilities, zero outside the smallest set of likeliest tokens that holds `top_p` of the mass."""
    if top_p >= 1:
        return probabilities
    ordered, order = probabilities.sort(descending=True)
    outside = ordered.cumsum(0) - ordered >= top_p
    outside[0] = False  # not even where top_p is 0
    return probabilities.index_fill(0, order[outside], 0.0)
