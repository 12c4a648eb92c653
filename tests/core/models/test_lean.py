from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from core.config import QuantConfig
from core.models.lean import make_lean
from core.models.linears import find_linears
from core.models.quantize import quantize_linears

CPU = torch.device("cpu")
SETTINGS = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "intermediate_size": 48, "vocab_size": 60, "pad_token_id": 0, "max_position_embeddings": 64,
}  # fmt: skip
# In two blocks and behind them: norms, norms of queries and keys, gated products that we know.
REPLACED = {
    "llama": 5 + 2,
    "mistral": 5 + 2,
    "qwen2": 5 + 2,
    "qwen3": 9 + 2,
    "phi3": 5 + 2,  # gate and up in one
    "olmo2": 9 + 2,
    "gemma": 5,  # centered; its gate is no silu
    "gemma2": 9,
    "gemma3_text": 13,
    "gpt_neox": 0,
}


def model_of(kind: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**SETTINGS)).to(dtype).eval()
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if type(module).__name__.endswith("Norm") and weight is not None:
            weight.data += 0.2 * torch.randn(weight.shape)
    return model.requires_grad_(False)


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(input_ids=torch.arange(20)[None], use_cache=False).logits
    return result


@pytest.mark.parametrize("kind", REPLACED)
def test_norms_and_gated_products_are_found_and_the_model_says_the_same(kind: str) -> None:
    model = model_of(kind)
    before = logits(model)
    assert make_lean(model, torch.float32, CPU) == REPLACED[kind]
    assert torch.allclose(logits(model), before, atol=1e-5)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantized_model_is_made_lean_too(bits: int) -> None:
    model = model_of("llama", torch.bfloat16)
    names = [shape.name for shape in find_linears(model)]
    quantize_linears(model, names, QuantConfig(bits=bits))  # type: ignore[arg-type]
    before = logits(model)
    assert make_lean(model, torch.bfloat16, CPU) == REPLACED["llama"]
    assert (logits(model) - before).norm() <= 0.05 * before.norm()


def test_weights_and_names_stay_as_they_are() -> None:
    model = model_of("qwen3")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    make_lean(model, torch.float32, CPU)
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)


class OddRMSNorm(nn.Module):
    """Looks like ours, and computes something else."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(8)), 1e-5

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x / (x.abs().mean(-1, keepdim=True) + self.eps)


class GatedRMSNorm(OddRMSNorm):
    """Takes a second tensor at times, as Mamba's does."""

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        return nn.functional.rms_norm(x if gate is None else x * gate, (8,), self.weight, self.eps)


class RefusingRMSNorm(OddRMSNorm):
    """Wants rows of its own shape."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x.view(3, 3, 8), (8,), self.weight, self.eps)


class OtherEpsilonRMSNorm(OddRMSNorm):
    """Adds its epsilon to the root, which only small numbers tell."""

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x / (x.square().mean(-1, keepdim=True).sqrt() + self.eps)


class ClampedFeedForward(nn.Module):
    """Cuts off what is large, which no small number tells."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = (nn.Linear(8, 8, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_proj(x).clamp(max=10), self.up_proj(x).clamp(-10, 10)
        return self.down_proj(nn.functional.silu(gate) * up)


class UnmeasuredFeedForward(ClampedFeedForward):
    """Its layers do not say how wide they are."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj = nn.Sequential(self.gate_proj)


@pytest.mark.parametrize(
    "kind",
    [
        OddRMSNorm,
        GatedRMSNorm,
        RefusingRMSNorm,
        OtherEpsilonRMSNorm,
        ClampedFeedForward,
        UnmeasuredFeedForward,
    ],
)
def test_what_only_looks_alike_is_left_alone(kind: type[nn.Module]) -> None:
    model = nn.Sequential(kind())
    assert make_lean(model, torch.float32, CPU) == 0 and "forward" not in vars(model[0])
