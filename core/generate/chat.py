"""Several adapters answer side by side over one base model, in one batch.

Every pane is a row of the batch: the base's products are shared by all rows, each row adds the thin updates of its own
adapters, times their strengths (`core.adapters.linear`, routing). All panes draw from random streams of the same seed.
Requests that come while others are being written join them (`writing`), and what each row says is what it would say
alone (`decoder`).

On a CPU nothing is faster for a few rows than reading the base's weights once a token. To come nearer to that, the
weights lie in the order in which they are read (`packed`), attention reads each key once (`attention`), the cache is
not copied (`cache`), and what was computed of a conversation is kept for its next turn (`decoder`). How near it is, and
what other machines make of it, is for `benchmarks/chat.py` to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import torch
from tokenizers.decoders import DecodeStream
from torch import Tensor

from core.adapters.inject import lora_layers
from core.adapters.peft_format import CONFIG_FILE, WEIGHTS_FILE, load_adapter
from core.config import QuantConfig
from core.data.tokens.templates import end_of_turn, ensure_template, is_ours, render, saved_template
from core.errors import UserError
from core.generate.attention import use_grouped_attention
from core.generate.decoder import Decoder
from core.generate.ends import end_tokens
from core.generate.packed import pack_linears
from core.generate.probabilities import base_probabilities, probabilities
from core.generate.replies import Pane, Reply
from core.generate.requests import Blend, Delta, PaneRequest, TokenProbability
from core.generate.sampling import choose, is_plain
from core.generate.stops import StopTexts
from core.generate.writing import Told, Writing
from core.models.load import load_model
from core.models.precision import best_device, choose_precision

KEPT_BYTES = 2**29  # of all panes: 23,000 tokens of the starter, 4,000 of a model of eight billion parameters

_Stamp: TypeAlias = tuple[object, ...]


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
        self._writing = Writing(self.decoder, self._advance, self._seen_by_base)
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
            self.decoder.rest()
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

    def begin(self, panes: Sequence[PaneRequest]) -> Reply:
        """Put a request in line, to be written by the next steps beside those that are under way.

        Raises:
            UserError: a conversation leaves no room for an answer, or the chat template refuses it.
        """
        prompts = [self._tokenize(pane) for pane in panes]
        rows = [self._new_row(pane, prompt) for pane, prompt in zip(panes, prompts, strict=True)]
        reply = Reply(rows)
        self._writing.add(reply)
        return reply

    def step(self) -> list[Told]:
        """One more token for every row that is being written, and the first ones of a request that joins them. Each
        request's news come together; with an error it is over.
        """
        return self._writing.step()

    def leave(self, reply: Reply) -> None:
        """Write no more of it."""
        self._writing.leave(reply)

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to write."""
        return self._writing.is_idle

    def reply(self, panes: Sequence[PaneRequest], stop: Callable[[], bool]) -> Iterator[Delta]:
        """Answer all panes at once, token by token, until each has ended, is full, or `stop` is true. Steps go on for
        all that are being written, whose news are told to nobody.

        Raises:
            UserError: as `begin`.
        """
        reply = self.begin(panes)
        try:
            while not reply.is_done:
                for told in self.step():
                    if told.reply is reply:
                        if told.error is not None:
                            raise told.error
                        yield from told.deltas
                if stop():
                    return
        finally:
            self.leave(reply)

    def _advance(self, reply: Reply, rows: Sequence[Pane], logits: Tensor) -> list[Delta]:
        """Choose the next token of some rows of a reply by their logits `[rows, vocab]`; what is new in each."""
        chosen = _choose(logits, rows)
        known = [self._known(own, token, row) for own, token, row in zip(logits, chosen, rows, strict=True)]
        texts = [self._extend(row, token) for row, token in zip(rows, chosen, strict=True)]
        return [reply.delta(*news) for news in zip(rows, texts, known, strict=True)]

    def _known(self, logits: Tensor, token: int, row: Pane) -> tuple[TokenProbability, ...]:
        """What the row's own model holds of its next token, where that was asked for."""
        if row.asked.alternatives is None:
            return ()
        return probabilities(logits[None], [token], row.asked.alternatives, self.loaded.tokenizer)

    def _seen_by_base(self, reply: Reply) -> Iterator[Delta]:
        """For adapters' panes that asked for probabilities: what the base holds of their answers."""
        for pane in reply.panes:
            alternatives = pane.asked.alternatives
            if pane.asked.adapter is not None and alternatives is not None and pane.last is not None:
                self.decoder.rest()
                found = base_probabilities(self.loaded, pane.prompt, pane.tokens, alternatives)
                yield replace(pane.last, text="", probabilities=(), base_probabilities=found)

    def _extend(self, row: Pane, token: int) -> str:
        """Append `token` to `row`; returns the text that this completes, up to where it has to end."""
        row.tokens.append(token)
        if token in row.ends:
            row.ended = "stop"
            return row.stops.rest()
        text = row.stops.add(row.stream.step(self.loaded.tokenizer.backend_tokenizer, token) or "")
        if row.stops.is_found:
            row.ended = "stop"
        elif len(row.tokens) >= row.room:
            row.ended = "length"
            text += row.stops.rest()
        return text

    def _new_row(self, pane: PaneRequest, prompt: Sequence[int]) -> Pane:
        room = pane.sampling.max_new_tokens
        if self._limit is not None:
            room = min(room, self._limit - len(prompt))
        generator = torch.Generator().manual_seed(pane.sampling.seed)
        ends = self._ends | self._more_ends.get(_leading(pane.adapter), frozenset())
        return Pane(pane, prompt, DecodeStream(skip_special_tokens=True), StopTexts(pane.stop), generator, room, ends)

    def _tokenize(self, pane: PaneRequest) -> list[int]:
        text = self._rendered(pane) if pane.text is None else pane.text
        tokens = list(self.loaded.tokenizer(text, add_special_tokens=pane.text is not None)["input_ids"])
        if not tokens:
            raise UserError("The prompt is empty", hint="Give a text to go on with")
        if self._limit is not None and len(tokens) >= self._limit:
            raise UserError(
                f"The conversation is {len(tokens)} tokens long and the model reads {self._limit}",
                hint="Clear it and start again",
            )
        return tokens

    def _rendered(self, pane: PaneRequest) -> str:
        try:
            template = self._templates.get(_leading(pane.adapter))
            return render(self.loaded.tokenizer, pane.messages, opening=True, template=template)
        except Exception as error:  # a template is a program of the model's author: anything may come out of it
            raise UserError(f"The model's chat template refused the conversation: {error}") from error


def _stamp(folder: Path) -> _Stamp:
    """What changes when the adapter in `folder` is written anew; reading it takes a while, and each turn names it."""
    files = [folder / name for name in (CONFIG_FILE, WEIGHTS_FILE)]
    found = [file.stat() for file in files if file.is_file()]
    return folder, *((state.st_ino, state.st_size, state.st_mtime_ns) for state in found)


def _leading(adapter: str | Blend | None) -> str:
    """The adapter whose template a conversation follows: of a blend, the strongest one."""
    if isinstance(adapter, tuple):
        return max(adapter, key=lambda part: abs(part[1]), default=("", 0.0))[0]
    return adapter or ""


def _choose(logits: Tensor, rows: Sequence[Pane]) -> list[int]:
    samplings = [row.asked.sampling for row in rows]
    so_far = [() if is_plain(row.asked.sampling) else (*row.prompt, *row.tokens) for row in rows]
    return choose(logits, samplings, [row.generator for row in rows], so_far)
