"""The directions that a layer's inputs vary in, collected through the model, are those of the stacked inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from core.models.load import LoadedModel
from core.train.directions import input_directions
from core.train.objective import PackedRows
from tests.core.tiny import random_rows

RANKS = {
    "model.layers.0.self_attn.q_proj": 4,
    "model.layers.0.self_attn.k_proj": 3,
    "model.layers.1.mlp.down_proj": 5,
}


def stacked_inputs(loaded: LoadedModel, lengths: list[int]) -> dict[str, Tensor]:
    """Every layer's inputs `[tokens, in]`, by a hook that keeps all."""
    seen: dict[str, list[Tensor]] = {name: [] for name in RANKS}
    hooks = [
        loaded.model.get_submodule(name).register_forward_pre_hook(
            lambda module, inputs, name=name: seen[name].append(inputs[0].flatten(0, 1))
        )
        for name in RANKS
    ]
    objective = PackedRows(loaded)
    with torch.no_grad():
        for row in random_rows(lengths):
            objective.outcome([row])
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(parts) for name, parts in seen.items()}


def test_they_are_the_leading_right_singular_vectors_of_all_inputs(tiny: LoadedModel) -> None:
    lengths = [9, 17, 5]
    found = input_directions(tiny.model, RANKS, PackedRows(tiny), random_rows(lengths))
    for name, inputs in stacked_inputs(tiny, lengths).items():
        wanted = torch.linalg.svd(inputs.double(), full_matrices=False).Vh[: RANKS[name]]
        overlap = found[name].double() @ wanted.t()
        assert torch.allclose(overlap.abs(), torch.eye(RANKS[name], dtype=torch.float64), atol=1e-3)


def test_layers_with_one_input_share_their_directions_and_no_hook_is_left(tiny: LoadedModel) -> None:
    found = input_directions(tiny.model, RANKS, PackedRows(tiny), random_rows([9, 17]))
    q, k = (found[f"model.layers.0.self_attn.{part}_proj"] for part in "qk")
    assert torch.equal(q[:3], k)
    assert not any(module._forward_pre_hooks for module in tiny.model.modules())
