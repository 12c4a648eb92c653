from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from core.adapters.inject import activate, inject, lora_layers
from core.adapters.peft_format import CONFIG_FILE, WEIGHTS_FILE, fingerprint, load_adapter, read_adapter, save_adapter
from core.config import LoraConfig
from core.errors import AdapterError
from core.models.load import LoadedModel, load_model
from tests.core.adapters.peft_pairs import gpt2, ours, saved_by_us, says, settings_in
from tests.core.adapters.peft_pairs import loaded_by_us as loaded_by_us_too
from tests.core.tiny import LINEARS, adapt, bits, plain_logits, random_rows

TOKENS = random_rows([25])[0].tokens
PREFIX = "base_model.model."


@pytest.fixture
def saved(plain: LoadedModel, tmp_path: Path) -> Path:
    """An adapter on q_proj and up_proj, saved by us."""
    model = copy.deepcopy(plain.model)
    config = adapt(model, targets=("q_proj", "up_proj"))
    save_adapter(model, "a", tmp_path / "adapter", config, "some/base")
    return tmp_path / "adapter"


def peft_model(base: nn.Module, rank: int = 5, alpha: float = 11, **settings: Any) -> Any:
    """An adapter that peft made over a copy of `base`, with a B that is not zero."""
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, task_type="CAUSAL_LM", **settings)  # type: ignore[arg-type]
    torch.manual_seed(4)
    model = peft.get_peft_model(copy.deepcopy(base), config)  # type: ignore[arg-type]
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    return model.eval()


def loaded_by_us(base: LoadedModel, folder: Path, tokens: list[int] = TOKENS) -> Tensor:
    activate(base.model, load_adapter(base.model, folder))
    return plain_logits(base.model, tokens)


# ---- what we write, peft reads; what peft writes, we read


@pytest.mark.parametrize(
    "targets", [LINEARS, ("q_proj",), ("layers.1.self_attn.v_proj",), ("o_proj", "model.layers.0.mlp.up_proj")]
)
@pytest.mark.parametrize("alpha", [8.0, 2.5])
def test_peft_loads_what_we_saved_and_says_the_same(
    plain: LoadedModel, tmp_path: Path, targets: tuple[str, ...], alpha: float
) -> None:
    base = copy.deepcopy(plain.model)
    config = adapt(plain.model, targets=targets, alpha=alpha)
    save_adapter(plain.model, "a", tmp_path / "ours", config, "some/base")
    activate(plain.model, "a")
    ours = plain_logits(plain.model, TOKENS)
    theirs = peft.PeftModel.from_pretrained(base, str(tmp_path / "ours")).eval()
    assert torch.allclose(plain_logits(theirs, TOKENS), ours, atol=1e-5)
    adapted = {
        name.removeprefix(PREFIX) for name, m in theirs.named_modules() if isinstance(m, peft.tuners.lora.LoraLayer)
    }
    assert adapted == set(lora_layers(plain.model))


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": list(LINEARS)},
        {"target_modules": "all-linear"},
        {"target_modules": ["v_proj"], "lora_dropout": 0.3},
        {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1]},
        {"target_modules": r".*\.(q|k)_proj"},
        {"target_modules": ["q_proj"], "exclude_modules": ["model.layers.0.self_attn.q_proj"]},
        {"target_modules": ["q_proj"], "init_lora_weights": "gaussian"},
    ],
)
def test_we_load_what_peft_saved_and_say_the_same(plain: LoadedModel, tmp_path: Path, settings: dict[str, Any]) -> None:
    theirs = peft_model(plain.model, **settings)
    theirs.save_pretrained(tmp_path / "theirs")
    expected = plain_logits(theirs, TOKENS)
    assert torch.allclose(loaded_by_us(plain, tmp_path / "theirs"), expected, atol=1e-5)


def test_a_bf16_adapter_of_peft_is_read_without_loss(plain: LoadedModel, tmp_path: Path) -> None:
    theirs = peft_model(plain.model, target_modules=["q_proj"])
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.bfloat16()
    theirs.save_pretrained(tmp_path / "theirs")
    files = read_adapter(tmp_path / "theirs")
    raw = load_file(tmp_path / "theirs" / WEIGHTS_FILE)
    assert {tensor.dtype for tensor in raw.values()} == {torch.bfloat16}
    for module, (a, b) in files.tensors.items():
        assert a.dtype == b.dtype == torch.float32
        assert torch.equal(a, raw[f"{PREFIX}{module}.lora_A.weight"].float())
        assert torch.equal(b, raw[f"{PREFIX}{module}.lora_B.weight"].float())


def test_the_starter_with_an_adapter_says_the_same_in_peft(starter_folder: Path, tmp_path: Path) -> None:
    loaded = load_model(starter_folder, dtype=torch.float32)
    config = adapt(loaded.model, rank=8, alpha=16)
    for name, parameter in loaded.model.named_parameters():
        if name.endswith(".adapters.a.b"):
            parameter.data.mul_(0.05)
    save_adapter(loaded.model, "a", tmp_path / "ours", config, "starter")
    tokens = loaded.tokenizer("The captain of the ship writes a letter home.")["input_ids"]
    base = plain_logits(loaded.model, tokens)
    activate(loaded.model, "a")
    ours = plain_logits(loaded.model, tokens)
    del loaded
    reference = AutoModelForCausalLM.from_pretrained(starter_folder, dtype=torch.float32)
    theirs = plain_logits(peft.PeftModel.from_pretrained(reference, str(tmp_path / "ours")).eval(), tokens)
    assert (ours - base).abs().max() > 0.1
    assert (ours - theirs).abs().max() < 1e-4


def test_saving_and_loading_gives_the_same_bits(plain: LoadedModel, tmp_path: Path) -> None:
    base = copy.deepcopy(plain.model)
    config = adapt(plain.model)
    save_adapter(plain.model, "a", tmp_path / "ours", config, "some/base")
    key = load_adapter(base, tmp_path / "ours")
    for name, layer in lora_layers(plain.model).items():
        saved, loaded = layer.update("a"), lora_layers(base)[name].update(key)
        assert saved is not None and loaded is not None
        assert torch.equal(saved.a, loaded.a) and torch.equal(saved.b, loaded.b) and saved.scale == loaded.scale
        assert not loaded.a.requires_grad and not loaded.b.requires_grad


def test_only_the_named_adapter_is_saved(plain: LoadedModel, tmp_path: Path) -> None:
    adapt(plain.model, key="other", targets=("v_proj",))
    config = adapt(plain.model, key="a", targets=("q_proj",))
    save_adapter(plain.model, "a", tmp_path / "ours", config, "some/base")
    assert all("q_proj" in module for module in read_adapter(tmp_path / "ours").tensors)
    with pytest.raises(AdapterError, match="No adapter nobody"):
        save_adapter(plain.model, "nobody", tmp_path / "none", config, "some/base")
    assert not (tmp_path / "none").exists()


def test_loading_again_changes_nothing_and_gives_the_same_key(plain: LoadedModel, saved: Path) -> None:
    key = load_adapter(plain.model, saved)
    before = bits(plain.model)
    assert load_adapter(plain.model, saved) == key
    after = plain.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_the_same_weights_with_another_alpha_are_another_adapter(
    plain: LoadedModel, saved: Path, tmp_path: Path
) -> None:
    twin = tmp_path / "twin"
    twin.mkdir()
    (twin / WEIGHTS_FILE).write_bytes((saved / WEIGHTS_FILE).read_bytes())
    settings = json.loads((saved / CONFIG_FILE).read_text())
    (twin / CONFIG_FILE).write_text(json.dumps(settings | {"lora_alpha": 40.5}))
    first, second = load_adapter(plain.model, saved), load_adapter(plain.model, twin)
    assert fingerprint(saved) == fingerprint(twin) and first != second
    activate(plain.model, first)
    one = plain_logits(plain.model, TOKENS)
    activate(plain.model, second)
    assert not torch.equal(plain_logits(plain.model, TOKENS), one)


def test_only_the_settings_that_we_implement_are_written(saved: Path) -> None:
    """peft knows every key, and takes from none of them anything but a plain LoRA."""
    settings = json.loads((saved / CONFIG_FILE).read_text())
    theirs = peft.LoraConfig.from_pretrained(str(saved))
    assert all(hasattr(theirs, name) for name in settings)
    assert theirs.inference_mode and theirs.r == 4 and theirs.lora_alpha == 8
    assert theirs.target_modules == {"q_proj", "up_proj"}
    assert set(load_file(saved / WEIGHTS_FILE)) == {
        f"{PREFIX}model.layers.{layer}.{part}.lora_{half}.weight"
        for layer in (0, 1)
        for part in ("self_attn.q_proj", "mlp.up_proj")
        for half in "AB"
    }


@pytest.mark.parametrize("key", ["lora", "default", "weight", "lora_A", "base_layer", "q_proj"])
def test_what_an_adapter_is_called_in_memory_leaves_no_trace_in_its_file(
    plain: LoadedModel, saved: Path, tmp_path: Path, key: str
) -> None:
    config = adapt(plain.model, key=key, targets=("q_proj", "up_proj"))
    save_adapter(plain.model, key, tmp_path / "other", config, "some/base")
    one, other = load_file(saved / WEIGHTS_FILE), load_file(tmp_path / "other" / WEIGHTS_FILE)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Misleading(nn.Module):
    """A base whose modules are called what peft calls an adapter's parts."""

    def __init__(self) -> None:
        super().__init__()
        self.lora_A, self.lora = (
            nn.Linear(6, 8),
            nn.ModuleDict({"default": nn.Linear(8, 6), "base_layer": nn.Linear(6, 6)}),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.lora["base_layer"](self.lora["default"](self.lora_A(x)))
        return out


def test_modules_that_are_called_like_parts_of_an_adapter_are_told_from_them(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = Misleading()
    model, x = copy.deepcopy(base), torch.randn(3, 6)
    config = adapt(model, rank=2, targets=("lora_A", "lora.default", "lora.base_layer"))
    save_adapter(model, "a", tmp_path / "ours", config, "some/base")
    activate(model, "a")
    twin = copy.deepcopy(base)
    activate(twin, load_adapter(twin, tmp_path / "ours"))
    assert torch.equal(twin(x), model(x)) and not torch.allclose(base(x), model(x), atol=0.01)


def test_keys_of_a_compiled_model_are_those_of_the_model(plain: LoadedModel, saved: Path) -> None:
    expected = loaded_by_us(replace(plain, model=copy.deepcopy(plain.model)), saved)
    tensors = {
        key.replace(PREFIX, f"{PREFIX}_orig_mod.", 1): tensor for key, tensor in load_file(saved / WEIGHTS_FILE).items()
    }
    save_file(tensors, saved / WEIGHTS_FILE, metadata={"format": "pt"})
    assert torch.equal(loaded_by_us(plain, saved), expected)


def test_ranks_and_alphas_are_written_by_last_part_where_that_says_enough(plain: LoadedModel, tmp_path: Path) -> None:
    settings = {"rank_pattern": {"v_proj": 2, "layers.1.mlp.up_proj": 5}, "alpha_pattern": {"v_proj": 3.0}}
    config = LoraConfig(rank=4, alpha=8, targets=("q_proj", "v_proj", "up_proj"), **settings)  # type: ignore[arg-type]
    inject(plain.model, config, key="a", seed=0)
    save_adapter(plain.model, "a", tmp_path, config, "some/base")
    written = json.loads((tmp_path / CONFIG_FILE).read_text())
    assert (written["r"], written["lora_alpha"]) == (4, 8)
    assert written["rank_pattern"] == {"v_proj": 2, r"^model\.layers\.1\.mlp\.up_proj": 5}
    assert written["alpha_pattern"] == {"v_proj": 3}


def test_the_scale_of_an_anchored_start_stays_at_twice_the_rank(plain: LoadedModel, tmp_path: Path) -> None:
    config = LoraConfig(rank=3, alpha=7, targets=("q_proj",), init="pissa")
    inject(plain.model, config, key="a", seed=0)
    save_adapter(plain.model, "a", tmp_path, config, "some/base")
    written = json.loads((tmp_path / CONFIG_FILE).read_text())
    assert (written["r"], written["lora_alpha"]) == (6, 14) and written["init_lora_weights"] is True


def test_trained_biases_alone_are_a_form_of_our_own_and_come_back(tmp_path: Path) -> None:
    base = gpt2()
    model = copy.deepcopy(base)
    config = ours(model, {}, bias_only=True)
    folder = saved_by_us(model, config, tmp_path / "ours")
    assert settings_in(folder)["peft_type"] == "BITFIT"
    tensors = load_file(folder / WEIGHTS_FILE)
    biases = {f"{PREFIX}{name}" for name, _ in base.named_parameters() if name.endswith(".bias")}
    assert tensors.keys() == biases
    assert torch.equal(says(loaded_by_us_too(base, folder)), says(model))
    assert not torch.allclose(says(base), says(model), atol=0.01)
