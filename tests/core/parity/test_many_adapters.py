"""Fifty adapters over one base: what one more costs, and what a batch costs, counted and not timed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from core.adapters.inject import activate, inject, remove, routed
from core.adapters.peft_format import load_adapter, save_adapter
from core.config import LoraConfig
from tests.core.parity.architectures import batch, build
from tests.core.parity.cases import LINEARS

MANY = 50
CONFIG = LoraConfig(rank=3, targets=(*LINEARS["llama"], "embed_tokens"))
ROWS = 3


@dataclass(frozen=True)
class Cost:
    """What something took of torch: how many operations, and the bytes of all that they made."""

    operations: int
    bytes_made: int


class _Watch(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        made = found if isinstance(found, tuple | list) else (found,)
        self.sizes.append(sum(tensor.nbytes for tensor in made if isinstance(tensor, Tensor)))
        return found


def torch_cost(act: Callable[[], Any]) -> Cost:
    with _Watch() as watch:
        act()
    return Cost(len(watch.sizes), sum(watch.sizes))


def python_cost(act: Callable[[], Any]) -> int:
    """How many Python functions are called."""
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        act()
    finally:
        sys.setprofile(before)
    return calls


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """As many adapters on disk, all different."""
    model = build("llama")
    root = tmp_path_factory.mktemp("adapters")
    for number in range(MANY):
        inject(model, CONFIG, key="a", seed=number)
        save_adapter(model, "a", root / str(number), CONFIG, "a-base")
        remove(model, "a")
    return [root / str(number) for number in range(MANY)]


def test_loading_a_fiftieth_adapter_costs_what_the_second_did_and_the_first_cost_no_less(folders: list[Path]) -> None:
    model = build("llama")
    costs = [torch_cost(partial(load_adapter, model, folder)) for folder in folders]
    assert costs[-1] == costs[1] and costs[1].bytes_made <= costs[0].bytes_made
    model = build("llama")
    calls = [python_cost(partial(load_adapter, model, folder)) for folder in folders]
    assert calls[-1] < 1.02 * calls[1] and calls[1] <= calls[0]


def test_beginning_a_fiftieth_adapter_costs_what_the_first_did() -> None:
    """Of torch; each parameter that is there is looked at once, to freeze it."""
    model = build("llama")
    costs = [torch_cost(partial(inject, model, CONFIG, key=f"a{n}", seed=n)) for n in range(MANY)]
    assert costs[-1] == costs[0]


def test_what_a_batch_costs_depends_on_its_rows_alone(folders: list[Path]) -> None:
    tokens = batch("llama", 0)["input_ids"][:1].expand(ROWS, -1)
    model = build("llama")
    keys = [load_adapter(model, folder) for folder in folders[:2]]

    def answered() -> None:
        with torch.no_grad(), routed(model, [*keys, None], torch.float32):
            model(input_ids=tokens, use_cache=False)

    activate(model, None)
    of_two = torch_cost(answered), python_cost(answered)
    for folder in folders[2:]:
        load_adapter(model, folder)
    activate(model, None)
    of_fifty = torch_cost(answered), python_cost(answered)
    assert of_fifty[0] == of_two[0] and of_fifty[1] < 1.02 * of_two[1]
