"""Does the engine compute what this base model computes? Tried on a few tokens, before the first step.

The engine packs rows behind one another, puts its own attention in and forms logits on its own. That is exact for
decoders whose tokens meet in transformers' attention interface alone. Where they also meet elsewhere (a recurrence, a
convolution, a bias of position, attention sinks), rows would leak into each other without any sign. A list of
architectures would never be complete, so short rows are laid out in each way that we have, the fastest first, and
compared with what the model's own code answers for each row alone. That has gone through our norms and gated products
by then, where the model's own are like these (`core.models.lean`):

    packed      our attention, no padding; once more with rows that share their beginning
    padded      the model's own attention: the one that it was loaded with, then its plainest ("eager")

The first that is exact is taken. What comes after a token must not reach it, or padding would, and the model would be
shown the very token that it is to name: that is tried as well. For a classifier there is one way, padded.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from core.data.tokens.batching import pack, pad, pad_classes
from core.data.tokens.encoding import IGNORE, Row
from core.data.tokens.labeling import ClassRow
from core.errors import ModelError
from core.kernels import packed_attention
from core.models.lean import make_lean
from core.models.load import LoadedModel, head_weight
from core.train.objective import (
    ClassifiedRows,
    Objective,
    PackedRows,
    PaddedRows,
    class_logits,
    labeled_hidden,
    labeled_logits,
)

SHORT, LONG, SHARED = 7, 12, 9  # tokens a row, and those that the last two begin with
PLAINEST = "eager"
# What rounding leaves, with room: measured on the starter are 5e-6 and, in bf16, 0.09. A leak makes about 1.
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
ROUGH_TOLERANCE = 0.3


class _Fault(Exception):
    """Why a layout will not do for a model; the words go on from `tried on …, `."""


def choose_layout(loaded: LoadedModel) -> tuple[Objective, str | None]:
    """The fastest layout of rows that gives each the logits that it gets alone, and what is to be said about it.

    The model is left with the attention that the layout needs.

    Raises:
        ModelError: there is none.
    """
    rows = [_labeled(row) for row in _random_rows(loaded)]
    own = loaded.model.config._attn_implementation
    alone = _alone(loaded, rows)
    make_lean(loaded.model, loaded.dtype, loaded.device)
    faults: list[_Fault] = []
    for attention in dict.fromkeys((packed_attention.NAME, own, PLAINEST)):
        try:
            _compare(loaded, attention, rows, alone)
        except _Fault as fault:
            faults.append(fault)
            continue
        if attention == packed_attention.NAME:
            return PackedRows(loaded), None
        kind = loaded.model.config.model_type
        return PaddedRows(loaded), f"Rows are padded, not packed, because this is a {kind} model: packed, {faults[0]}"
    raise _not_supported(loaded, f"tried on padded rows, {faults[-1]}") from faults[-1]


def check_classifier(loaded: LoadedModel) -> Objective:
    """The layout of a classifier's rows.

    Raises:
        ModelError: padded, a row gets other logits than alone.
    """
    rows = [ClassRow(row, 0) for row in _random_rows(loaded)]
    padding: int = loaded.model.config.get_text_config().pad_token_id
    try:
        with torch.no_grad():
            parts = [class_logits(loaded.model, pad_classes([row], loaded.device, padding)) for row in rows]
            make_lean(loaded.model, loaded.dtype, loaded.device)
            together = class_logits(loaded.model, pad_classes(rows, loaded.device, padding))
    except Exception as error:  # another architecture's code: anything may come out of it
        raise _not_supported(loaded, f"it fails with {type(error).__name__}") from error
    alone = torch.cat(parts).float()
    difference = float((together.float() - alone).norm() / alone.norm())
    if not difference <= TOLERANCE.get(loaded.dtype, ROUGH_TOLERANCE):
        raise _not_supported(loaded, f"tried on padded rows, its logits are off by {difference:.1%}")
    return ClassifiedRows(loaded)


def _random_rows(loaded: LoadedModel) -> list[list[int]]:
    """A short row, a long one, and one that begins as the long one does."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = loaded.model.get_input_embeddings().num_embeddings
    short, long, other = (
        torch.randint(vocabulary, (length,), generator=generator).tolist() for length in (SHORT, LONG, LONG)
    )
    return [short, long, long[:SHARED] + other[SHARED:]]


def _labeled(row: list[int]) -> Row:
    """`row` with labels that leave its beginning free to be shared where it is long enough."""
    unlabeled = SHARED if len(row) > SHARED else 0
    return Row(row, [IGNORE] * unlabeled + row[unlabeled:])


def _alone(loaded: LoadedModel, rows: list[Row]) -> list[Tensor]:
    """Each row's logits where it has labels, `[labels, vocab]` fp32, row by row through the model's own code.

    Raises:
        ModelError: it cannot be run, or tokens see what comes after them.
    """
    _set_attention(loaded.model, PLAINEST)
    try:
        with torch.no_grad():
            logits = [_plain_logits(loaded, row.tokens) for row in rows]
            cut = _plain_logits(loaded, rows[1].tokens[:SHORT])
    except Exception as error:  # another architecture's code: anything may come out of it
        raise _not_supported(loaded, f"it fails with {type(error).__name__}") from error
    if _difference(logits[1][:SHORT], cut) > TOLERANCE.get(loaded.dtype, ROUGH_TOLERANCE):
        raise _not_supported(loaded, "its tokens see those that come after them")
    return [found[-row.trained :] for found, row in zip(logits, rows, strict=True)]


def _plain_logits(loaded: LoadedModel, row: list[int]) -> Tensor:
    logits: Tensor = loaded.model(input_ids=torch.tensor([row], device=loaded.device), use_cache=False).logits[0]
    return logits.float()


def _compare(loaded: LoadedModel, attention: str, rows: list[Row], alone: list[Tensor]) -> None:
    """Return if rows that are laid out for `attention` get the logits that they get alone.

    Raises:
        _Fault: they do not.
    """
    is_packed = attention == packed_attention.NAME
    if _set_attention(loaded.model, attention) != attention and is_packed:
        raise _Fault("its attention cannot be replaced")
    for group in (slice(0, 2), slice(1, 3)):
        try:
            with torch.no_grad():
                batch = (pack if is_packed else pad)(rows[group], loaded.device)
                logits = _logits(loaded.model, batch)
        except Exception as error:  # another architecture's code: anything may come out of it
            raise _Fault(f"it fails with {type(error).__name__}") from error
        difference = _difference(logits, torch.cat(alone[group]))
        if not difference <= TOLERANCE.get(loaded.dtype, ROUGH_TOLERANCE):
            raise _Fault(f"its logits are off by {difference:.1%}")


def _set_attention(model: Any, name: str) -> str:
    """Let `model` attend with `name` where it can; returns what it attends with."""
    model.set_attn_implementation(name)
    chosen: str = model.config._attn_implementation
    return chosen


def _logits(model: Any, batch: Any) -> Tensor:
    """`[labels, vocab]` fp32, as training computes them."""
    head = head_weight(model)
    logits = labeled_logits(model, batch) if head is None else labeled_hidden(model, batch) @ head.t()
    return logits.float()


def _difference(logits: Tensor, expected: Tensor) -> float:
    """How far off `logits` are, as a share of how far they spread over the vocabulary."""
    spread = expected - expected.mean(dim=-1, keepdim=True)
    return float((logits - expected).norm() / spread.norm())


def _not_supported(loaded: LoadedModel, what: str) -> ModelError:
    families = "BERT, RoBERTa or DeBERTa" if loaded.labels else "Llama, Qwen, Gemma or Phi"
    return ModelError(
        f"Models of the kind {loaded.model.config.model_type} cannot be trained here yet",
        what,
        f"Choose another base model, such as one of the {families} families",
    )
