"""Quantized layers in a model."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from core.adapters.inject import activate
from core.config import QuantConfig
from core.data.tokens.batching import pack
from core.errors import ConfigError
from core.models.linears import find_linears
from core.models.load import LoadedModel
from core.models.quantize import QuantizedLinear, quantize_linears
from core.train.objective import summed_loss
from tests.core.models.quantized import config
from tests.core.tiny import adapt, packed_logits, random_rows

CPU = torch.device("cpu")
FORMATS: list[dict[str, Any]] = [{"bits": 8}, {"bits": 4}, {"bits": 4, "quant_type": "fp4", "block_size": 256}]
every_storage = pytest.mark.parametrize("storage", FORMATS, ids=lambda values: "-".join(map(str, values.values())))


def names(model: nn.Module) -> list[str]:
    return [shape.name for shape in find_linears(model)]


def quantized_names(model: nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}


@every_storage
def test_it_can_be_trained_through_before_and_after_an_evaluation(tiny: LoadedModel, storage: dict[str, Any]) -> None:
    """bitsandbytes' own 4-bit layer repacks itself when first evaluated on a CPU, and gives no gradient after that."""
    quantize_linears(tiny.model, names(tiny.model), config(**storage))
    adapt(tiny.model, targets=("q_proj", "down_proj"))
    activate(tiny.model, "a")
    batch, tokens = pack(random_rows([20, 7]), CPU), random_rows([9])[0].tokens

    def gradients() -> list[Tensor]:
        tiny.model.zero_grad()
        tiny.model.train()
        summed_loss(tiny.model, batch).backward()  # type: ignore[no-untyped-call]
        return [p.grad.clone() for p in tiny.model.parameters() if p.grad is not None]

    before = gradients()
    tiny.model.eval()
    logits = packed_logits(tiny.model, tokens)
    after = gradients()
    tiny.model.eval()
    assert len(before) == len(after) == 8 and all(gradient.abs().sum() > 0 for gradient in before)
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    assert torch.equal(packed_logits(tiny.model, tokens), logits)


@every_storage
def test_every_linear_layer_is_quantized_but_the_head(tiny: LoadedModel, storage: dict[str, Any]) -> None:
    shapes = find_linears(tiny.model)
    quantize_linears(tiny.model, names(tiny.model), config(**storage))
    assert find_linears(tiny.model) == shapes
    assert quantized_names(tiny.model) == {shape.name for shape in shapes}
    assert type(tiny.model.lm_head) is nn.Linear and tiny.model.lm_head.weight is tiny.model.model.embed_tokens.weight


@every_storage
def test_a_quantized_gpt2_says_nearly_what_it_said_and_gives_gradients(storage: dict[str, Any]) -> None:
    """All of its dense layers are Conv1D."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=48, n_head=4, vocab_size=97, n_positions=32)).eval()
    model.requires_grad_(False)
    tokens = torch.randint(97, (2, 9))
    embedded = model.transformer.wte(tokens).requires_grad_()
    expected = model(inputs_embeds=embedded).logits
    layers = [
        f"transformer.h.{i}.{name}" for i in (0, 1) for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ]
    quantize_linears(model, layers, config(**storage))
    logits = model(inputs_embeds=embedded).logits
    cosine = nn.functional.cosine_similarity(logits.flatten(), expected.flatten(), dim=0)
    (gradient,) = torch.autograd.grad(logits.sum(), embedded)
    assert quantized_names(model) == set(layers)
    assert cosine > 0.97 and not torch.equal(logits, expected)
    assert gradient.isfinite().all() and gradient.abs().sum() > 0


@pytest.mark.parametrize(
    ("skip", "left"),
    [
        (("down_proj",), {"model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"}),
        (("layers.1.mlp.up_proj",), {"model.layers.1.mlp.up_proj"}),
        (
            ("model.layers.0.self_attn.q_proj", "0.self_attn.k_proj"),
            {"model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj"},
        ),
    ],
)
def test_layers_to_skip_stay_as_they_are(tiny: LoadedModel, skip: tuple[str, ...], left: set[str]) -> None:
    everything = names(tiny.model)
    kept = {name: tiny.model.get_submodule(name) for name in left}
    quantize_linears(tiny.model, everything, QuantConfig(bits=4, skip=skip))
    assert quantized_names(tiny.model) == set(everything) - left
    assert all(tiny.model.get_submodule(name) is layer for name, layer in kept.items())


def test_a_skip_means_whole_parts_of_a_name() -> None:
    model = nn.ModuleDict({name: nn.Linear(64, 8) for name in ("proj", "up_proj")}).requires_grad_(False)
    quantize_linears(model, list(model), QuantConfig(bits=4, skip=("proj",)))
    assert quantized_names(model) == {"up_proj"}


@pytest.mark.parametrize(
    "wrong", ["down", "own_proj", "mlp", "lm_head", "layers.7.mlp.up_proj", "auto", "all-linear", ""]
)
def test_a_skip_that_means_no_layer_is_refused_and_says_what_there_is(tiny: LoadedModel, wrong: str) -> None:
    with pytest.raises(ConfigError) as caught:
        quantize_linears(tiny.model, names(tiny.model), QuantConfig(bits=4, skip=("q_proj", wrong)))
    assert caught.value.field == "quant.skip" and repr(wrong) in caught.value.title
    assert all(name in caught.value.hint for name in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj"))
    assert quantized_names(tiny.model) == set()


@every_storage
def test_the_file_that_weights_lay_in_is_let_go(storage: dict[str, Any]) -> None:
    """What stays in 16 bits would otherwise keep all of it in memory."""

    class File(bytearray):
        """A mapped file's place in memory."""

    file = File(4 * 3 * 64)
    weights = torch.frombuffer(file, dtype=torch.float32).normal_().view(3, 64)
    model = nn.ModuleDict({"embed": nn.Embedding(1, 64), "proj": nn.Linear(64, 2, bias=False), "norm": nn.RMSNorm(64)})
    model.requires_grad_(False)
    model["embed"].weight.data, model["proj"].weight.data = weights[:1], weights[1:]
    norm, expected, lives = model["norm"].weight.data_ptr(), weights[:1].clone(), weakref.ref(file)
    quantize_linears(model, ["proj"], config(**storage))
    del file, weights
    assert lives() is None
    assert torch.equal(model["embed"].weight, expected)
    assert model["norm"].weight.data_ptr() == norm  # in memory of its own already


def test_skipping_every_layer_is_refused(tiny: LoadedModel) -> None:
    last_parts = tuple({name.rpartition(".")[2] for name in names(tiny.model)})
    with pytest.raises(ConfigError, match="Every layer is skipped") as caught:
        quantize_linears(tiny.model, names(tiny.model), QuantConfig(bits=4, skip=last_parts))
    assert caught.value.field == "quant.skip" and quantized_names(tiny.model) == set()
