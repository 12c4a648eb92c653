"""Conversations as a batch that is read once and then written token by token, each row with adapters of its own.

`core.generate.cache` says what is kept of a row, and where the columns of a batch lie.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from core.adapters.inject import as_mix, lora_layers, routed
from core.generate.cache import KeptRow, KeptRows, Owner, can_be_kept, growing_cache, laid_out
from core.generate.requests import Blend
from core.models.load import LoadedModel


class Decoder:
    """A loaded model that reads and writes batches, and keeps what it computed of their rows.

    Args:
        kept_bytes: how much the keys and values that are kept may take.
    """

    def __init__(self, loaded: LoadedModel, kept_bytes: int) -> None:
        self.loaded = loaded
        self.kept = KeptRows(kept_bytes if can_be_kept(loaded.model.config) else 0)

    @contextmanager
    def batch(self, prompts: Sequence[Sequence[int]], adapters: Sequence[str | Blend | None]) -> Iterator[Batch]:
        """A batch with a row for each prompt (at least one token) and its adapters, begun with what is kept of it.

        Raises:
            AdapterError: an adapter is not loaded.
        """
        are_alike = len(set(adapters)) == 1
        with routed(self.loaded.model, adapters[:1] if are_alike else adapters, self.loaded.dtype):
            yield Batch(self, prompts, [self._owner(adapter) for adapter in adapters])

    def _owner(self, adapter: str | Blend | None) -> Owner:
        """What tells a blend from others, and from one of adapters loaded under the same keys at another time."""
        mix = as_mix(adapter)
        layers = list(lora_layers(self.loaded.model).values()) if mix else []
        return tuple(
            (weakref.ref(layer.adapters[key]), strength)
            for key, strength in mix
            for layer in layers
            if key in layer.adapters
        )


class Batch:
    """The rows of one request, made by `Decoder.batch`: to be read once, then written until all are done."""

    def __init__(self, decoder: Decoder, prompts: Sequence[Sequence[int]], owners: Sequence[Owner]) -> None:
        self._decoder, self._owners = decoder, owners
        self._prompts = [tuple(prompt) for prompt in prompts]
        self._tokens, self._mask = _pad_left(self._prompts, decoder.loaded.device)
        found = [decoder.kept.longest(owner, prompt) for owner, prompt in zip(owners, self._prompts, strict=True)]
        self._unread = max(len(prompt) - shared for prompt, (_, shared) in zip(self._prompts, found, strict=True))
        self.cache = growing_cache(decoder.loaded.model.config)
        self._begin_with([row for row, _ in found])

    def _begin_with(self, kept: Sequence[KeptRow | None]) -> None:
        """Put what is kept of the rows into the columns before those that are to be read."""
        used = [max(0, len(prompt) - self._unread) for prompt in self._prompts]
        pairs = laid_out(list(zip(kept, used, strict=True)), max(used))
        for layer, (keys, values) in zip(self.cache.layers, pairs, strict=False):
            layer.update(keys, values)

    @property
    def unread(self) -> int:
        """How many columns `read` computes; the rest was kept."""
        return self._unread

    def read(self) -> Tensor:
        """Logits `[rows, vocab]` behind the prompts."""
        return self._logits(self._tokens[:, -self._unread :])

    def write(self, tokens: Sequence[int]) -> Tensor:
        """Put one token behind each row; returns the logits `[rows, vocab]` behind it."""
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        return self._logits(torch.tensor(tokens, device=self._mask.device)[:, None])

    def keep(self, answers: Sequence[Sequence[int]]) -> None:
        """Keep what was computed of each row: its prompt, and as much of its answer as was put behind it.

        Args:
            answers: each row's tokens, without what was written only because other rows were not done.
        """
        kept = self._decoder.kept
        if kept.is_off:
            return
        columns = min(layer.get_seq_length() for layer in self.cache.layers)  # a step that failed is left out
        firsts = [self._tokens.shape[1] - len(prompt) for prompt in self._prompts]
        texts = [(*prompt, *answer) for prompt, answer in zip(self._prompts, answers, strict=True)]
        rows = zip(self._owners, texts, firsts, strict=True)
        kept.add([(owner, text[: columns - first], first) for owner, text, first in rows], self.cache)

    def _logits(self, tokens: Tensor) -> Tensor:
        limit = getattr(self._decoder.loaded.model.config.get_text_config(), "max_position_embeddings", None)
        last = None if limit is None else limit - 1  # a row that is full waits there for the others
        output = self._decoder.loaded.model(
            input_ids=tokens,
            attention_mask=self._mask,
            position_ids=(self._mask.cumsum(1) - 1).clamp(0, last)[:, -tokens.shape[1] :],
            past_key_values=self.cache,
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
