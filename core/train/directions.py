"""In which directions a model's layers see a dataset: what the start EVA needs (arXiv 2410.07170)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from core.adapters.starts import InputDirections
from core.train.objective import Objective

ROWS = 64  # enough for the leading directions; more cost time and change little


def input_directions(
    model: nn.Module, ranks: Mapping[str, int], objective: Objective, rows: Sequence[Any]
) -> dict[str, Tensor]:
    """For each layer in `ranks` the leading directions `[rank, in]` of its inputs, over the first of `rows`.

    Rows go through the model one at a time, so that no padding is counted. Layers with one input (q, k and v) share
    what is collected.

    Raises:
        ModelError: the model's activations are not finite.
    """
    collected: dict[str, InputDirections] = {}
    with ExitStack() as hooks, torch.no_grad():
        latest = _Latest()
        for name in ranks:
            hook = model.get_submodule(name).register_forward_pre_hook(_collector(name, collected, latest))
            hooks.callback(hook.remove)
        for row in rows[:ROWS]:
            objective.outcome([row])
            latest.clear()
    leading = {}
    for name, rank in ranks.items():
        leading[name] = collected[name].leading(rank)[0]
    return leading


class _Latest:
    """The inputs of the pass under way and who collects them; holding them keeps their addresses from being reused."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[Tensor, InputDirections]] = {}

    def collector_of(self, x: Tensor) -> InputDirections | None:
        """Who took this very tensor in already."""
        found = self._seen.get(id(x))
        return found[1] if found is not None else None

    def took(self, x: Tensor, collector: InputDirections) -> None:
        """Remember that `collector` took in `x`."""
        self._seen[id(x)] = (x, collector)

    def clear(self) -> None:
        """Forget, after a pass."""
        self._seen.clear()


def _collector(
    name: str, collected: dict[str, InputDirections], latest: _Latest
) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def collect(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        x: Tensor = inputs[0]
        shared = latest.collector_of(x)
        if shared is not None and collected.get(name, shared) is shared:
            collected[name] = shared
            return
        mine = collected.setdefault(name, InputDirections(x.shape[-1], device=x.device))
        mine.add(x)
        latest.took(x, mine)

    return collect
