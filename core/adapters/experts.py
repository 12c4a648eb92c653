"""A mixture of experts with adapters beside it: each expert's matrices get an A and a B of their own.

transformers keeps all experts of a layer in one module with three-dimensional weights, W [experts, out, in]. Between
its two matrices lies an activation, so what an adapter adds cannot be added to the module's output; the module's
computation is done here, expert by expert on the tokens that were sent to it, each product with its update:

    y_t = Σ_e p_te · W²_e φ(W¹_e x_t)        W_e + s · B_e A_e in place of W_e

with A [experts, r, in] and B [experts, out, r].

The router is not touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from core.adapters.layer import Adapted, Mix
from core.adapters.lowrank import LowRank
from core.errors import AdapterError
from core.kernels.lora_linear import lora_linear

FIRST, SECOND = ("gate_up_proj", "up_proj"), "down_proj"


@dataclass(frozen=True, slots=True)
class _Slice:
    """One expert's frozen matrix `[out, in]`, as `lora_linear` wants its base."""

    weight: Tensor
    bias: Tensor | None


def expert_matrices(module: nn.Module) -> tuple[str, ...]:
    """The names of the 3-D weights of a module of experts that can be adapted; none for any other module."""
    if not hasattr(module, "has_gate") or not hasattr(module, "is_transposed") or not hasattr(module, "num_experts"):
        return ()
    return tuple(name for name in (*FIRST, SECOND) if getattr(module, name, None) is not None)


def expert_sizes(module: Any, name: str) -> tuple[int, int, int]:
    """How many experts the weight `name` has, and each one's (in, out) features."""
    experts, rows, columns = getattr(module, name).shape
    return (experts, rows, columns) if module.is_transposed else (experts, columns, rows)


class LoraExperts(Adapted):
    """`base` (a module of experts in transformers' form, frozen) with low-rank updates of its matrices.

    `adapters[key]` is a `ModuleDict` of `LowRank` by the matrix's name.
    """

    def update(self, key: str, matrix: str) -> LowRank | None:
        """The update that the adapter `key` has for `matrix`, or None."""
        updates: Any = self.adapters[key] if self.has(key) else {}
        return next((update for name, update in updates.items() if name == matrix), None)

    def put(self, key: str, matrix: str, update: LowRank) -> None:
        """Let the adapter `key` have `update` for `matrix`."""
        if not self.has(key):
            self.adapters[key] = nn.ModuleDict()
        cast(nn.ModuleDict, self.adapters[key])[matrix] = update

    def forward(self, x: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """The experts' weighted sum.

        Args:
            x: `[tokens, in]`. top_k_index: `[tokens, k]` the experts of each token. top_k_weights: `[tokens, k]`.
        """
        mixes = self.rows if self.rows is not None else (((self.active, 1.0),) if self.active is not None else (),)
        if not any(self.has(key) for mix in mixes for key, _ in mix):
            plain: Tensor = self.base(x, top_k_index, top_k_weights)
            return plain
        if x.shape[0] % len(mixes):
            raise AdapterError(f"{x.shape[0]} tokens cannot be shared out among {len(mixes)} rows")
        owner = torch.arange(x.shape[0], device=x.device) // (x.shape[0] // len(mixes))  # [tokens], each one's row
        y = torch.zeros_like(x)
        for expert in torch.unique(top_k_index).tolist():
            if expert >= int(self.base.num_experts):  # type: ignore[arg-type]
                continue  # what a model marks tokens with that no expert serves
            token, rank = torch.where(top_k_index == expert)
            out = self._expert(x[token], expert, owner[token], mixes)
            y = y.index_add(0, token, (out * top_k_weights[token, rank, None]).to(y.dtype))
        return y

    def _expert(self, x: Tensor, expert: int, owner: Tensor, mixes: tuple[Mix, ...]) -> Tensor:
        base: Any = self.base
        first = next(name for name in FIRST if hasattr(base, name))
        inner = self._product(first, x, expert, owner, mixes)
        inner = base._apply_gate(inner) if base.has_gate else base.act_fn(inner)
        return self._product(SECOND, inner, expert, owner, mixes)

    def _product(self, matrix: str, x: Tensor, expert: int, owner: Tensor, mixes: tuple[Mix, ...]) -> Tensor:
        frozen = self._slice(matrix, expert)
        if len(mixes) == 1 and len(mixes[0]) == 1 and mixes[0][0][1] == 1:
            update = self.update(mixes[0][0][0], matrix)
            if update is None:
                return nn.functional.linear(x, frozen.weight, frozen.bias)
            return lora_linear(x, cast(nn.Module, frozen), update.a[expert], update.b[expert], update.scale)
        y = nn.functional.linear(x, frozen.weight, frozen.bias)
        for row, mix in enumerate(mixes):
            mine = (owner == row).nonzero()[:, 0]
            for key, strength in mix:
                update = self.update(key, matrix)
                if update is not None and len(mine):
                    a, b = update.a[expert].to(x.dtype), update.b[expert].to(x.dtype)
                    y = y.index_add(0, mine, strength * update.scale * ((x[mine] @ a.t()) @ b.t()))
        return y

    def _slice(self, matrix: str, expert: int) -> _Slice:
        base: Any = self.base
        weight = getattr(base, matrix)[expert].detach()
        bias = getattr(base, f"{matrix}_bias")[expert].detach() if base.has_bias else None
        return _Slice(weight.t() if base.is_transposed else weight, bias)

    def weight_change(self, update: LowRank) -> Tensor:
        """W_adapter − W₀ in the shape of the base's weight, fp32, detached."""
        delta = update.delta()
        return delta.transpose(1, 2) if self.base.is_transposed else delta
