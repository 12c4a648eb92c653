"""Runs with each of the adapter's own settings: what is trained, what is written, and that it answers as evaluated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from core.adapters.inject import activate, lora_layers
from core.adapters.linear import LoraLinear
from core.adapters.merge import export_merged
from core.adapters.peft_format import load_adapter
from core.config import QuantConfig
from core.data.tokens.encoding import encode
from core.data.tokens.splits import hold_out
from core.errors import ConfigError
from core.events import EvalDone, Finished, Started
from core.kernels import packed_attention
from core.models.load import LoadedModel, load_model
from core.models.vocabulary import grow
from core.train.methods import ADAPTER_KEY, Lora
from core.train.objective import PackedRows, PaddedRows
from tests.core.tiny import VOCABULARY, conversation
from tests.core.train.running import RECORDS, Run, of_kind

Make = Callable[..., Run]


@pytest.fixture
def make(tiny_folder: Path, tmp_path: Path) -> Make:
    return lambda **settings: Run(tiny_folder, tmp_path / "run", **settings)


def evaluated(loaded: LoadedModel, run: Run, tokenizer: Any) -> float:
    """The held-out rows' mean loss in nats a trained token, by rows padded in transformers' own attention."""
    rows = encode(tokenizer, run.records, run.config.data.max_tokens).rows
    held = hold_out(rows, run.config.data.holdout, run.config.seed).held
    with torch.no_grad():
        total = PaddedRows(loaded).outcome(held).loss
    return float(total) / sum(row.trained for row in held)


@pytest.mark.parametrize(
    "lora",
    [
        {"use_dora": True},
        {"use_rslora": True},
        {"freeze_a": True},
        {"init": "orthogonal"},
        {"init": "pissa"},
        {"init": "olora"},
        {"init": "eva"},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.mlp.up_proj": 3}},
        {"layers": [1]},
        {"targets": ["embed_tokens", "q_proj"]},
        {"modules_to_save": ["norm"]},
    ],
    ids=lambda lora: "-".join(f"{name}={value}" for name, value in lora.items())[:40],
)
def test_a_run_learns_and_its_adapter_answers_as_it_was_evaluated(make: Make, plain: LoadedModel, lora: Any) -> None:
    run = make(lora=lora)
    seen = run.carry_out()
    evals = [event.loss for event in of_kind(seen, EvalDone)]
    assert evals[0] == pytest.approx(evaluated(plain, run, plain.tokenizer), rel=1e-4)  # it began as the base
    (finished,) = of_kind(seen, Finished)
    assert finished.last_loss < finished.first_loss  # type: ignore[operator]
    activate(plain.model, load_adapter(plain.model, run.output))
    assert evaluated(plain, run, plain.tokenizer) == pytest.approx(evals[-1], rel=1e-4)
    assert evals[-1] != pytest.approx(evals[0], rel=1e-3)


def test_loftq_begins_nearer_to_the_base_than_the_quantized_base_is(
    make: Make, plain: LoadedModel, tiny_folder: Path
) -> None:
    quant = QuantConfig(bits=4)
    loaded = load_model(tiny_folder, dtype=torch.float32, quant=quant, attention=packed_attention.NAME)
    method = Lora(make(lora={"init": "loftq"}, quant={"bits": 4}).config)
    method.begin(loaded, PackedRows(loaded), [], torch.float32)
    for name, layer in lora_layers(loaded.model).items():
        assert isinstance(layer, LoraLinear)
        update = layer.update(ADAPTER_KEY)
        assert update is not None
        lost = plain.model.get_submodule(name).weight - layer.matrix()
        assert (lost - update.delta()).norm() < 0.95 * lost.norm()


def test_new_tokens_are_learned_written_and_merged(make: Make, tiny_folder: Path, tmp_path: Path) -> None:
    records = [*RECORDS, conversation("<ahoy>?", "<ahoy> it is.", row=99)]
    run = make(records=records, lora={"new_tokens": ["<ahoy>"]})
    seen = run.carry_out()
    settings = json.loads((run.output / "adapter_config.json").read_text())
    assert settings["trainable_token_indices"] == {"model.embed_tokens": [VOCABULARY]}
    tokenizer = AutoTokenizer.from_pretrained(run.output)
    assert tokenizer("<ahoy>", add_special_tokens=False)["input_ids"] == [VOCABULARY]
    loaded = load_model(tiny_folder, dtype=torch.float32)
    grow(loaded.model, VOCABULARY + 1)
    activate(loaded.model, load_adapter(loaded.model, run.output))
    last = of_kind(seen, EvalDone)[-1].loss
    assert evaluated(loaded, run, tokenizer) == pytest.approx(last, rel=1e-4)
    export_merged(run.output, tiny_folder, tmp_path / "whole")
    whole = load_model(tmp_path / "whole", dtype=torch.float32)
    assert len(whole.tokenizer) == VOCABULARY + 1
    assert evaluated(whole, run, whole.tokenizer) == pytest.approx(last, rel=1e-4)


def test_bitfit_trains_every_bias_and_nothing_else(tmp_path: Path, plain: LoadedModel) -> None:
    torch.manual_seed(0)
    config = GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=VOCABULARY, n_positions=128)
    model = GPT2LMHeadModel(config)
    model.save_pretrained(tmp_path / "gpt2")
    plain.tokenizer.save_pretrained(tmp_path / "gpt2")
    run = Run(tmp_path / "gpt2", tmp_path / "run", method="bitfit")
    seen = run.carry_out()
    biases = {name: tensor for name, tensor in model.named_parameters() if name.endswith("bias")}
    (started,) = of_kind(seen, Started)
    assert started.trainable_parameters == sum(tensor.numel() for tensor in biases.values())
    assert len(run.adapter) == len(biases)
    loaded = load_model(tmp_path / "gpt2", dtype=torch.float32)
    activate(loaded.model, load_adapter(loaded.model, run.output))
    last = of_kind(seen, EvalDone)[-1].loss
    assert evaluated(loaded, run, plain.tokenizer) == pytest.approx(last, rel=1e-4)
    export_merged(run.output, tmp_path / "gpt2", tmp_path / "whole")
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    changed = {name for name, tensor in whole.named_parameters() if not torch.equal(tensor, model.get_parameter(name))}
    assert changed <= set(biases) and len(changed) > len(biases) / 2


def test_a_model_without_biases_is_refused_by_bitfit(make: Make) -> None:
    with pytest.raises(ConfigError, match="no biases to train"):
        make(method="bitfit").carry_out()
