"""An embedding with adapters beside it: the rows of A for the tokens, times B.

W₀ is seen as `[width, vocabulary]`, as if tokens came one-hot: h = W₀ x + s · B (A x), where A x is a column of A. As
in peft A starts at zero and B random. Embeddings that scale what they look up (Gemma's) scale the update too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from core.adapters.layer import LoraLayer
from core.adapters.lowrank import TokenRows, Update


class LoraEmbedding(LoraLayer):
    """`base` (`nn.Embedding`, frozen) with updates that are low-rank or replace the rows of chosen tokens."""

    @property
    def in_features(self) -> int:
        return int(self.base.num_embeddings)  # type: ignore[arg-type]

    @property
    def out_features(self) -> int:
        return int(self.base.embedding_dim)  # type: ignore[arg-type]

    def change(self, x: Tensor, y: Tensor, update: Update) -> Tensor:
        thin = self._looked_up(x, update)
        multiplier: Any = getattr(self.base, "embed_scale", 1.0)
        change: Tensor = update.scale * thin * multiplier
        if update.magnitude is None:
            return change.to(y.dtype)
        gain = self.gain(update)
        rescaled: Tensor = (gain - 1) * y + gain * change
        return rescaled.to(y.dtype)

    def _looked_up(self, x: Tensor, update: Update) -> Tensor:
        """B A x, `[..., width]` fp32."""
        if isinstance(update, TokenRows):
            hits = x[..., None] == update.tokens  # [..., n], of which at most one is true
            return hits.to(update.b.dtype) @ update.b.t()
        a, b = update.factors()
        return torch.nn.functional.embedding(x, a.t()) @ b.t()

    def matrix(self) -> Tensor:
        weight: Tensor = self.base.weight  # type: ignore[assignment]
        return weight.detach().t()

    def weight_change(self, update: Update) -> Tensor:
        return self.matrix_change(update).t()
