"""How far apart two models are on the same rows: each one's loss, and the divergence between them, token by token.

With p the base's distribution over the vocabulary at a labeled position and q the adapter's, y the label:

    loss = −log p_y, −log q_y        KL(q ‖ p) = Σ_v q_v (log q_v − log p_v)

exactly, over all of the vocabulary, from fp32 log-softmaxes. Of a whole batch only the hidden states are held: logits
are formed for some positions at a time (`CHUNK`, which the product wants), and what is as wide as the vocabulary and
fp32 for few of these (`WIDE_BYTES` an array). Equal logits give a KL of exactly 0: each term is q_v · 0.

The base is the same model with every adapter off, which is the base to the bit: its layers answer as if they had never
been wrapped (`core.adapters.layer`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.analysis.appraisal import RowScore
from core.data.tokens.encoding import Tokens
from core.train.objective import Predictions

CHUNK = 256  # positions
WIDE_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Scores:
    """What was measured at each labeled position, `[n]`: losses and divergence fp32, and whether the label is the
    likeliest, bool.
    """

    base_loss: Tensor
    loss: Tensor
    kl: Tensor
    base_right: Tensor
    right: Tensor


@torch.no_grad()
def compare(base: Predictions, adapted: Predictions) -> Scores:
    """Both of the same rows."""
    assert torch.equal(base.labels, adapted.labels)
    parts: list[tuple[Tensor, ...]] = []
    for part in _slices(len(base.labels), CHUNK):
        first, second, labels = base.logits(part), adapted.logits(part), base.labels[part]
        few = max(1, WIDE_BYTES // (4 * first.shape[1]))
        parts += [
            _measure(first[some].float(), second[some].float(), labels[some]) for some in _slices(len(labels), few)
        ]
    return Scores(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _slices(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _measure(base: Tensor, adapted: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    p, q = base.log_softmax(dim=-1), adapted.log_softmax(dim=-1)
    at = labels[:, None]
    kl = (q.exp() * (q - p)).sum(dim=-1)
    return (
        -p.gather(1, at)[:, 0],
        -q.gather(1, at)[:, 0],
        kl,
        p.argmax(dim=-1) == labels,
        q.argmax(dim=-1) == labels,
    )


def by_row(scores: Scores, rows: Sequence[Tokens]) -> list[RowScore]:
    """The sums of each of `rows`, whose labels were scored one row behind the other."""
    counts = [row.trained for row in rows]
    assert sum(counts) == len(scores.loss), "each label belongs to a row"
    columns = (scores.base_loss, scores.loss, scores.kl, scores.base_right, scores.right)
    sums = [[float(part.sum(dtype=torch.float64)) for part in torch.split(column, counts)] for column in columns]
    return [
        RowScore(count, base_loss, loss, kl, int(base_right), int(right))
        for count, base_loss, loss, kl, base_right, right in zip(counts, *sums, strict=True)
    ]
