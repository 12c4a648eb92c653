"""How likely a model held its tokens, and what it held likelier.

Probabilities are those of the raw logits: no temperature, no penalty, nothing left out. What the base would have said
in an adapter's place is found by reading the adapter's conversation and answer once more with the base alone, so that
it is exact at every token and not only as long as both say the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from core.adapters.inject import routed
from core.generate.requests import TokenProbability
from core.models.load import LoadedModel

_AT_ONCE = 64  # tokens whose logits are widened to fp32 at the same time


def probabilities(
    logits: Tensor, tokens: Sequence[int], alternatives: int, tokenizer: Any
) -> tuple[TokenProbability, ...]:
    """For each token its probability and the likeliest in its place.

    Args:
        logits: `[n, vocab]` behind what stands before each token, any float dtype. tokens: n ids.
        alternatives: how many of the likeliest are told.
    """
    found: list[TokenProbability] = []
    for start in range(0, len(tokens), _AT_ONCE):
        part = logits[start : start + _AT_ONCE].float().log_softmax(-1)
        ids = tokens[start : start + _AT_ONCE]
        own = part.gather(1, torch.tensor(ids, device=part.device)[:, None])[:, 0].exp().tolist()
        best = part.topk(min(alternatives, part.shape[-1]), dim=-1)
        for token, probability, likely, shares in zip(
            ids, own, best.indices.tolist(), best.values.exp().tolist(), strict=True
        ):
            texts = [tokenizer.decode([one]) for one in likely]
            found.append(
                TokenProbability(
                    text=tokenizer.decode([token]),
                    probability=probability,
                    likeliest=tuple(zip(texts, shares, strict=True)),
                )
            )
    return tuple(found)


@torch.inference_mode()
def base_probabilities(
    loaded: LoadedModel, prompt: Sequence[int], answer: Sequence[int], alternatives: int
) -> tuple[TokenProbability, ...]:
    """What the base alone holds of each token of `answer` behind `prompt`; both have at least one token.

    It is one pass over both, whose logits take answer × vocabulary numbers in the base's dtype.
    """
    tokens = torch.tensor([[*prompt, *answer[:-1]]], device=loaded.device)
    with routed(loaded.model, [None], loaded.dtype):
        logits = loaded.model(input_ids=tokens, use_cache=False, logits_to_keep=len(answer)).logits[0]
    return probabilities(logits, answer, alternatives, loaded.tokenizer)
