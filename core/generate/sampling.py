"""Choosing the next token of each row from the rows' logits.

In the order that transformers has: the repetition penalty changes logits, the temperature divides them, top-k leaves
the likeliest k, and of these top-p the smallest set that holds so much. Without a temperature the likeliest is taken,
after the penalty alone.

The penalty is that of CTRL (arXiv 1909.05858, section 4.1) in the form that has become usual: a logit above zero is
divided by it, one below multiplied, for each token that the row has in its prompt or its answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from core.errors import ModelError
from core.generate.requests import Sampling

LIKELY = 1024  # tokens that nearly always hold the nucleus; sorting a whole vocabulary takes as long as a model's step


def choose(
    logits: Tensor,
    samplings: Sequence[Sampling],
    generators: Sequence[torch.Generator],
    so_far: Sequence[Sequence[int]],
) -> list[int]:
    """The next token's id for each row. What a row gets depends on what is its own alone.

    Args:
        logits: `[rows, vocab]`, any float dtype. samplings, generators: one a row; a generator is advanced by one
            draw, unless its row's temperature is 0.
        so_far: each row's tokens, those of its prompt included; read where its penalty is not 1.

    Raises:
        ModelError: a row's logits are not finite.
    """
    if not logits.amax(dim=-1).isfinite().all():
        raise ModelError("The model's next token is not a number", hint="Try it without the adapter, or in 32 bits")
    tokens = [int(token) for token in logits.max(dim=-1).indices.tolist()]
    others = [row for row, sampling in enumerate(samplings) if not is_plain(sampling)]
    if others:
        for row, scores in zip(others, logits[others].float().cpu(), strict=True):
            penalized = penalize(scores, so_far[row], samplings[row].repetition_penalty)
            tokens[row] = _draw(penalized, samplings[row], generators[row])
    return tokens


def is_plain(sampling: Sampling) -> bool:
    """Whether it takes the likeliest token as the model has it."""
    return sampling.temperature == 0 and sampling.repetition_penalty == 1


def _draw(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """A token drawn by its share; `logits` `[vocab]` fp32. One row at a time: no other row's size, ties or sums."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    probabilities = torch.softmax(likeliest(logits / sampling.temperature, sampling.top_k), dim=-1)
    shares = nucleus(probabilities, sampling.top_p).double().cumsum(-1)
    drawn = torch.rand(1, dtype=torch.float64, generator=generator)
    # The first token whose cumulated share is above the drawn one: never one of probability 0.
    found = torch.searchsorted(shares, drawn * shares[-1:], right=True)
    return min(int(found), len(logits) - 1)


def penalize(logits: Tensor, tokens: Sequence[int], penalty: float) -> Tensor:
    """`[vocab]` logits, those of `tokens` divided by `penalty` where above zero and multiplied where below."""
    if penalty == 1 or not tokens:
        return logits
    seen = torch.tensor(sorted(set(tokens)), device=logits.device)
    found = logits[seen]
    return logits.index_copy(0, seen, torch.where(found < 0, found * penalty, found / penalty))


def likeliest(logits: Tensor, top_k: int) -> Tensor:
    """`[vocab]` logits, -inf for those below the `top_k`-th; as they are where that is 0. Equal ones stay."""
    if not 0 < top_k < len(logits):
        return logits
    return logits.masked_fill(logits < logits.topk(top_k).values[-1], -torch.inf)


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
