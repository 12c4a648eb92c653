from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertLMHeadModel

from core.adapters.inject import activate, inject, lora_layers, remove, require
from core.adapters.linear import LoraLinear
from core.config import LoraConfig, QuantConfig
from core.data.tokens.batching import pack
from core.errors import AdapterError, ConfigError
from core.models.linears import find_linears
from core.models.load import LoadedModel
from core.models.quantize import quantize_linears
from core.train.objective import summed_loss
from tests.core.tiny import LINEARS, VOCABULARY, adapt, bits, packed_logits, plain_logits, random_rows

TOKENS = random_rows([25])[0].tokens
EVERY = LoraConfig(rank=4, targets=LINEARS)


def train(loaded: LoadedModel, steps: int) -> None:
    parameters = [p for p in loaded.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    for step in range(steps):
        summed_loss(loaded.model, pack(random_rows([20, 9], seed=step), loaded.device)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("quantized", [None, 4, 8])
def test_step_zero_is_the_base_to_the_last_bit(tiny: LoadedModel, dtype: torch.dtype, quantized: int | None) -> None:
    model = tiny.model.to(dtype)
    if quantized is not None:
        names = [shape.name for shape in find_linears(model)]
        quantize_linears(model, names, QuantConfig(bits=quantized))  # type: ignore[arg-type]
    base = packed_logits(model, TOKENS)
    inject(model, EVERY, key="a", seed=3)
    activate(model, "a")
    assert torch.equal(packed_logits(model, TOKENS), base)


def test_frozen_weights_are_bit_identical_after_training_and_the_adapter_is_not(tiny: LoadedModel) -> None:
    inject(tiny.model, EVERY, key="a", seed=3)
    activate(tiny.model, "a")
    before = bits(tiny.model)
    base = packed_logits(tiny.model, TOKENS)
    train(tiny, steps=3)
    after = tiny.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name, p in tiny.model.named_parameters() if p.requires_grad}
    assert changed == {name for name in before if ".adapters." in name}
    assert not torch.equal(packed_logits(tiny.model, TOKENS), base)


def test_only_the_adapter_can_be_trained_and_it_has_fp32_masters(tiny: LoadedModel) -> None:
    model = tiny.model.to(torch.bfloat16).requires_grad_(True)
    names = inject(model, EVERY, key="a", seed=0)
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert set(trainable) == {f"{name}.adapters.a.{half}" for name in names for half in "ab"}
    assert {p.dtype for p in trainable.values()} == {torch.float32}
    shapes = {shape.name: shape for shape in find_linears(model)}
    assert sum(p.numel() for p in trainable.values()) == sum(
        4 * (shapes[name].in_features + shapes[name].out_features) for name in names
    )


def test_names_come_in_model_order_and_only_what_was_named_is_wrapped(tiny: LoadedModel) -> None:
    names = inject(tiny.model, LoraConfig(rank=2, targets=("down_proj", "q_proj")), key="a", seed=0)
    assert names == tuple(f"model.layers.{i}.{part}" for i in (0, 1) for part in ("self_attn.q_proj", "mlp.down_proj"))
    assert tuple(lora_layers(tiny.model)) == names


def test_the_same_seed_draws_the_same_adapter_whatever_was_drawn_before(tiny: LoadedModel) -> None:
    twin = copy.deepcopy(tiny.model)
    inject(tiny.model, EVERY, key="a", seed=7)
    torch.randn(13)
    inject(twin, EVERY, key="a", seed=7)
    assert all(torch.equal(*pair) for pair in zip(tiny.model.parameters(), twin.parameters(), strict=True))
    inject(twin, EVERY, key="b", seed=8)
    layer = lora_layers(twin)["model.layers.0.self_attn.q_proj"]
    a, b = layer.update("a"), layer.update("b")
    assert a is not None and b is not None and not torch.equal(a.a, b.a)


def test_injecting_leaves_the_global_random_stream_alone(tiny: LoadedModel) -> None:
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    inject(tiny.model, EVERY, key="a", seed=1)
    assert torch.equal(torch.randn(3), expected)


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (LoraConfig(targets=("q_proj", "no_such_proj")), "lora.targets"),
        (LoraConfig(layers=(2,)), "lora.layers"),
        (LoraConfig(rank=33, targets=("q_proj", "k_proj")), "lora.rank"),  # k_proj gives 32 features
    ],
)
def test_after_a_refusal_nothing_has_changed(tiny: LoadedModel, config: LoraConfig, field: str) -> None:
    tiny.model.requires_grad_(True)
    modules = list(tiny.model.modules())
    with pytest.raises(ConfigError) as caught:
        inject(tiny.model, config, key="a", seed=0)
    assert caught.value.field == field
    assert list(tiny.model.modules()) == modules
    assert all(p.requires_grad for p in tiny.model.parameters())


def test_the_largest_rank_that_fits_is_accepted(tiny: LoadedModel) -> None:
    inject(tiny.model, LoraConfig(rank=32, targets=("k_proj",)), key="a", seed=0)


def test_taking_the_adapter_out_gives_the_plain_model_back(tiny: LoadedModel) -> None:
    base, before, modules = packed_logits(tiny.model, TOKENS), bits(tiny.model), list(tiny.model.modules())
    adapt(tiny.model)
    activate(tiny.model, "a")
    assert not torch.equal(packed_logits(tiny.model, TOKENS), base)
    remove(tiny.model, "a")
    assert list(tiny.model.modules()) == modules
    assert all(torch.equal(before[name], tensor) for name, tensor in tiny.model.state_dict().items())
    assert torch.equal(packed_logits(tiny.model, TOKENS), base)


def test_taking_one_of_two_adapters_out_leaves_the_other_as_it_was(tiny: LoadedModel) -> None:
    adapt(tiny.model, key="a", targets=("q_proj", "v_proj"))
    adapt(tiny.model, key="b", rank=2, targets=("v_proj", "up_proj"), seed=9)
    activate(tiny.model, "b")
    expected = packed_logits(tiny.model, TOKENS)
    remove(tiny.model, "a")
    assert torch.equal(packed_logits(tiny.model, TOKENS), expected)
    assert {name.rpartition(".")[2] for name in lora_layers(tiny.model)} == {"v_proj", "up_proj"}


def test_no_adapter_active_is_the_base(tiny: LoadedModel) -> None:
    base = packed_logits(tiny.model, TOKENS)
    adapt(tiny.model)
    assert torch.equal(packed_logits(tiny.model, TOKENS), base)
    activate(tiny.model, "a")
    activate(tiny.model, None)
    assert torch.equal(packed_logits(tiny.model, TOKENS), base)


def test_a_key_that_names_nothing_is_refused_and_not_taken_for_the_base(tiny: LoadedModel) -> None:
    adapt(tiny.model)
    activate(tiny.model, "a")
    for act in (lambda: activate(tiny.model, "b"), lambda: require(tiny.model, "b")):
        with pytest.raises(AdapterError, match="No adapter b is loaded"):
            act()
    assert {layer.active for layer in lora_layers(tiny.model).values()} == {"a"}


def test_the_delta_is_what_the_layer_adds(tiny: LoadedModel) -> None:
    adapt(tiny.model)
    layer = lora_layers(tiny.model)["model.layers.1.mlp.down_proj"]
    update = layer.update("a")
    assert update is not None and update.scale == update.alpha / update.rank
    x = torch.randn(6, layer.in_features)
    layer.active = "a"
    with torch.no_grad():
        assert torch.allclose(layer(x), layer.base(x) + x @ update.delta().t(), atol=1e-5)


@pytest.mark.parametrize("bits_of_base", [32, 8, 4])
def test_dropout_is_drawn_in_training_alone_and_keeps_the_mean(bits_of_base: int) -> None:
    torch.manual_seed(0)
    base: nn.Module = nn.Linear(64, 16).requires_grad_(False)
    holder = nn.Sequential(base)
    if bits_of_base < 16:
        quantize_linears(holder, ["0"], QuantConfig(bits=bits_of_base))  # type: ignore[arg-type]
    inject(holder, LoraConfig(rank=4, dropout=0.5, targets=("0",)), key="a", seed=0)
    layer = lora_layers(holder)["0"]
    update = layer.update("a")
    assert update is not None
    update.b.data.normal_()
    layer.active = "a"
    x = torch.randn(1, 64, requires_grad=True)
    exact = layer.eval()(x)
    drawn = layer.train()(x.expand(20000, -1))
    assert torch.equal(layer.eval()(x), exact)
    deviation = drawn.std(dim=0) / 20000**0.5
    assert deviation.min() > 0 and ((drawn.mean(dim=0) - exact[0]).abs() < 6 * deviation).all()
    drawn.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None and update.a.grad is not None and update.b.grad is not None


def test_a_wrapped_layer_still_tells_its_sizes(tiny: LoadedModel) -> None:
    before = find_linears(tiny.model)
    adapt(tiny.model)
    assert find_linears(tiny.model) == before
    assert all(isinstance(layer, LoraLinear) for layer in lora_layers(tiny.model).values())
    assert VOCABULARY not in {shape.out_features for shape in before}


def test_a_tied_head_that_was_adapted_first_still_follows_its_embedding(plain: LoadedModel) -> None:
    alone, late = copy.deepcopy(plain.model), plain.model
    late.lm_head = LoraLinear(late.lm_head)  # as an adapter with a head of its own leaves it
    for model in (alone, late):
        inject(model, LoraConfig(rank=4, targets=("embed_tokens",)), key="a", seed=0)
        model.get_input_embeddings().adapters["a"].a.data.normal_(generator=torch.Generator().manual_seed(1))
        activate(model, "a")
    assert torch.equal(plain_logits(late, TOKENS), plain_logits(alone, TOKENS))
    adapted = plain_logits(late, TOKENS)
    activate(late, None)
    assert not torch.allclose(plain_logits(late, TOKENS), adapted, atol=1e-2)


def test_an_embedding_and_the_bias_of_its_tied_head_are_not_trained_together() -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    model = BertLMHeadModel(BertConfig(**sizes, vocab_size=40, is_decoder=True))
    for targets, bias in ((("word_embeddings",), "none"), (("query",), "all")):  # either alone is well
        inject(copy.deepcopy(model), LoraConfig(rank=2, targets=targets, bias=bias), key="a", seed=0)  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as caught:
        inject(model, LoraConfig(rank=2, targets=("word_embeddings",), bias="all"), key="a", seed=0)
    assert caught.value.field == "lora.bias"
    with pytest.raises(AdapterError, match="New tokens"):
        inject(model, LoraConfig(rank=2, targets=("query",), bias="all"), key="a", seed=0, tokens=[3])
    assert not lora_layers(model)
