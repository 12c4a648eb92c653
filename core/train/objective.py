"""What is minimized: the cross-entropy of the labeled tokens of a packed batch."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from core.data.batching import Batch
from core.kernels.cross_entropy import frozen_head_cross_entropy, plain_cross_entropy
from core.models.load import head_weight


def inputs_of(batch: Batch) -> dict[str, Any]:
    """What the model's forward is called with."""
    return {
        "input_ids": batch.tokens,
        "position_ids": batch.positions,
        "cu_seq_lens_q": batch.bounds,
        "use_cache": False,
    }


def summed_loss(model: Any, batch: Batch) -> Tensor:
    """The batch's loss in nats, summed over its labeled tokens: a scalar in fp32.

    `model` attends with `packed_attention`. Logits are formed at labeled positions alone, and in chunks where the
    head is plain and frozen.
    """
    inputs = inputs_of(batch)
    head = head_weight(model)
    if head is None:
        kept = batch.labeled[0].nonzero()[:, 0]
        logits = model(**inputs, logits_to_keep=kept).logits
        return plain_cross_entropy(logits[0], batch.labels)
    hidden = model.base_model(**inputs).last_hidden_state
    return frozen_head_cross_entropy(hidden[batch.labeled], head, batch.labels)
