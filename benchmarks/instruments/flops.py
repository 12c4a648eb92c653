"""How many floating-point operations a step of LoRA needs, from the model's sizes and the rows.

N frozen block weights, T real tokens, T_c of them with a label, V vocabulary, d hidden width, L layers, S a row's
length:

    forward      2 N T + 2 d V T_c + Σ_rows 2 L S² d_attention          (attention is causal: half of 4 L S² d)
    backward     2 N' T + 2 d V T_c + twice the attention                N' = N less what feeds only the lowest inputs
    adapters     6 T Σ r (in + out)

With every linear layer adapted, the lowest block's q, k and v are the only ones whose inputs need no gradient. One
multiplication with its addition counts two.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Those of a Llama-like model, such as the starter."""

    layers: int
    width: int
    inner: int
    heads: int
    key_heads: int
    head_width: int
    vocabulary: int

    @classmethod
    def read(cls, folder: Path) -> Sizes:
        """From a model folder's `config.json`."""
        said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        heads = said["num_attention_heads"]
        return cls(
            layers=said["num_hidden_layers"],
            width=said["hidden_size"],
            inner=said["intermediate_size"],
            heads=heads,
            key_heads=said.get("num_key_value_heads", heads),
            head_width=said.get("head_dim") or said["hidden_size"] // heads,
            vocabulary=said["vocab_size"],
        )

    @property
    def matrices(self) -> tuple[tuple[int, int], ...]:
        """in and out of a block's seven linear layers: q, k, v, o, gate, up, down."""
        query, key = self.heads * self.head_width, self.key_heads * self.head_width
        d, f = self.width, self.inner
        return (d, query), (d, key), (d, key), (query, d), (d, f), (d, f), (f, d)

    @property
    def block_weights(self) -> int:
        """N."""
        return self.layers * sum(i * o for i, o in self.matrices)

    @property
    def weights_backward(self) -> int:
        """N'."""
        return self.block_weights - sum(i * o for i, o in self.matrices[:3])

    @property
    def rank_one(self) -> int:
        """Σ (in + out), the trained parameters for each unit of rank."""
        return self.layers * sum(i + o for i, o in self.matrices)


def step_flops(sizes: Sizes, *, rank: int, lengths: Sequence[int], labels: float, shared: int = 0) -> dict[str, float]:
    """What an optimizer step over rows of `lengths` tokens needs, by part.

    Args:
        shared: how many tokens all rows begin with alike, and which are computed once.
    """
    tokens = sum(lengths) - (len(lengths) - 1) * shared
    pairs = sum(length**2 for length in lengths) - (len(lengths) - 1) * shared**2
    attention = 2 * sizes.layers * sizes.heads * sizes.head_width * pairs
    return {
        "base": 2 * (sizes.block_weights + sizes.weights_backward) * tokens,
        "head": 4 * sizes.width * sizes.vocabulary * labels,
        "adapters": 6 * rank * sizes.rank_one * tokens,
        "attention": 3 * attention,
    }
