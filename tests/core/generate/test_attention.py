from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from core.generate.attention import NAME, grouped_attention, use_grouped_attention
from tests.core.parity.architectures import VOCABULARY, build


class Grouped(nn.Module):
    """What the attention wants to know of the module that it attends for."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.num_key_value_groups = groups
        self.is_causal = True


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("is_masked", [False, True])
def test_it_attends_as_sdpa_does(groups: int, tokens: int, is_masked: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 2 * groups, tokens, 8, generator=generator)
    columns = tokens if tokens > 1 and not is_masked else 9
    key, value = torch.randn(2, 2, 2, columns, 8, generator=generator)
    seen = torch.rand(2, 1, tokens, columns, generator=generator) < 0.7
    mask = seen.index_fill(3, torch.tensor([0]), True) if is_masked else None
    found, _ = grouped_attention(Grouped(groups), query, key, value, mask)
    repeated = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    expected, _ = sdpa_attention_forward(Grouped(1), query, *repeated, mask)
    assert found.shape == (2, tokens, 2 * groups, 8)
    assert torch.allclose(found, expected, atol=1e-6)


@torch.inference_mode()
def logits(model: nn.Module) -> Tensor:
    """Of a prompt and the two tokens behind it."""
    tokens = torch.randint(3, VOCABULARY, (3, 8), generator=torch.Generator().manual_seed(0))
    cache = DynamicCache(config=model.config)
    seen = [
        model(input_ids=part, past_key_values=cache, use_cache=True).logits for part in tokens.split([6, 1, 1], dim=1)
    ]
    return torch.cat(seen, dim=1)


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3_text", "phi3", "mixtral", "gpt2", "opt"])
def test_a_model_answers_with_it_as_before(architecture: str) -> None:
    model = build(architecture)
    expected = logits(copy.deepcopy(model))
    use_grouped_attention(model)
    assert model.config._attn_implementation == NAME
    assert torch.allclose(logits(model), expected, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("architecture", ["falcon", "gpt_oss"])
def test_a_model_that_attends_in_its_own_way_is_left_alone(architecture: str) -> None:
    model = build(architecture)
    before = model.config._attn_implementation
    expected = logits(copy.deepcopy(model))
    use_grouped_attention(model)
    assert model.config._attn_implementation == before
    assert torch.equal(logits(model), expected)
