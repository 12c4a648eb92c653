"""The low-rank update itself (LoRA paper, section 4.1).

    ΔW = s · B A        A [r, in], B [out, r], s = α / r        h = W₀ x + ΔW x

A starts random and B at zero, so that a fresh update changes nothing and training starts at the base model exactly.
The paper draws A from a Gaussian; like the authors' later code we use the Kaiming-uniform bound 1/√in, which has
the scale that a linear layer of that width is made for. Both matrices are fp32 masters whatever the base computes
in.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class LowRank(nn.Module):
    """A and B of one layer, with their scale.

    Args:
        in_features, out_features: the adapted layer's sizes.
        rank: r. alpha: α.
        dropout: the probability with which an input feature is dropped on its way into A.
        device: where A and B live.
        generator: draws A; the global one where None. A CPU generator serves every device.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        device: torch.device | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.rank, self.alpha, self.dropout = rank, alpha, dropout
        a = torch.empty(rank, in_features)
        nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator)
        self.a = nn.Parameter(a.to(device))
        self.b = nn.Parameter(torch.zeros(out_features, rank, device=device))

    @property
    def scale(self) -> float:
        """s = α / r."""
        return self.alpha / self.rank

    def delta(self) -> Tensor:
        """ΔW = s · B A, `[out, in]` fp32."""
        return self.scale * (self.b.detach() @ self.a.detach())
