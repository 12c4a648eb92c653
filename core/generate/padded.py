"""A few prompts that a model answers as it stands, all beginning together: for samples while it is being trained.

Nothing is routed and nothing is kept, and the cache is transformers' own kind: whatever adapter is active answers, and
a model needs nothing but to take a mask. Rows are padded on the left, so a row's last digits depend on the others;
where they must not, there is `core.generate.decoder`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from core.generate.cache import growing_cache
from core.models.load import LoadedModel


class PaddedBatch:
    """Prompts (at least one token each), to be read once and then written token by token."""

    def __init__(self, loaded: LoadedModel, prompts: Sequence[Sequence[int]]) -> None:
        self._loaded = loaded
        self._cache = growing_cache(loaded.model.config)
        self._limit: int | None = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)
        longest = max(len(prompt) for prompt in prompts)
        tokens, mask = torch.zeros(2, len(prompts), longest, dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            tokens[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        self._tokens, self._mask = tokens.to(loaded.device), mask.to(loaded.device)

    def read(self) -> Tensor:
        """Logits `[rows, vocab]` behind the prompts."""
        return self._logits(self._tokens)

    def write(self, tokens: Sequence[int]) -> Tensor:
        """Put one token behind each row; returns the logits `[rows, vocab]` behind it."""
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        return self._logits(torch.tensor(tokens, device=self._mask.device)[:, None])

    def _logits(self, tokens: Tensor) -> Tensor:
        last = None if self._limit is None else self._limit - 1  # a row that is full waits there for the others
        output = self._loaded.model(
            input_ids=tokens,
            attention_mask=self._mask,
            position_ids=(self._mask.cumsum(1) - 1).clamp(0, last)[:, -tokens.shape[1] :],
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1]
        return logits
