"""Does the engine compute what this base model computes? Tried on a few tokens, before the first step.

The engine packs rows behind one another, puts its own attention in and forms logits on its own. That is exact for
decoders whose tokens meet in transformers' attention interface alone. Where they also meet elsewhere (a recurrence, a
convolution, a bias of position, attention sinks), rows would leak into each other without any sign. A list of
architectures would never be complete, so two short rows are packed and compared with what the model's own code
answers for each alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from core.data.batching import Batch, pack
from core.data.encoding import Row
from core.errors import ModelError
from core.kernels import packed_attention
from core.models.load import LoadedModel, head_weight
from core.train.objective import inputs_of

ROW_TOKENS = (7, 12)
# What rounding leaves, with room: measured on the starter are 5e-6 and, in bf16, 0.09. A leak makes about 1.
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
ROUGH_TOLERANCE = 0.3


def refuse_inexact(loaded: LoadedModel) -> None:
    """Return if packed rows get the logits that each gets alone.

    Raises:
        ModelError: they do not, or the model cannot be run this way.
    """
    generator = torch.Generator().manual_seed(0)
    vocabulary = loaded.model.get_input_embeddings().num_embeddings
    rows = [torch.randint(vocabulary, (length,), generator=generator).tolist() for length in ROW_TOKENS]
    try:
        with torch.no_grad():
            packed = _packed_logits(loaded.model, pack([Row(row, row) for row in rows], loaded.device))
            alone = _plain_logits(loaded, rows)
    except Exception as error:  # another architecture's code: anything may come out of it
        raise _not_supported(loaded, f"it fails with {type(error).__name__}") from error
    spread = alone - alone.mean(dim=-1, keepdim=True)
    difference = float((packed - alone).norm() / spread.norm())
    if not difference <= TOLERANCE.get(loaded.dtype, ROUGH_TOLERANCE):
        raise _not_supported(loaded, f"its logits are off by {difference:.1%}")


def _packed_logits(model: Any, batch: Batch) -> Tensor:
    """`[T, vocab]` fp32, as training computes them."""
    head = head_weight(model)
    logits: Tensor
    if head is None:
        logits = model(**inputs_of(batch)).logits[0]
    else:
        logits = model.base_model(**inputs_of(batch)).last_hidden_state[0] @ head.t()
    return logits.float()


def _plain_logits(loaded: LoadedModel, rows: list[list[int]]) -> Tensor:
    """`[T, vocab]` fp32, row by row through the model's own code."""
    loaded.model.set_attn_implementation("eager")
    try:
        parts = [loaded.model(input_ids=torch.tensor([row], device=loaded.device), use_cache=False) for row in rows]
    finally:
        loaded.model.set_attn_implementation(packed_attention.NAME)
    return torch.cat([part.logits[0] for part in parts]).float()


def _not_supported(loaded: LoadedModel, what: str) -> ModelError:
    kind = loaded.model.config.model_type
    return ModelError(
        f"Models of the kind {kind} cannot be trained here yet",
        f"tried on packed rows, {what}",
        "Choose another base model, such as one of the Llama, Qwen, Gemma or Phi families",
    )
