"""Prompts of different lengths as one batch, padded on the left, answered by the model as it stands.

For answers that need not be what each prompt would get alone (`core.generate.decoder` promises that): padding is
masked, but sums are ordered by the batch. No adapter is routed, so the active one answers, as while it is trained.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from core.generate.cache import growing_cache
from core.models.load import LoadedModel


class PaddedBatch:
    """The rows of a batch: to be read once, then written token by token."""

    def __init__(self, loaded: LoadedModel, prompts: Sequence[Sequence[int]]) -> None:
        config = loaded.model.config
        limit = getattr(config.get_text_config(), "max_position_embeddings", None)
        self._last = None if limit is None else limit - 1  # a row that is full waits there for the others
        self._loaded, self._cache = loaded, growing_cache(config)
        self._tokens, self._mask = _pad_left(prompts, loaded.device)

    def read(self) -> Tensor:
        """Logits `[rows, vocab]` behind the prompts."""
        return self._logits(self._tokens)

    def write(self, tokens: Sequence[int]) -> Tensor:
        """Put one token behind each row; returns the logits `[rows, vocab]` behind it."""
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        return self._logits(torch.tensor(tokens, device=self._mask.device)[:, None])

    def _logits(self, tokens: Tensor) -> Tensor:
        output = self._loaded.model(
            input_ids=tokens,
            attention_mask=self._mask,
            position_ids=(self._mask.cumsum(1) - 1).clamp(0, self._last)[:, -tokens.shape[1] :],
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1]
        return logits


def _pad_left(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """`[rows, longest]` tokens and their mask (1 where a token is real). What pads is masked, so its value is free."""
    longest = max(len(prompt) for prompt in prompts)
    tokens = torch.zeros(len(prompts), longest, dtype=torch.int64)
    mask = torch.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    return tokens.to(device), mask.to(device)
