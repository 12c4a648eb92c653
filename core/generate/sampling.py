"""Choosing the next token of each row from the rows' logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from core.errors import ModelError
from core.generate.requests import Sampling

LIKELY = 1024  # tokens that nearly always hold the nucleus; sorting a whole vocabulary takes as long as a model's step


def choose(logits: Tensor, samplings: Sequence[Sampling], generators: Sequence[torch.Generator]) -> list[int]:
    """The next token's id for each row. What a row gets depends on its own logits, sampling and generator alone.

    Args:
        logits: `[rows, vocab]`, any float dtype. samplings, generators: one a row; a generator is advanced by one
            draw, unless its row's temperature is 0.

    Raises:
        ModelError: a row's logits are not finite.
    """
    if not logits.amax(dim=-1).isfinite().all():
        raise ModelError("The model's next token is not a number", hint="Try it without the adapter, or in 32 bits")
    tokens = [int(token) for token in logits.max(dim=-1).indices.tolist()]
    drawing = [row for row, sampling in enumerate(samplings) if sampling.temperature > 0]
    if drawing:
        for row, scores in zip(drawing, logits[drawing].float().cpu(), strict=True):
            tokens[row] = _draw(scores, samplings[row], generators[row])
    return tokens


def _draw(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """A token drawn by its share; `logits` `[vocab]` fp32. One row at a time: no other row's size, ties or sums."""
    probabilities = torch.softmax(logits / sampling.temperature, dim=-1)
    shares = nucleus(probabilities, sampling.top_p).double().cumsum(-1)
    drawn = torch.rand(1, dtype=torch.float64, generator=generator)
    # The first token whose cumulated share is above the drawn one: never one of probability 0.
    found = torch.searchsorted(shares, drawn * shares[-1:], right=True)
    return min(int(found), len(logits) - 1)


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """`[..., vocab]` probabilities, zero outside each row's smallest set of likeliest tokens that holds `top_p`."""
    if top_p >= 1:
        return probabilities
    ordered, order = probabilities.topk(min(LIKELY, probabilities.shape[-1]), dim=-1)
    if (ordered.sum(-1) < top_p).any():
        ordered, order = probabilities.sort(descending=True, dim=-1)
    outside = ordered.cumsum(-1) - ordered >= top_p
    outside[..., 0] = False  # not even where top_p is 0
    return torch.zeros_like(probabilities).scatter(-1, order, ordered.masked_fill(outside, 0.0))
