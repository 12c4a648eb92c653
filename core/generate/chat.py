"""Several adapters answer side by side over one base model, in one batch.

Every pane is a row of the batch: the base's products are shared by all rows, each row adds its own adapter's thin
update (`core.adapters.linear`, routing). Conversations of different lengths are padded on the left and masked, so a
row sees only its own tokens. All panes draw from random streams of the same seed.

On a CPU nothing is faster for a few rows than reading the base's weights once a token. To come nearer to that, the
weights lie in the order in which they are read (`packed`), attention reads each key once (`attention`), the cache is
not copied (`cache`), and what was computed of a conversation is kept for its next turn (`decoder`). How near it is, and
what other machines make of it, is for `benchmarks/chat.py` to say.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import torch
from tokenizers.decoders import DecodeStream

from core.adapters.inject import lora_layers
from core.adapters.peft_format import CONFIG_FILE, WEIGHTS_FILE, load_adapter
from core.config import QuantConfig
from core.data.tokens.templates import end_of_turn, ensure_template, is_ours, render, saved_template
from core.errors import UserError
from core.generate.attention import use_grouped_attention
from core.generate.decoder import Decoder
from core.generate.ends import end_tokens
from core.generate.packed import pack_linears
from core.generate.requests import Delta, PaneRequest, Sampling
from core.generate.sampling import choose
from core.models.load import load_model
from core.models.precision import best_device, choose_precision

KEPT_BYTES = 2**29  # of all panes: 23,000 tokens of the starter, 4,000 of a model of eight billion parameters

_Stamp: TypeAlias = tuple[object, ...]


@dataclass(slots=True)
class _Pane:
    """One row while it is being written; `room` is how many tokens it may grow to, one of `ends` is its last."""

    stream: DecodeStream
    generator: torch.Generator
    room: int
    ends: frozenset[int]
    tokens: list[int] = field(default_factory=list)
    done: bool = False
    differs_at: int | None = None


class ChatModel:
    """A base model in memory that answers as itself and as any adapter loaded beside it.

    Args:
        model_folder: the base, in transformers' format.
        bits: as in `QuantConfig`.
        kept_bytes: how much the keys and values of earlier conversations may take.

    Raises:
        ModelError: the base cannot be loaded.
    """

    def __init__(self, model_folder: Path, bits: int = 16, *, kept_bytes: int = KEPT_BYTES) -> None:
        device = best_device()
        dtype = choose_precision(device, bits).dtype
        quant = QuantConfig(bits=bits)  # type: ignore[arg-type]
        self.loaded = load_model(model_folder, dtype=dtype, quant=quant, device=device)
        pack_linears(self.loaded.model)
        use_grouped_attention(self.loaded.model)
        self.decoder = Decoder(self.loaded, kept_bytes)
        self.has_own_template = not ensure_template(self.loaded.tokenizer)
        self._ends = end_tokens(self.loaded)
        self._keys: dict[_Stamp, str] = {}
        self._templates: dict[str, str] = {}  # of adapters that were trained with another one than the base's
        self._more_ends: dict[str, frozenset[int]] = {}
        self._limit: int | None = getattr(self.loaded.model.config.get_text_config(), "max_position_embeddings", None)

    def load_adapter(self, folder: Path) -> str:
        """Put the adapter in `folder` beside the base; returns its key. Again: the same key.

        Raises:
            AdapterError: it is broken or made for another base; what was loaded before stays.
        """
        stamp = _stamp(folder)
        key = self._keys.get(stamp)
        if key is None or not any(layer.has(key) for layer in lora_layers(self.loaded.model).values()):
            key = self._keys[stamp] = load_adapter(self.loaded.model, folder)
        self._take_template(key, saved_template(folder))
        return key

    def _take_template(self, key: str, template: str | None) -> None:
        """Put conversations before the adapter `key` as it was taught, and end its answers where it learned to.

        A template is a program: of those that come with adapters, which may be anybody's, only our own are followed.
        """
        if template is None or template == self.loaded.tokenizer.chat_template or not is_ours(template):
            self._templates.pop(key, None)
            self._more_ends.pop(key, None)
        elif template != self._templates.get(key):
            self._templates[key] = template
            self._more_ends[key] = end_of_turn(self.loaded.tokenizer, template)

    @torch.inference_mode()
    def reply(self, panes: Sequence[PaneRequest], sampling: Sampling, stop: Callable[[], bool]) -> Iterator[Delta]:
        """Answer all panes at once, token by token, until each has ended, is full, or `stop` is true.

        Raises:
            UserError: a conversation leaves no room for an answer, or the chat template refuses it.
        """
        begin = time.monotonic()
        prompts = [self._tokenize(pane) for pane in panes]
        rows = [self._new_row(sampling, len(prompt), pane.adapter) for prompt, pane in zip(prompts, panes, strict=True)]
        base = next((row for row, pane in zip(rows, panes, strict=True) if pane.adapter is None), None)
        with self.decoder.batch(prompts, [pane.adapter for pane in panes]) as batch:
            logits = batch.read()
            try:
                while True:
                    chosen = choose(logits, sampling, [row.generator for row in rows])
                    texts = {i: self._extend(row, chosen[i]) for i, row in enumerate(rows) if not row.done}
                    seconds = time.monotonic() - begin
                    for index, text in texts.items():
                        yield _delta(index, text, rows[index], base, seconds)
                    if all(row.done for row in rows) or stop():
                        break
                    logits = batch.write(chosen)
            finally:
                batch.keep([row.tokens for row in rows])

    def _extend(self, row: _Pane, token: int) -> str:
        """Append `token` to `row`; returns the text that this completes."""
        row.tokens.append(token)
        if token in row.ends:
            row.done = True
            return ""
        row.done = len(row.tokens) >= row.room
        return row.stream.step(self.loaded.tokenizer.backend_tokenizer, token) or ""

    def _new_row(self, sampling: Sampling, prompt_tokens: int, adapter: str | None = None) -> _Pane:
        room = sampling.max_new_tokens
        if self._limit is not None:
            room = min(room, self._limit - prompt_tokens)
        ends = self._ends | self._more_ends.get(adapter or "", frozenset())
        return _Pane(DecodeStream(skip_special_tokens=True), torch.Generator().manual_seed(sampling.seed), room, ends)

    def _tokenize(self, pane: PaneRequest) -> list[int]:
        try:
            template = self._templates.get(pane.adapter or "")
            text = render(self.loaded.tokenizer, pane.messages, opening=True, template=template)
        except Exception as error:  # a template is a program of the model's author: anything may come out of it
            raise UserError(f"The model's chat template refused the conversation: {error}") from error
        tokens = list(self.loaded.tokenizer(text, add_special_tokens=False)["input_ids"])
        if self._limit is not None and len(tokens) >= self._limit:
            raise UserError(
                f"The conversation is {len(tokens)} tokens long and the model reads {self._limit}",
                hint="Clear it and start again",
            )
        return tokens


def _stamp(folder: Path) -> _Stamp:
    """What changes when the adapter in `folder` is written anew; reading it takes a while, and each turn names it."""
    files = [folder / name for name in (CONFIG_FILE, WEIGHTS_FILE)]
    found = [file.stat() for file in files if file.is_file()]
    return folder, *((state.st_ino, state.st_size, state.st_mtime_ns) for state in found)


def _delta(index: int, text: str, row: _Pane, base: _Pane | None, seconds: float) -> Delta:
    """What is new in the pane `index`; `base` is the pane that shows the base model, if there is one."""
    n = len(row.tokens)
    if row.differs_at is None and base is not None and n <= len(base.tokens) and row.tokens[-1] != base.tokens[n - 1]:
        row.differs_at = n
    return Delta(pane=index, text=text, tokens=n, seconds=seconds, done=row.done, differs_at=row.differs_at)
