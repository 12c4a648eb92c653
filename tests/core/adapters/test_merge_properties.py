"""Whatever an adapter is like: merged says what unmerged says, rounding is told truly, and the base comes back."""

from __future__ import annotations

import copy

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

from core.adapters.inject import activate, inject, lora_layers
from core.adapters.layer import LoraLayer
from core.adapters.merge import merged
from core.config import LoraConfig

TOKENS = torch.arange(12)[None]

adapters = st.builds(
    LoraConfig,
    rank=st.integers(1, 8),
    alpha=st.floats(0.5, 32),
    targets=st.sampled_from([("c_attn",), ("mlp.c_proj", "c_fc"), ("auto",), ("wte", "c_attn"), ("c_attn:v",)]),
    use_rslora=st.booleans(),
    init=st.sampled_from(["kaiming", "gaussian"]),
    bias=st.sampled_from(["none", "lora_only", "all"]),
)


def base_model() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=40, n_positions=16, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(config).eval()


BASE = base_model()


@settings(max_examples=60, deadline=None)
@given(config=adapters, seed=st.integers(0, 2**16), dtype=st.sampled_from([torch.float32, torch.bfloat16]))
def test_merging_changes_nothing_but_rounding_and_is_undone_to_the_bit(
    config: LoraConfig, seed: int, dtype: torch.dtype
) -> None:
    model = copy.deepcopy(BASE).to(dtype)
    inject(model, config, key="a", seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    activate(model, "a")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    exact = {
        name: layer.base.weight.float() + layer.weight_change(layer.update("a"))  # type: ignore[operator, arg-type, union-attr]
        for name, layer in lora_layers(model).items()
        if isinstance(layer, LoraLayer) and "a" in layer.adapters
    }
    with torch.no_grad():
        unmerged = model(TOKENS).logits
        with merged(model, "a") as report:
            together = model(TOKENS).logits
            layers = lora_layers(model)
            errors = [float((layers[name].base.weight.float() - weight).abs().max()) for name, weight in exact.items()]  # type: ignore[operator, union-attr]
        assert torch.equal(model(TOKENS).logits, unmerged)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert report.largest_error >= max(errors)
    if dtype == torch.float32:
        assert torch.allclose(together, unmerged, rtol=1e-4, atol=1e-4 * float(unmerged.abs().max()))
        assert report.largest_error == 0
    else:
        assert report.largest_error <= 2**-8 * max(float(weight.abs().max()) for weight in exact.values()) + 1e-2
