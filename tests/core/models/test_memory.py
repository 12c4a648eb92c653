"""What training takes by the formula, beside what a real model's tensors and a real backward pass keep."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from core.adapters.inject import activate, inject
from core.config import RunConfig, parse
from core.kernels import cross_entropy, packed_attention, row_blocks
from core.models import memory
from core.models.footprint import footprint
from core.models.load import load_model
from core.models.memory import AtOnce, MemoryEstimate, ModelShape, Trained, at_once, estimate_memory
from core.train.checkpointing import checkpoint_blocks
from core.train.trial import choose_layout
from tests.core.tiny import random_rows

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# tests.core.tiny's model
MATRICES = {
    f"model.layers.{block}.{name}": sizes
    for block in range(2)
    for name, sizes in {
        "self_attn.q_proj": (64, 64), "self_attn.k_proj": (32, 64), "self_attn.v_proj": (32, 64),
        "self_attn.o_proj": (64, 64), "mlp.gate_proj": (128, 64), "mlp.up_proj": (128, 64), "mlp.down_proj": (64, 128),
    }.items()
}  # fmt: skip
SHAPE = ModelShape(
    width=64, inner=128, heads=4, query=64, key=32, blocks=2, vocabulary=49152,
    parameters=49152 * 64 + sum(out * inside for out, inside in MATRICES.values()) + 5 * 64,
    matrices=MATRICES, stored_bytes=4 * (49152 * 64 + sum(out * inside for out, inside in MATRICES.values()) + 5 * 64),
)  # fmt: skip


def config_of(**parts: Any) -> RunConfig:
    values = {"name": "memory", "data": {"dataset_id": "none"}, "lora": {"rank": 4, "targets": TARGETS}}
    return parse({**values, "quant": {"bits": 32}, **parts})


def trained_with(rank: int) -> Trained:
    sides = [(inside, out) for out, inside in MATRICES.values()]
    return Trained(
        parameters=rank * sum(inside + out for inside, out in sides),
        thin=rank * len(sides),
        inside=sum(inside for inside, _ in sides),
        outside=sum(out for _, out in sides),
    )


def estimate(config: RunConfig, tokens: int = 512, longest: int = 256, **changes: Any) -> MemoryEstimate:
    shape, trained = replace(SHAPE, **changes), trained_with(config.lora.rank)
    return estimate_memory(config, shape, trained, AtOnce(tokens=tokens, longest=longest), computes_in_bf16=True)


def kept_by(folder: Path, lengths: list[int], *, is_checkpointing: bool) -> int:
    """Bytes of all tensors that a backward pass through the tiny model needs, parameters aside."""
    loaded = load_model(folder, dtype=torch.float32)
    objective, _ = choose_layout(loaded)
    inject(loaded.model, config_of().lora, key="a", seed=0)
    activate(loaded.model, "a")
    if is_checkpointing:
        checkpoint_blocks(loaded.model)
    weights = {parameter.untyped_storage().data_ptr() for parameter in loaded.model.parameters()}
    found: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outcome = objective.outcome(random_rows(lengths, labeled=0.1))
    assert outcome.loss.requires_grad
    return sum(found.values())


@pytest.mark.parametrize("lengths", [[256, 256], [64] * 6, [300]])
def test_what_the_backward_pass_keeps_is_what_the_formula_counts(tiny_folder: Path, lengths: list[int]) -> None:
    kept = kept_by(tiny_folder, lengths, is_checkpointing=False)
    batch = AtOnce(tokens=sum(lengths), longest=max(lengths))
    counted = memory.kept_bytes(config_of(), SHAPE, trained_with(4), batch, memory.FP32)
    assert counted == pytest.approx(kept, rel=0.05)


def test_with_checkpointing_a_block_keeps_its_input_alone(tiny_folder: Path) -> None:
    kept = kept_by(tiny_folder, [256, 256], is_checkpointing=True)
    inputs = memory.FP32 * SHAPE.width * 512 * SHAPE.blocks
    assert inputs <= kept <= 2 * inputs  # and what goes into the last norm and the head


@pytest.mark.parametrize("bits", [32, 8, 4])
def test_weights_take_what_a_loaded_model_takes(tiny_folder: Path, bits: int) -> None:
    config = config_of(quant={"bits": bits})
    quant = config.quant if bits != 32 else None
    loaded = load_model(tiny_folder, dtype=torch.float32, quant=quant)
    found = footprint(loaded.model)
    counted = estimate_memory(config, SHAPE, trained_with(4), AtOnce(tokens=64, longest=64), computes_in_bf16=False)
    assert counted.weights == pytest.approx(found.quantized_bytes + found.other_bytes, rel=0.001)


def test_the_constants_are_those_of_the_kernels() -> None:
    assert memory.CHUNK_ROWS == cross_entropy.CHUNK_ROWS
    assert memory.LOSS_BUFFER_BYTES == cross_entropy._WIDE_BYTES
    assert (memory.BLOCK, memory.KEPT_KEYS) == (row_blocks.BLOCK, packed_attention.KEPT_KEYS)


def test_parts_add_up_and_what_is_trained_takes_sixteen_bytes_a_number() -> None:
    found = estimate(config_of())
    assert sum(found.parts.values()) == found.training <= found.total
    assert found.on_device == found.training - found.process
    assert found.adapter + found.gradients + found.optimizer == 16 * trained_with(4).parameters


@pytest.mark.parametrize(
    ("part", "less", "more"),
    [
        ("activations", {"optim": {"checkpointing": True}}, {}),
        ("weights", {"quant": {"bits": 4}}, {"quant": {"bits": 8}}),
        ("weights", {"quant": {"bits": 8}}, {"quant": {"bits": 16}}),
        ("weights", {"quant": {"bits": 16}}, {"quant": {"bits": 32}}),
        ("optimizer", {"lora": {"rank": 4, "targets": TARGETS}}, {"lora": {"rank": 8, "targets": TARGETS}}),
        ("activations", {}, {"lora": {"rank": 4, "targets": TARGETS, "use_dora": True}}),
        ("activations", {}, {"lora": {"rank": 4, "targets": TARGETS, "dropout": 0.1}}),
        ("activations", {}, {"method": "full"}),
    ],
)
def test_what_saves_memory_makes_its_part_smaller(part: str, less: dict[str, Any], more: dict[str, Any]) -> None:
    one, other = (estimate(config_of(**{"quant": {"bits": 32}, **parts})) for parts in (less, more))
    assert getattr(one, part) < getattr(other, part)


def test_a_trained_head_forms_all_logits_and_a_frozen_one_a_chunk() -> None:
    batch, config = AtOnce(tokens=2048, longest=512), config_of()
    frozen, trained = (
        estimate_memory(config, SHAPE, replace(trained_with(4), is_head_plain=is_plain), batch, computes_in_bf16=True)
        for is_plain in (True, False)
    )
    assert trained.logits >= 2048 * SHAPE.vocabulary * 4 > 3 * frozen.logits


def test_blocks_below_the_lowest_adapted_one_keep_nothing() -> None:
    batch, config = AtOnce(tokens=512, longest=256), config_of()
    whole, upper = (
        memory.kept_bytes(config, SHAPE, replace(trained_with(4), thin=0, first_block=block), batch, memory.FP32)
        for block in (0, 1)
    )
    last_norm = memory.FP32 * SHAPE.width * batch.tokens
    assert whole - upper == upper - last_norm > 0


@pytest.mark.parametrize(
    ("optim", "limit", "longest", "tokens"),
    [
        ({"batch_size": 8, "micro_tokens": 2048}, 1024, 300, 2048),
        ({"batch_size": 2, "micro_tokens": 2048}, 1024, 300, 600),
        ({"batch_size": 8, "micro_tokens": 256}, 1024, 300, 300),
        ({"batch_size": 8, "micro_tokens": 2048}, 128, 300, 1024),
    ],
)
def test_as_many_tokens_go_through_at_once_as_the_batch_and_the_bound_allow(
    optim: dict[str, Any], limit: int, longest: int, tokens: int
) -> None:
    config = config_of(optim=optim, data={"dataset_id": "none", "max_tokens": limit})
    assert at_once(config, longest) == AtOnce(tokens=tokens, longest=min(longest, limit))


def test_a_file_that_is_converted_while_it_is_loaded_counts_twice() -> None:
    config = config_of(quant={"bits": 16})
    as_it_is = estimate(config, stored_bytes=2 * SHAPE.parameters)
    converted = estimate(config, stored_bytes=4 * SHAPE.parameters)
    assert converted.loading - as_it_is.loading == 4 * SHAPE.parameters
    assert converted.training == as_it_is.training
