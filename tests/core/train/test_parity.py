"""Training here equals training with peft: the same A, B and rows give the same losses and the same adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

from core.adapters.inject import activate, lora_layers
from core.adapters.peft_format import save_adapter
from core.config import RunConfig, parse
from core.events import StepDone
from core.models.load import LoadedModel
from core.train.loop import Loop
from tests.core.tiny import LINEARS, adapt, padded_loss, random_rows, rows_of_step
from tests.core.train.running import adapter_subject

STEPS = 5


@pytest.fixture
def config() -> RunConfig:
    return parse({
        "name": "parity",
        "data": {"dataset_id": "none"},
        "lora": {"rank": 4, "alpha": 8, "targets": LINEARS},
        "optim": {
            "learning_rate": 1e-3, "schedule": "constant", "warmup": 0.0, "steps": STEPS, "batch_size": 4,
            "micro_tokens": 64, "weight_decay": 0.1, "clip_norm": 1.0, "evaluations": 1,
        },
    })  # fmt: skip


@pytest.fixture
def theirs(tiny: LoadedModel, plain: LoadedModel, config: RunConfig, tmp_path: Path) -> Any:
    """Gives `tiny` an adapter, and returns a peft model that starts from the same one."""
    adapt(tiny.model)
    tiny.model.requires_grad_(False)
    for layer in lora_layers(tiny.model).values():
        layer.adapters.requires_grad_(True)
    activate(tiny.model, "a")
    save_adapter(tiny.model, "a", tmp_path / "start", config.lora, "tiny")
    return peft.PeftModel.from_pretrained(plain.model, str(tmp_path / "start"), is_trainable=True).train()


def by_our_names(model: nn.Module) -> dict[str, nn.Parameter]:
    """peft's trainable parameters by the names that ours have."""
    renamed = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            path = name.removeprefix("base_model.model.").removesuffix(".default.weight")
            module, _, half = path.rpartition(".lora_")
            renamed[f"{module}.adapters.a.{half.lower()}"] = parameter
    return renamed


def test_losses_gradients_and_the_adapter_after_some_steps_are_those_of_peft(
    tiny: LoadedModel, theirs: Any, config: RunConfig, tmp_path: Path
) -> None:
    rows = random_rows([30, 12, 25, 9, 40, 17, 22, 14, 33])
    loop = Loop(adapter_subject(tiny), config, rows, [], tmp_path / "checkpoints", lambda: None)
    applied: list[dict[str, Tensor]] = []
    loop.optimizer.register_step_pre_hook(
        lambda *_: applied.append({n: p.grad.clone() for n, p in loop.parameters.items()})
    )
    reported = [event for event in loop.run() if isinstance(event, StepDone)]

    parameters = by_our_names(theirs)
    assert parameters.keys() == loop.parameters.keys()
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-3, weight_decay=0.1)
    for step in range(STEPS):
        loss = padded_loss(theirs, rows_of_step(rows, step, 4, config.seed))
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        assert reported[step].loss == pytest.approx(loss.item(), rel=1e-5)
        assert reported[step].grad_norm == pytest.approx(norm.item(), rel=1e-4)
        for name, parameter in parameters.items():
            assert parameter.grad is not None
            assert (applied[step][name] - parameter.grad).norm() <= (
                1e-5 if step == 0 else 1e-4
            ) * parameter.grad.norm()
        optimizer.step()
        optimizer.zero_grad()
    for name, parameter in parameters.items():
        assert (loop.parameters[name] - parameter).norm() <= 1e-5 * parameter.norm(), name
