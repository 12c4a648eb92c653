"""Experts in PEFT's format: three-dimensional weights, which its config calls `target_parameters`.

peft puts one wrapper around the module for each of its adapted weights, in the order in which the module has them, the
first innermost, and names tensors by the wrapper:

    P.lora_A.weight                     of the last adapted weight
    P.base_layer.lora_A.weight          of the one before it, and so on

All experts' factors lie in one A [experts · r, in], expert by expert, and one B [out, r · experts], rank by rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from core.adapters.begin import device_of
from core.adapters.experts import LoraExperts, expert_matrices, expert_sizes
from core.adapters.lowrank import LowRank
from core.adapters.peft_base import BaseView
from core.adapters.peft_settings import PeftSettings
from core.errors import AdapterError

WRAPPER = ".base_layer"


def written(name: str, layer: LoraExperts, key: str) -> Iterator[tuple[str, LowRank, Tensor, Tensor]]:
    """What the adapter `key` has at the experts called `name`: each weight's full name, its update, and A and B as peft
    lays them; the wrapper's name is the tensors' prefix (`wrapper`).
    """
    updates = [(matrix, layer.update(key, matrix)) for matrix in _in_order(layer.base)]
    for matrix, update in updates:
        if update is not None:
            a = update.a.detach().flatten(0, 1)
            b = update.b.detach().permute(1, 2, 0).flatten(1)
            yield f"{name}.{matrix}", update, a, b


def wrapper(module: str, position: int, count: int) -> str:
    """The name of the wrapper for the weight at `position` among the `count` that are adapted in `module`."""
    return module + WRAPPER * (count - 1 - position)


def read(
    settings: PeftSettings, pairs: Mapping[str, tuple[Tensor, Tensor]], base: BaseView
) -> Iterator[tuple[str, nn.ModuleDict]]:
    """The updates of every module of experts that `settings` names, as `LoraExperts` keeps them.

    Args:
        pairs: A and B by their wrapper's name.

    Raises:
        AdapterError: tensors are missing, surplus or misshapen, or the base has no such experts.
    """
    left = dict(pairs)
    for name, standing in base.modules.items():
        wanted = [matrix for matrix in _in_order(standing) if settings.is_parameter(f"{name}.{matrix}")]
        if not wanted:
            continue
        updates = nn.ModuleDict()
        for position, matrix in enumerate(wanted):
            found = left.pop(wrapper(name, position, len(wanted)), None)
            if found is None:
                raise _complaint(f"The adapter has no tensors for {name}.{matrix}, which its targets name", settings)
            updates[matrix] = _update(settings, standing, f"{name}.{matrix}", *found)
        yield name, updates
    for name in left:
        raise _complaint(f"The adapter is for another base model: this one has no experts {name}", settings)


def _update(settings: PeftSettings, module: nn.Module, name: str, a: Tensor, b: Tensor) -> LowRank:
    experts, in_features, out_features = expert_sizes(module, name.rpartition(".")[2])
    rank = settings.rank_of(name)
    if a.shape != (experts * rank, in_features) or b.shape != (out_features, rank * experts):
        sizes = f"{list(a.shape)} and {list(b.shape)} in it, for {experts} experts of {out_features}×{in_features} here"
        raise _complaint(f"The adapter is for another base model or rank: {name} is {sizes}", settings)
    device = device_of(module)
    split = a.view(experts, rank, in_features), b.view(out_features, rank, experts).permute(2, 0, 1)
    scaling: dict[str, Any] = {"alpha": settings.alpha_of(name), "use_rslora": settings.use_rslora}
    return LowRank(split[0].to(device, copy=True), split[1].to(device, copy=True), **scaling)


def _in_order(module: nn.Module) -> Sequence[str]:
    """The weights of a module of experts that can be adapted, in the order in which peft goes through them."""
    known = expert_matrices(module)
    return [name for name, _ in module.named_parameters(recurse=False) if name in known] if known else []


def _complaint(title: str, settings: PeftSettings) -> AdapterError:
    made_for = f"made for {settings.base_model or 'an unnamed model'}"
    return AdapterError(title, made_for, "Export it again, or choose the base it was trained on")
