"""What is minimized: cross-entropy, summed over what a row asks for.

A causal language model's rows are laid out packed or padded. Both are exact (`core.train.trial` makes sure of it) and
give the same sum. Packed rows waste nothing; padded ones go through the model's own attention, which every
architecture has: filling comes after a row's last token, and in a causal model nothing reaches back. A classifier's
rows are padded.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from core.adapters.inject import lora_layers
from core.data.tokens.batching import (
    Batch,
    ClassBatch,
    PaddedBatch,
    micro_batches,
    pack,
    pad,
    pad_classes,
    padded_micro_batches,
)
from core.data.tokens.encoding import Row
from core.data.tokens.labeling import ClassRow
from core.kernels.cross_entropy import frozen_head_cross_entropy, frozen_head_score, plain_cross_entropy
from core.models.load import LoadedModel, head_weight


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the model made of some rows: the loss in nats, summed over all that they ask for, a scalar in fp32; and how
    many of these it got right, a scalar: rows of a classifier, else tokens, which are counted without a gradient alone.
    """

    loss: Tensor
    correct: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """What a model says at the labels of some rows, row by row: logits, of which no more is formed than is asked for.

    `labels` `[n]` int64. `states` are the logits `[n, vocab]` themselves or, where there is a `head` `[vocab, d]`, the
    hidden states `[n, d]` that it is multiplied with.
    """

    labels: Tensor
    states: Tensor
    head: Tensor | None = None

    def logits(self, part: slice) -> Tensor:
        """`[part, vocab]` in the dtype of the states."""
        states = self.states[part]
        return states if self.head is None else states @ self.head.t()


class Objective(Protocol):
    """How rows are put before one model, and what is minimized. The rows are those that the task encodes.

    `is_padded` says that a group costs as much as its longest row in each of its rows, so that rows of like length
    should meet.
    """

    is_padded: ClassVar[bool]

    def groups(self, rows: Sequence[Any], micro_tokens: int) -> Iterator[Sequence[Any]]:
        """`rows`, in any order, in groups that the model takes at once: of `micro_tokens` tokens, or of one row."""

    def outcome(self, rows: Sequence[Any]) -> Outcome:
        """What the model makes of one group, under autograd."""

    def predictions(self, rows: Sequence[Any]) -> Predictions:
        """What the model says at the labels of one group, as it answers now; not for training."""


class PackedRows:
    """A causal model that attends with `packed_attention`. Rows share what they begin with, but not where an adapter
    draws dropout: there each row has draws of its own.
    """

    is_padded: ClassVar[bool] = False

    def __init__(self, loaded: LoadedModel) -> None:
        self._model, self._device = loaded.model, loaded.device

    def groups(self, rows: Sequence[Row], micro_tokens: int) -> Iterator[Sequence[Row]]:
        return micro_batches(rows, micro_tokens)

    def outcome(self, rows: Sequence[Row]) -> Outcome:
        draws = any(layer.training for layer in lora_layers(self._model).values())
        return judged(self._model, pack(rows, self._device, share_beginning=not draws))

    def predictions(self, rows: Sequence[Row]) -> Predictions:
        return predicted(self._model, pack(rows, self._device))


class PaddedRows:
    """A causal model with an attention of its own."""

    is_padded: ClassVar[bool] = True

    def __init__(self, loaded: LoadedModel) -> None:
        self._model, self._device = loaded.model, loaded.device

    def groups(self, rows: Sequence[Row], micro_tokens: int) -> Iterator[Sequence[Row]]:
        return padded_micro_batches(rows, micro_tokens)

    def outcome(self, rows: Sequence[Row]) -> Outcome:
        return judged(self._model, pad(rows, self._device))

    def predictions(self, rows: Sequence[Row]) -> Predictions:
        return predicted(self._model, pad(rows, self._device))


class ClassifiedRows:
    """A classifier; its padding token is the one that `core.models.load` made sure of."""

    is_padded: ClassVar[bool] = True

    def __init__(self, loaded: LoadedModel) -> None:
        self._model, self._device = loaded.model, loaded.device
        self._padding: int = loaded.model.config.get_text_config().pad_token_id

    def groups(self, rows: Sequence[ClassRow], micro_tokens: int) -> Iterator[Sequence[ClassRow]]:
        return padded_micro_batches(rows, micro_tokens)

    def outcome(self, rows: Sequence[ClassRow]) -> Outcome:
        batch = pad_classes(rows, self._device, self._padding)
        logits = class_logits(self._model, batch)
        correct = (logits.detach().argmax(dim=-1) == batch.labels).sum()
        return Outcome(loss=plain_cross_entropy(logits, batch.labels), correct=correct)

    @torch.no_grad()
    def predictions(self, rows: Sequence[ClassRow]) -> Predictions:
        batch = pad_classes(rows, self._device, self._padding)
        return Predictions(labels=batch.labels, states=class_logits(self._model, batch))


@torch.no_grad()
def predicted(model: Any, batch: Batch | PaddedBatch) -> Predictions:
    """What `model` says at the batch's labels."""
    head = head_weight(model)
    states = labeled_logits(model, batch) if head is None else labeled_hidden(model, batch)
    return Predictions(labels=batch.labels, states=states, head=head)


def judged(model: Any, batch: Batch | PaddedBatch) -> Outcome:
    """The batch's `summed_loss`; where no gradient is wanted, also how many labels the model would have chosen."""
    if torch.is_grad_enabled():
        return Outcome(loss=summed_loss(model, batch))
    head = head_weight(model)
    if head is None:
        logits = labeled_logits(model, batch)
        correct = (logits.argmax(dim=-1) == batch.labels).sum()
        return Outcome(loss=plain_cross_entropy(logits, batch.labels), correct=correct)
    loss, correct = frozen_head_score(labeled_hidden(model, batch), head, batch.labels)
    return Outcome(loss=loss, correct=correct)


def summed_loss(model: Any, batch: Batch | PaddedBatch) -> Tensor:
    """The batch's loss in nats, summed over its labeled tokens: a scalar in fp32.

    For a packed batch `model` attends with `packed_attention`. Logits are formed at labeled positions alone, and in
    chunks where the head is plain and frozen.
    """
    head = head_weight(model)
    if head is None:
        return plain_cross_entropy(labeled_logits(model, batch), batch.labels)
    hidden = labeled_hidden(model, batch)
    return frozen_head_cross_entropy(hidden, head, batch.labels)


def labeled_hidden(model: Any, batch: Batch | PaddedBatch) -> Tensor:
    """`[labeled, d]`, the last hidden states of the labeled positions."""
    hidden: Tensor = model.base_model(**_inputs(model.base_model, batch)).last_hidden_state
    return hidden[batch.labeled]


def labeled_logits(model: Any, batch: Batch | PaddedBatch) -> Tensor:
    """`[labeled, vocab]` through the model's own head; other positions' are left out as far as the model allows."""
    inputs = _inputs(model, batch)
    kept = batch.labeled.any(dim=0).nonzero()[:, 0]  # columns with a label in some row
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        inputs["logits_to_keep"] = kept
        labeled = batch.labeled[:, kept]
    else:
        labeled = batch.labeled
    logits: Tensor = model(**inputs).logits
    return logits[0] if labeled.shape[0] == 1 and labeled.all() else logits[labeled]


def class_logits(model: Any, batch: ClassBatch) -> Tensor:
    """`[rows, classes]`."""
    inputs = {"input_ids": batch.tokens, "attention_mask": batch.mask, "use_cache": False}
    if batch.types is not None:
        inputs["token_type_ids"] = batch.types
    logits: Tensor = model(**_taken(model, inputs)).logits
    return logits


def _inputs(module: Any, batch: Batch | PaddedBatch) -> dict[str, Any]:
    """What the forward of `module` is called with."""
    if isinstance(batch, PaddedBatch):
        return _taken(module, {"input_ids": batch.tokens, "attention_mask": batch.mask, "use_cache": False})
    return {
        "input_ids": batch.tokens,
        "position_ids": batch.positions,
        "cu_seq_lens_q": batch.bounds,  # this and the next reach `packed_attention` through the model's own keywords
        "shared_tokens": batch.shared,
        "use_cache": False,
    }


def _taken(module: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Those of `inputs` that the forward of `module` has a name for."""
    known = inspect.signature(module.forward).parameters
    return {name: value for name, value in inputs.items() if name in known}
