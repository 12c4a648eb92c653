"""The low-rank update itself (LoRA paper, section 4.1), and the shapes it takes.

    ΔW = s · B A        A [r, in], B [out, r]        s = α / r, or α / √r (rsLoRA, arXiv 2312.03732)

Every frozen map is seen as a matrix W₀ [out, in]: a linear layer's as it lies, GPT-2's Conv1D transposed, an embedding
as [width, vocabulary], a convolution as [out, in · kernel]. What an adapter does to it is always a product of two thin
matrices, its factors; the kinds here differ in how these come about:

    LowRank        A and B as they are
    AnchoredRank   A and B less what they were at the start, so that a start that is not zero leaves the base as it is
    FusedRank      chosen parts of a matrix that is several in one (q, k and v), each with factors of its own
    TokenRows      rows of an embedding replaced: A picks the tokens, B is what they change by
    BiasOnly       no factors at all

DoRA's magnitude and a trained bias stand beside the factors. All are fp32 masters whatever the base computes in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn


class LowRank(nn.Module):
    """A and B of one layer with their scale, and perhaps a magnitude and a bias.

    Args:
        a: `[..., r, in]`, b: `[..., out, r]`, both fp32; leading dimensions count experts.
        alpha: α. use_rslora: whether s = α / √r.
        dropout: the probability with which an input feature is dropped on its way into A.
    """

    def __init__(self, a: Tensor, b: Tensor, *, alpha: float, use_rslora: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.rank, self.alpha, self.use_rslora, self.dropout = a.shape[-2], alpha, use_rslora, dropout
        self.a, self.b = nn.Parameter(a.contiguous()), nn.Parameter(b.contiguous())
        self.magnitude: nn.Parameter | None = None  # [out], DoRA's m
        self.bias: nn.Parameter | None = None  # [out], what stands in for the base's bias

    @property
    def scale(self) -> float:
        """s, a number without unit."""
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)

    def factors(self) -> tuple[Tensor, Tensor]:
        """A `[..., R, in]` and B `[..., out, R]`, differentiable, such that ΔW = s · B A; R is not always r."""
        return self.a, self.b

    def delta(self) -> Tensor:
        """s · B A, `[..., out, in]` fp32, detached; without DoRA's rescaling."""
        with torch.no_grad():
            a, b = self.factors()
            return self.scale * (b @ a)


class AnchoredRank(LowRank):
    """ΔW = s · (B A − B₀ A₀): for starts such as PiSSA's, whose B A is not zero.

    The authors take B₀ A₀ out of the base instead. Here the base stays as it is, in memory as on disk, and so do other
    adapters beside it; the price is twice the rank in the thin products.

    Args:
        start: A₀ and B₀; A and B begin as copies of them.
    """

    def __init__(self, start: tuple[Tensor, Tensor], **settings: float) -> None:
        super().__init__(start[0].clone(), start[1].clone(), **settings)  # type: ignore[arg-type]
        self.register_buffer("a0", start[0].clone(), persistent=False)
        self.register_buffer("b0", start[1].clone(), persistent=False)

    a0: Tensor
    b0: Tensor

    def factors(self) -> tuple[Tensor, Tensor]:
        return torch.cat([self.a, self.a0], dim=-2), torch.cat([self.b, -self.b0], dim=-1)


class FusedRank(LowRank):
    """Updates for chosen parts of a fused projection, whose other parts stay as they are (loralib's MergedLinear).

    Args:
        a: `[parts · r, in]`, the parts' A one above the other. b: `[rows of all parts, r]`, their B likewise.
        parts: for each, which of the layer's output features it is, int64.
        out_features: of the whole fused layer.
    """

    def __init__(self, a: Tensor, b: Tensor, parts: Sequence[Tensor], out_features: int, **settings: float) -> None:
        super().__init__(a, b, **settings)  # type: ignore[arg-type]
        self.rank = b.shape[1]
        self.parts, self.out_features = [part.to(b.device) for part in parts], out_features

    def factors(self) -> tuple[Tensor, Tensor]:
        wide = self.b.new_zeros(self.out_features, self.a.shape[0])
        start = 0
        for index, part in enumerate(self.parts):
            columns = torch.arange(index * self.rank, (index + 1) * self.rank, device=part.device)
            wide = wide.index_put((part[:, None], columns[None]), self.b[start : start + len(part)])
            start += len(part)
        return self.a, wide


class TokenRows(LowRank):
    """Chosen rows of an embedding, trained: ΔW has a column a token, which A picks and B holds.

    Args:
        tokens: `[n]` int64 token ids. change: `[n, width]` fp32, by how much their rows differ from the base's.
        vocabulary: how many rows the embedding has.
    """

    def __init__(self, tokens: Tensor, change: Tensor, vocabulary: int) -> None:
        super().__init__(torch.empty(len(tokens), 0, device=change.device), change.t().contiguous(), alpha=1.0)
        self.a.requires_grad_(False)
        self.vocabulary = vocabulary
        self.register_buffer("tokens", tokens, persistent=False)

    tokens: Tensor

    @property
    def scale(self) -> float:
        return 1.0

    def factors(self) -> tuple[Tensor, Tensor]:
        picks = self.b.new_zeros(len(self.tokens), self.vocabulary)
        picks[torch.arange(len(self.tokens)), self.tokens] = 1.0
        return picks, self.b


class BiasOnly(LowRank):
    """A trained bias on a layer that has no low-rank update (BitFit; LoRA with every bias trained)."""

    def __init__(self, bias: Tensor, in_features: int) -> None:
        empty = torch.empty(0, in_features, device=bias.device), torch.empty(len(bias), 0, device=bias.device)
        super().__init__(*empty, alpha=1.0)
        self.a.requires_grad_(False)
        self.b.requires_grad_(False)
        self.bias = nn.Parameter(bias.detach().float().clone())

    @property
    def scale(self) -> float:
        return 1.0


class Transposed:
    """The update of a tied embedding as the output head sees it: the same parameters, ΔWᵀ."""

    magnitude: None = None
    bias: None = None
    dropout: float = 0.0

    def __init__(self, update: LowRank) -> None:
        self.update = update

    @property
    def scale(self) -> float:
        return self.update.scale

    def factors(self) -> tuple[Tensor, Tensor]:
        """As `LowRank.factors`, of the transposed ΔW."""
        a, b = self.update.factors()
        return b.t(), a.t()

    def delta(self) -> Tensor:
        """As `LowRank.delta`, transposed."""
        return self.update.delta().t()


Update: TypeAlias = LowRank | Transposed
