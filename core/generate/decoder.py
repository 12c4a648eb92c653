"""Conversations that are read one by one and written together, each with adapters of its own.

What a row says does not depend on who is beside it. Its prompt is read alone. Then it takes steps with all others that
are being written, and each of its numbers is formed as it would be alone: attention is each row's own
(`core.generate.joined`), and so are an adapter's thin products. What is left are the base's products, whose sums may be
ordered in another way where there are more rows. So a step is filled up to one of a few sizes between which the order
does not change: which these are on this machine is tried out when the model is loaded (`core.generate.equal_rows`).
Where the model does not let its rows be joined, they take their steps one after the other.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from transformers import DynamicCache

from core.adapters.inject import Routing, as_mix, lora_layers
from core.generate.cache import KeptRows, Owner, begun_with, can_be_kept
from core.generate.equal_rows import SIZES, equal_sizes
from core.generate.joined import JoinedCache, fill
from core.generate.requests import Blend
from core.models.load import LoadedModel

MOST_ROWS = SIZES[-1]


@dataclass(slots=True, eq=False)
class Row:
    """A conversation as far as the model has it: `tokens` are those whose keys and values lie in `cache`.

    `logits` `[vocab]` are those behind the prompt, and `unread` is how many of its tokens were computed; the rest was
    kept. `keeps` says whether it begins with what was kept of earlier rows and is kept itself.
    """

    adapter: str | Blend | None
    owner: Owner
    cache: DynamicCache
    keeps: bool
    logits: Tensor
    unread: int
    tokens: list[int] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """What its keys and values take."""
        parts = [getattr(layer, name, None) for layer in self.cache.layers for name in ("keys", "values")]
        return sum(part.nbytes for part in parts if part is not None)

    def branch(self) -> Row:
        """The same row once more, to be written on in another way."""
        return replace(self, cache=copy.deepcopy(self.cache), tokens=list(self.tokens))


class Decoder:
    """A loaded model that reads and writes rows, and keeps what it computed of them.

    Args:
        kept_bytes: how much the keys and values that are kept may take.
    """

    def __init__(self, loaded: LoadedModel, kept_bytes: int) -> None:
        self.loaded = loaded
        self.kept = KeptRows(kept_bytes if can_be_kept(loaded.model.config) else 0)
        self._routed: tuple[str | Blend | None, ...] = ()
        self._routing: Routing | None = None
        self.sizes = equal_sizes(self)

    @torch.inference_mode()
    def read(self, prompt: Sequence[int], adapter: str | Blend | None, keeps: bool = True) -> Row:
        """A row that begins with `prompt` (at least one token).

        Args:
            keeps: whether what was kept of earlier rows is used. It was computed in other portions, so that what is
                computed behind it may differ in its last digits.

        Raises:
            AdapterError: an adapter is not loaded.
        """
        self._route((adapter,))
        owner = self._owner(adapter)
        kept, shared = self.kept.longest(owner, prompt) if keeps else (None, 0)
        cache = begun_with(self.loaded.model.config, kept, shared)
        logits = self._logits(prompt[shared:], shared, cache)
        return Row(adapter, owner, cache, keeps, logits, len(prompt) - shared, list(prompt))

    @torch.inference_mode()
    def write(self, rows: Sequence[Row], tokens: Sequence[int]) -> Tensor:
        """Put one token behind each of at most `MOST_ROWS` rows; returns the logits `[rows, vocab]` behind it."""
        if self.sizes:
            logits = self.step_together(rows, tokens, next(size for size in self.sizes if size >= len(rows)))
        else:
            logits = torch.stack([self.step_alone(row, token) for row, token in zip(rows, tokens, strict=True)])
        for row, token in zip(rows, tokens, strict=True):
            row.tokens.append(token)
        return logits

    def step_together(self, rows: Sequence[Row], tokens: Sequence[int], count: int) -> Tensor:
        """As `write`, in one pass that is filled up to `count` rows; `Row.tokens` stay as they are."""
        alike = list(dict.fromkeys(row.adapter for row in rows))
        order = sorted(range(len(rows)), key=lambda at: alike.index(rows[at].adapter))  # the same adapters side by side
        rows, tokens = [rows[at] for at in order], [tokens[at] for at in order]
        self._route((*(row.adapter for row in rows), *[None] * (count - len(rows))))
        device, joined = self.loaded.device, JoinedCache([row.cache for row in rows])
        output = self.loaded.model(
            input_ids=fill(torch.tensor(tokens)[:, None], count).to(device),
            attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),  # taken as it is, and not looked at
            position_ids=fill(torch.tensor([len(row.tokens) for row in rows])[:, None], count).to(device),
            past_key_values=joined,
            use_cache=True,
            logits_to_keep=1,
            joined=joined,
        )
        logits: Tensor = output.logits[:, -1]
        return logits[torch.tensor(order, device=device).argsort()]

    def step_alone(self, row: Row, token: int) -> Tensor:
        """Logits `[vocab]` behind one more token of one row; `Row.tokens` stay as they are."""
        self._route((row.adapter,))
        return self._logits([token], len(row.tokens), row.cache)

    def keep(self, row: Row) -> None:
        """Keep what was computed of it, where it lets itself be kept."""
        if row.keeps and not self.kept.is_off:
            columns = min(layer.get_seq_length() for layer in row.cache.layers)  # a step that failed is left out
            self.kept.add(row.owner, row.tokens[:columns], row.cache)

    def rest(self) -> None:
        """Leave the model as it was: before adapters are put in or taken out, and when there is nothing to write."""
        if self._routing is not None:
            self._routing.end()
        self._routing, self._routed = None, ()

    def _logits(self, tokens: Sequence[int], before: int, cache: DynamicCache) -> Tensor:
        """`[vocab]` behind `tokens` of one row, which come behind `before` others."""
        end, device = before + len(tokens), self.loaded.device
        output = self.loaded.model(
            input_ids=torch.tensor([list(tokens)], device=device),
            attention_mask=torch.ones(1, end, dtype=torch.int64, device=device),
            position_ids=torch.arange(before, end, device=device)[None],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[0, -1]
        return logits

    def _route(self, adapters: tuple[str | Blend | None, ...]) -> None:
        if self._routing is None:
            self._routing = Routing(self.loaded.model, self.loaded.dtype)
        if adapters != self._routed:
            self._routed = ()  # where an adapter is missing
            self._routing.use(adapters)
            self._routed = adapters

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
