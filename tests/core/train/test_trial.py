from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from core.config import QuantConfig
from core.errors import ModelError
from core.kernels import packed_attention
from core.models.linears import find_linears
from core.models.load import LoadedModel
from core.models.quantize import quantize_linears
from core.train.trial import refuse_inexact
from tests.core.tiny import tiny_llama

WIDTH = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 300}


def loaded_with(model: Any) -> LoadedModel:
    model.set_attn_implementation(packed_attention.NAME)
    return LoadedModel(model=model, tokenizer=None, dtype=model.dtype, device=torch.device("cpu"), parameters=0)


def random_model(kind: str, **settings: Any) -> LoadedModel:
    packed_attention.register()
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](**WIDTH, **settings)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=packed_attention.NAME).eval()
    for parameter in model.parameters():
        parameter.data.mul_(3)  # attention that looks at nothing in particular would hide a leak
    return LoadedModel(model=model, tokenizer=None, dtype=model.dtype, device=torch.device("cpu"), parameters=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", [16, 8, 4])
def test_a_llama_passes_in_every_precision(dtype: torch.dtype, bits: int) -> None:
    packed_attention.register()
    loaded = loaded_with(tiny_llama().to(dtype))
    if bits < 16:
        names = [shape.name for shape in find_linears(loaded.model)]
        quantize_linears(loaded.model, names, QuantConfig(bits=bits))  # type: ignore[arg-type]
    refuse_inexact(loaded)
    assert loaded.model.config._attn_implementation == packed_attention.NAME


def test_learned_positions_begin_anew_in_each_row() -> None:
    """Rotary positions are relative and would not notice if they ran on; OPT's are looked up in a table."""
    refuse_inexact(random_model("opt", ffn_dim=96, word_embed_proj_dim=64, max_position_embeddings=64))


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("bloom", {}),  # a bias on positions, computed from a mask
        ("mamba", {}),  # a convolution and a recurrence
        ("gemma2", {"num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 96}),  # capped scores
        (
            "gpt_oss",
            {"num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 96, "num_local_experts": 4},
        ),  # sinks
    ],
)
def test_a_model_whose_rows_would_not_stay_apart_is_refused(kind: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=f"of the kind {kind} cannot be trained here yet"):
        refuse_inexact(random_model(kind, **settings))


def test_weights_that_are_not_finite_are_refused() -> None:
    packed_attention.register()
    model = tiny_llama()
    model.model.layers[1].mlp.up_proj.weight.data[3, 5] = torch.nan
    with pytest.raises(ModelError, match="nan%"):
        refuse_inexact(loaded_with(model))
