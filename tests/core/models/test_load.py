from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from core.adapters.linear import LoraLinear
from core.config import QuantConfig
from core.errors import ModelError
from core.kernels import packed_attention
from core.models.load import head_weight, load_model
from core.models.quantize import QuantizedLinear
from tests.core.tiny import plain_logits, random_rows, tiny_llama

TOKENS = random_rows([12])[0].tokens


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model's folder, to be damaged."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_model_comes_frozen_in_evaluation_mode_and_in_the_dtype_asked_for(
    tiny_folder: Path, dtype: torch.dtype
) -> None:
    loaded = load_model(tiny_folder, dtype=dtype)
    assert not loaded.model.training and not any(p.requires_grad for p in loaded.model.parameters())
    assert {p.dtype for p in loaded.model.parameters()} == {dtype} == {loaded.dtype}
    assert loaded.parameters == sum(p.numel() for p in tiny_llama().parameters())


def test_without_a_dtype_the_one_on_disk_is_kept(folder: Path) -> None:
    tiny_llama().to(torch.bfloat16).save_pretrained(folder)
    assert load_model(folder, dtype=None).dtype == torch.bfloat16


def test_the_weights_are_those_on_disk(tiny_folder: Path) -> None:
    assert torch.equal(
        plain_logits(load_model(tiny_folder, dtype=torch.float32).model, TOKENS), plain_logits(tiny_llama(), TOKENS)
    )


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantized_model_counts_its_parameters_as_they_were(tiny_folder: Path, bits: int) -> None:
    quant = QuantConfig(bits=bits)  # type: ignore[arg-type]
    loaded = load_model(tiny_folder, dtype=torch.float32, quant=quant)
    assert loaded.parameters == sum(p.numel() for p in tiny_llama().parameters())
    assert isinstance(loaded.model.model.layers[0].mlp.up_proj, QuantizedLinear)
    assert loaded.dtype == torch.float32


@pytest.mark.parametrize("bits", [16, 32])
def test_16_and_32_bits_quantize_nothing(tiny_folder: Path, bits: int) -> None:
    loaded = load_model(tiny_folder, dtype=torch.float32, quant=QuantConfig(bits=bits))  # type: ignore[arg-type]
    assert not any(isinstance(module, QuantizedLinear) for module in loaded.model.modules())


def test_training_may_ask_for_packed_attention_and_chat_gets_what_the_model_supports(folder: Path) -> None:
    assert (
        load_model(folder, dtype=None, attention=packed_attention.NAME).model.config._attn_implementation
        == packed_attention.NAME
    )
    kinds: dict[str, dict[str, Any]] = {"llama": {}, "gemma2": {"head_dim": 16}}
    for kind, settings in kinds.items():
        config = CONFIG_MAPPING[kind](
            hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
            vocab_size=300, pad_token_id=0, **settings,
        )  # fmt: skip
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        plain_logits(load_model(folder, dtype=None).model, [5, 6, 7])


# ---- folders that are no model


def edit_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return edit


def edit_config(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps(config))

    return edit


def only_a_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


UP = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    "break_it",
    [
        lambda folder: (folder / "config.json").unlink(),
        lambda folder: (folder / "config.json").write_text("{"),
        lambda folder: (folder / "model.safetensors").write_bytes(b"not a model"),
        lambda folder: (folder / "model.safetensors").unlink(),
        only_a_pickle,
        edit_config(model_type="no_such_architecture"),
        edit_config(model_type="bert", architectures=["BertModel"], hidden_size=60),
        edit_config(intermediate_size=100),
        edit_config(auto_map={"AutoModelForCausalLM": "code.Evil"}, model_type="evil"),
        edit_weights(lambda weights: weights.pop(UP)),
        edit_weights(lambda weights: weights.update({UP: torch.ones(3, 3)})),
    ],
)
def test_a_folder_that_holds_no_whole_model_is_refused_in_one_sentence(
    folder: Path, break_it: Callable[[Path], object]
) -> None:
    break_it(folder)
    with pytest.raises(ModelError) as caught:
        load_model(folder, dtype=torch.float32)
    assert caught.value.title and caught.value.hint and "\n" not in str(caught.value)


def test_missing_weights_are_named_and_never_made_up(folder: Path) -> None:
    edit_weights(lambda weights: weights.pop(UP))(folder)
    with pytest.raises(ModelError, match=r"lacks 1 of its weights \(model\.layers\.1\.mlp\.up_proj\.weight\)"):
        load_model(folder, dtype=torch.float32)


def test_code_in_the_folder_is_never_run(folder: Path, tmp_path: Path) -> None:
    (folder / "code.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'executed')!r}).touch()\n")
    edit_config(auto_map={"AutoConfig": "code.Evil", "AutoModelForCausalLM": "code.Evil"}, model_type="evil")(folder)
    with pytest.raises(ModelError):
        load_model(folder, dtype=torch.float32)
    assert not (tmp_path / "executed").exists()


# ---- the output head

SMALL = {
    "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 300,
    "head_dim": 16, "intermediate_size": 96, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "changes", "is_plain"),
    [
        ("llama", {}, True),
        ("llama", {"tie_word_embeddings": True}, True),
        ("gpt_neox", {}, True),
        ("gemma2", {"final_logit_softcapping": None}, True),
        ("gemma2", {"final_logit_softcapping": 0.5}, False),
        ("cohere", {"logit_scale": 0.25}, False),
        ("granite", {"logits_scaling": 4.0}, False),
        ("nanochat", {}, False),
        ("phi", {}, False),  # a bias, zero before training: the weight may not be used though the logits agree
    ],
)
def test_the_heads_weight_is_given_only_where_logits_are_hidden_states_times_it(
    kind: str, changes: dict[str, Any], is_plain: bool
) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**SMALL, **changes)).eval().requires_grad_(False)
    weight = head_weight(model)
    assert (weight is not None) == is_plain
    if weight is not None:
        with torch.no_grad():
            tokens = torch.tensor([[5, 6, 7, 8]])
            hidden = model.base_model(input_ids=tokens).last_hidden_state
            assert torch.allclose(hidden @ weight.t(), model(input_ids=tokens).logits, atol=1e-5)
        assert not weight.requires_grad


def test_a_head_that_is_trained_is_not_plain() -> None:
    model = tiny_llama().requires_grad_(False)
    assert head_weight(model) is not None
    model.lm_head.weight.requires_grad_(True)
    assert head_weight(model) is None


def test_an_adapted_head_is_not_plain() -> None:
    model = tiny_llama().requires_grad_(False)
    assert head_weight(model) is not None
    model.lm_head = LoraLinear(model.lm_head)  # type: ignore[assignment]
    assert head_weight(model) is None
    model.lm_head = nn.Linear(64, 10, bias=True)
    assert head_weight(model) is None
