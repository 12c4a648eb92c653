"""Several adapters answer side by side over one base model, in one batch.

Every pane is a row of the batch: the base's products are shared by all rows, each row adds its own adapter's thin
update (`core.adapters.linear`, routing). Conversations of different lengths are padded on the left and masked, so a
row sees only its own tokens. All panes draw from random streams of the same seed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers.decoders import DecodeStream
from torch import Tensor
from transformers import DynamicCache

from core.adapters.inject import routed
from core.adapters.peft_format import load_adapter
from core.config import QuantConfig
from core.data.encoding import ensure_template, render
from core.errors import UserError
from core.generate.requests import Delta, PaneRequest, Sampling
from core.generate.sampling import choose
from core.models.load import load_model
from core.models.precision import best_device, choose_precision


@dataclass(slots=True)
class _Pane:
    """One row while it is being written; `room` is how many tokens it may grow to."""

    stream: DecodeStream
    generator: torch.Generator
    room: int
    tokens: list[int] = field(default_factory=list)
    done: bool = False


class ChatModel:
    """A base model in memory that answers as itself and as any adapter loaded beside it.

    Args:
        model_folder: the base, in transformers' format.
        bits: as in `QuantConfig`.

    Raises:
        ModelError: the base cannot be loaded.
    """

    def __init__(self, model_folder: Path, bits: int = 16) -> None:
        device = best_device()
        dtype = choose_precision(device, bits).dtype
        quant = QuantConfig(bits=bits)  # type: ignore[arg-type]
        self.loaded = load_model(model_folder, dtype=dtype, quant=quant, device=device)
        self.has_own_template = not ensure_template(self.loaded.tokenizer)
        self._ends = self._end_tokens()
        self._limit: int | None = getattr(self.loaded.model.config.get_text_config(), "max_position_embeddings", None)

    def load_adapter(self, folder: Path) -> str:
        """Put the adapter in `folder` beside the base; returns its key. Again: the same key.

        Raises:
            AdapterError: it is broken or made for another base; what was loaded before stays.
        """
        return load_adapter(self.loaded.model, folder)

    @torch.inference_mode()
    def reply(self, panes: Sequence[PaneRequest], sampling: Sampling, stop: Callable[[], bool]) -> Iterator[Delta]:
        """Answer all panes at once, token by token, until each has ended, is full, or `stop` is true.

        Raises:
            UserError: a conversation leaves no room for an answer, or the chat template refuses it.
        """
        begin = time.monotonic()
        prompts = [self._tokenize(pane) for pane in panes]
        rows = [self._new_row(sampling, len(prompt)) for prompt in prompts]
        tokens, mask = _pad_left(prompts, self.loaded.device)
        base_row = next((i for i, pane in enumerate(panes) if pane.adapter is None), None)
        cache = DynamicCache(config=self.loaded.model.config)
        with routed(self.loaded.model, [pane.adapter for pane in panes], self.loaded.dtype):
            for _ in range(max(row.room for row in rows)):
                logits = self._forward(tokens, mask, cache)
                chosen = [choose(logits[i], sampling, row.generator) for i, row in enumerate(rows)]
                texts = {i: self._extend(row, chosen[i]) for i, row in enumerate(rows) if not row.done}
                for index, text in texts.items():
                    yield Delta(
                        pane=index,
                        text=text,
                        tokens=len(rows[index].tokens),
                        seconds=time.monotonic() - begin,
                        done=rows[index].done,
                        differs_at=_first_difference(rows, index, base_row),
                    )
                if all(row.done for row in rows) or stop():
                    return
                tokens = torch.tensor(chosen, device=self.loaded.device)[:, None]
                mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)

    def _forward(self, tokens: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
        """Logits `[batch, vocab]` for the token after the last of `tokens` `[batch, t]`; `mask` covers all so far."""
        last = None if self._limit is None else self._limit - 1  # a row that is full waits there for the others
        positions = (mask.cumsum(1) - 1).clamp(0, last)[:, -tokens.shape[1] :]
        output = self.loaded.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1]
        return logits

    def _extend(self, row: _Pane, token: int) -> str:
        """Append `token` to `row`; returns the text that this completes."""
        row.tokens.append(token)
        if token in self._ends:
            row.done = True
            return ""
        row.done = len(row.tokens) >= row.room
        return row.stream.step(self.loaded.tokenizer.backend_tokenizer, token) or ""

    def _new_row(self, sampling: Sampling, prompt_tokens: int) -> _Pane:
        room = sampling.max_new_tokens
        if self._limit is not None:
            room = min(room, self._limit - prompt_tokens)
        return _Pane(DecodeStream(skip_special_tokens=True), torch.Generator().manual_seed(sampling.seed), room)

    def _tokenize(self, pane: PaneRequest) -> list[int]:
        try:
            text = render(self.loaded.tokenizer, pane.messages, opening=True)
        except Exception as error:  # a template is a program of the model's author: anything may come out of it
            raise UserError(f"The model's chat template refused the conversation: {error}") from error
        tokens = list(self.loaded.tokenizer(text, add_special_tokens=False)["input_ids"])
        limit = getattr(self.loaded.model.config, "max_position_embeddings", None)
        if limit is not None and len(tokens) >= limit:
            raise UserError(
                f"The conversation is {len(tokens)} tokens long and the model reads {limit}",
                hint="Clear it and start again",
            )
        return tokens

    def _end_tokens(self) -> frozenset[int]:
        """Tokens that end an answer: the tokenizer's, and those that the model's generation settings name."""
        settings: Any = self.loaded.model.generation_config.eos_token_id
        named = settings if isinstance(settings, list) else [settings]
        return frozenset(token for token in [*named, self.loaded.tokenizer.eos_token_id] if token is not None)


def _pad_left(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """`[batch, longest]` tokens and their mask (1 where a token is real). What pads is masked, so its value is free."""
    longest = max(len(prompt) for prompt in prompts)
    tokens = torch.zeros(len(prompts), longest, dtype=torch.int64)
    mask = torch.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    return tokens.to(device), mask.to(device)


def _first_difference(rows: Sequence[_Pane], index: int, base_row: int | None) -> int | None:
    if base_row is None or index == base_row:
        return None
    pairs = zip(rows[index].tokens, rows[base_row].tokens, strict=False)
    return next((position for position, (mine, base) in enumerate(pairs, start=1) if mine != base), None)
