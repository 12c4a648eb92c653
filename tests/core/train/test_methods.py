from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from core.config import RunConfig, parse
from core.data.tokens.encoding import encode
from core.data.tokens.splits import hold_out
from core.errors import ConfigError, RunError
from core.events import Event, Finished, Preparing, Saved, Started, StepDone
from core.models.load import LoadedModel, load_model
from core.train.loop import Loop, Subject
from core.train.methods import Full, Lora, method_of
from core.train.objective import PackedRows
from tests.core.tiny import LINEARS, bits, padded_loss, random_rows, rows_of_step, tiny_llama
from tests.core.train.running import RECORDS, Make, notes, of_kind, same_tensors

ROWS = [30, 12, 25, 9, 40, 17, 22, 14, 33]


def config(method: str = "full", bits: int = 32, **optim: Any) -> RunConfig:
    settings = {
        "learning_rate": 1e-3, "schedule": "constant", "warmup": 0.0, "steps": 3, "batch_size": 4, "micro_tokens": 64,
        "weight_decay": 0.1, "clip_norm": 1.0, "evaluations": 1,
    }  # fmt: skip
    return parse({
        "name": "methods",
        "method": method,
        "data": {"dataset_id": "none"},
        "lora": {"rank": 4, "alpha": 8, "targets": LINEARS},
        "quant": {"bits": bits},
        "optim": settings | optim,
    })  # fmt: skip


def loop_over(loaded: LoadedModel, config: RunConfig, folder: Path, computed: torch.dtype = torch.float32) -> Loop:
    """A loop as a run makes it, over random rows."""
    rows, objective = random_rows(ROWS), PackedRows(loaded)
    trainables = method_of(config).begin(loaded, objective, rows, computed)
    subject = Subject(loaded=loaded, trainables=trainables, objective=objective)
    return Loop(subject, config, rows, [], folder / "checkpoints", lambda: None)


# ---- full fine-tuning


def test_full_fine_tuning_is_plain_torch_training(tiny: LoadedModel, plain: LoadedModel, tmp_path: Path) -> None:
    loop = loop_over(tiny, config(), tmp_path)
    applied: list[dict[str, Tensor]] = []
    loop.optimizer.register_step_pre_hook(
        lambda *_: applied.append({n: p.grad.clone() for n, p in loop.parameters.items()})
    )
    reported = [event for event in loop.run() if isinstance(event, StepDone)]

    parameters = dict(plain.model.requires_grad_(True).named_parameters())
    assert parameters.keys() == loop.parameters.keys()
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-3, weight_decay=0.1)
    for step in range(3):
        loss = padded_loss(plain.model, rows_of_step(random_rows(ROWS), step, 4, 0))
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        assert reported[step].loss == pytest.approx(loss.item(), rel=1e-5)
        assert reported[step].grad_norm == pytest.approx(norm.item(), rel=1e-5)
        for name, parameter in parameters.items():
            assert parameter.grad is not None
            assert (applied[step][name] - parameter.grad).norm() <= 1e-4 * parameter.grad.norm() + 1e-7, name
        optimizer.step()
        optimizer.zero_grad()
    start = dict(tiny_llama().named_parameters())
    for name, parameter in parameters.items():
        moved = (parameter - start[name]).norm()
        assert moved > 0 and (loop.parameters[name] - parameter).norm() <= 1e-2 * moved, name


def test_a_full_run_leaves_a_model_folder_that_answers_as_evaluated(make: Make, pristine: LoadedModel) -> None:
    run = make(method="full", optim={"steps": 6, "evaluations": 2, "learning_rate": 1e-3})
    events = run.carry_out()
    (started,), (finished,) = of_kind(events, Started), of_kind(events, Finished)
    every = sum(p.numel() for p in tiny_llama().parameters())
    assert (started.method, started.trainable_parameters, started.base_parameters) == ("full", every, every)
    assert finished.last_loss < finished.first_loss
    assert finished.output_bytes == sum(path.stat().st_size for path in run.output.iterdir()) > 4 * every
    assert of_kind(events, Saved)[-1].bytes > 12 * every  # the weights and AdamW's two moments

    trained = load_model(run.output, dtype=torch.float32)
    held = hold_out(encode(trained.tokenizer, RECORDS, 512).rows, 0.2, run.config.seed).held
    with torch.no_grad():
        loss = sum(padded_loss(trained.model, [row]).item() * row.trained for row in held)
    assert finished.eval_loss == pytest.approx(loss / sum(row.trained for row in held), rel=1e-5)
    assert "packed_rows" not in (run.output / "config.json").read_text()
    assert not same_tensors(bits(trained.model), bits(pristine.model))


@pytest.mark.parametrize(("until_step", "answer"), [(3, "cancel"), (5, None)])
def test_a_full_run_that_was_stopped_goes_on_to_the_same_bits(make: Make, until_step: int, answer: str | None) -> None:
    settings: dict[str, Any] = {"method": "full", "optim": {"learning_rate": 1e-3, "weight_decay": 0.1}}
    straight, stopped = make("straight", **settings), make("stopped", **settings)
    straight.carry_out()
    stopped.carry_out(until_step=until_step, answer=answer)
    assert "Resumed after step" in notes(stopped.carry_out())
    assert same_tensors(straight.model, stopped.model)


def test_where_bf16_is_faster_masters_stay_fp32_and_the_products_are_bf16(tiny: LoadedModel, tmp_path: Path) -> None:
    loop = loop_over(tiny, config(bits=16), tmp_path, computed=torch.bfloat16)
    seen: set[torch.dtype] = set()
    tiny.model.model.layers[0].mlp.up_proj.register_forward_hook(lambda _m, _i, output: seen.add(output.dtype))
    list(loop.run())
    assert seen == {torch.bfloat16}
    assert {p.dtype for p in loop.parameters.values()} == {torch.float32}
    assert all(loop.optimizer.state[p]["exp_avg"].dtype == torch.float32 for p in loop.parameters.values())


def test_bf16_products_change_the_first_loss_by_rounding_only(tiny: LoadedModel, plain: LoadedModel) -> None:
    rows = random_rows(ROWS)
    with torch.no_grad():
        exact = padded_loss(plain.model, rows).item() * sum(row.trained for row in rows)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = PackedRows(tiny).outcome(rows).loss.item()
    assert rounded == pytest.approx(exact, rel=2e-2) and rounded != exact


@pytest.mark.parametrize("computed", [torch.bfloat16, torch.float32])
def test_the_base_is_stored_as_the_method_needs_it(computed: torch.dtype) -> None:
    assert Full(config(bits=16)).stored_in(computed) == torch.float32
    assert Lora(config("lora", bits=16)).stored_in(computed) == computed


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"method": "full", "quant": {"bits": 4}}, "quant.bits"),
        ({"method": "full", "quant": {"bits": 8}}, "quant.bits"),
        ({"method": "full", "optim": {"lora_plus_ratio": 16.0}}, "optim.lora_plus_ratio"),
    ],
)
def test_what_full_fine_tuning_cannot_do_is_refused_before_anything_is_fetched(
    make: Make, settings: dict[str, Any], field: str
) -> None:
    seen: list[Event] = []
    with pytest.raises(ConfigError) as caught:
        seen.extend(make(**settings).events())
    assert caught.value.field == field and caught.value.hint and not of_kind(seen, Preparing)


def test_full_fine_tuning_is_given_a_smaller_rate_than_an_adapter(tiny: LoadedModel, tmp_path: Path) -> None:
    objective = PackedRows(tiny)
    full = Full(config(learning_rate=None)).begin(tiny, objective, [], torch.float32)
    lora = Lora(config("lora", learning_rate=None)).begin(tiny, objective, [], torch.float32)
    assert 0 < full.suggested_rate < lora.suggested_rate


# ---- LoRA


def test_the_frozen_weights_are_the_same_bits_after_training_an_adapter(tiny: LoadedModel, tmp_path: Path) -> None:
    before = bits(tiny.model)
    list(loop_over(tiny, config("lora"), tmp_path).run())
    after = {
        name.replace(".base.", "."): tensor
        for name, tensor in tiny.model.state_dict().items()
        if ".adapters." not in name
    }
    assert same_tensors(before, after)


def peft_rates(ratio: float) -> tuple[float, float]:
    """The learning rates that peft's LoRA+ gives A and B."""
    model = get_peft_model(tiny_llama(), PeftLoraConfig(r=4, target_modules=list(LINEARS)))
    optimizer = create_loraplus_optimizer(model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=ratio)
    names = {parameter: name for name, parameter in model.named_parameters()}
    rates = {
        half: {group["lr"] for group in optimizer.param_groups for p in group["params"] if half in names[p]}
        for half in ("lora_A", "lora_B")
    }
    (a,), (b,) = rates["lora_A"], rates["lora_B"]
    return a, b


@pytest.mark.parametrize("ratio", [1.0, 4.0, 16.0])
def test_lora_plus_lets_b_learn_faster_as_peft_does(tiny: LoadedModel, tmp_path: Path, ratio: float) -> None:
    loop = loop_over(tiny, config("lora", lora_plus_ratio=ratio), tmp_path)
    used: dict[str, float] = {}
    names = {parameter: name for name, parameter in loop.parameters.items()}

    def note(optimizer: torch.optim.Optimizer, *_: object) -> None:
        used.update({names[p]: group["lr"] for group in optimizer.param_groups for p in group["params"]})

    loop.optimizer.register_step_pre_hook(note)
    (first, *_) = [event for event in loop.run() if isinstance(event, StepDone)]
    expected_a, expected_b = peft_rates(ratio)
    assert used.keys() == loop.parameters.keys() and len(used) == 2 * 7 * 2
    assert {rate for name, rate in used.items() if name.endswith(".a")} == {expected_a}
    assert {rate for name, rate in used.items() if name.endswith(".b")} == {expected_b}
    assert first.learning_rate == expected_a


def test_the_ratio_follows_the_schedule(tiny: LoadedModel, tmp_path: Path) -> None:
    settings = {"lora_plus_ratio": 8.0, "schedule": "linear", "warmup": 0.3}
    loop = loop_over(tiny, config("lora", **settings), tmp_path)
    used: list[list[float]] = []
    loop.optimizer.register_step_pre_hook(
        lambda optimizer, *_: used.append(sorted(group["lr"] for group in optimizer.param_groups))
    )
    reported = [event.learning_rate for event in loop.run() if isinstance(event, StepDone)]
    assert used == [[rate, 8 * rate] for rate in reported] and len(set(reported)) > 1


def test_a_run_with_lora_plus_goes_on_to_the_same_bits(make: Make) -> None:
    settings: dict[str, Any] = {"optim": {"lora_plus_ratio": 16.0, "learning_rate": 1e-3}}
    straight, stopped = make("straight", **settings), make("stopped", **settings)
    straight.carry_out()
    stopped.carry_out(until_step=3, answer="cancel")
    stopped.carry_out()
    assert same_tensors(straight.adapter, stopped.adapter)


def test_what_a_full_run_wrote_is_proved_before_it_counts(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that wrote other weights than it was given must not end in a finished run."""
    write = LlamaForCausalLM.save_pretrained

    def write_wrongly(model: Any, folder: Path, **options: Any) -> None:
        write(model, folder, **options)
        tensors = load_file(folder / "model.safetensors")
        tensors["model.norm.weight"][0] += 1
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    run = make(method="full", optim={"steps": 1})
    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", write_wrongly)
    with pytest.raises(RunError, match=r"not read back as it was written .model\.norm\.weight differs"):
        run.carry_out()
    assert not run.output.exists()
