"""What a table of equal models cannot show: starts, drawn dropout, rates of their own, and memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import peft
import pytest
import torch
from peft.optimizers import create_loraplus_optimizer
from peft.tuners.lora.eva import initialize_lora_eva_weights
from peft.utils.loftq_utils import _low_rank_decomposition
from torch import Tensor, nn

from core.adapters.conv import LoraConv
from core.adapters.inject import activate, inject, lora_layers
from core.adapters.linear import LoraLinear
from core.adapters.lowrank import LowRank
from core.config import DataConfig, LoraConfig, OptimConfig, QuantConfig, RunConfig
from core.models.linears import find_layers, find_linears
from core.models.load import LoadedModel
from core.models.quantize import frozen_weight, quantize_linears
from core.train.methods import Lora
from tests.core.parity.architectures import ARCHITECTURES, CLASSIFIERS, batch, build
from tests.core.parity.cases import CASES, LIMIT, LINEARS
from tests.core.parity.twins import KEY, Twins, relative

RANK, ALPHA = 4, 6
BOTH = pytest.mark.parametrize("architecture", ["llama", "gpt2"])


def peft_model(architecture: str, **settings: Any) -> Any:
    config = peft.LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=list(LINEARS[architecture]),
        fan_in_fan_out=architecture == "gpt2",
        **settings,
    )
    return peft.get_peft_model(build(architecture), config).eval()


def our_model(architecture: str, **settings: Any) -> nn.Module:
    model = build(architecture)
    inject(model, LoraConfig(rank=RANK, alpha=ALPHA, targets=LINEARS[architecture], **settings), key=KEY, seed=1)
    activate(model, KEY)
    return model


def updates(model: nn.Module) -> Iterator[tuple[str, LoraLinear, LowRank]]:
    for name, layer in lora_layers(model).items():
        assert isinstance(layer, LoraLinear)
        update = layer.adapters[KEY]
        assert isinstance(update, LowRank)
        yield name, layer, update


@pytest.mark.parametrize(("architecture", "start"), [("llama", "pissa"), ("gpt2", "pissa"), ("llama", "olora")])
def test_what_pissa_and_olora_train_and_what_they_leave_of_the_base_is_pefts(architecture: str, start: str) -> None:
    ours, theirs = our_model(architecture, init=start), peft_model(architecture, init_lora_weights=start)
    for name, layer, update in updates(ours):
        other = theirs.base_model.model.get_submodule(name)
        product = update.scale * (update.b @ update.a).detach()
        assert (
            relative(product, other.scaling["default"] * other.lora_B.default.weight @ other.lora_A.default.weight)
            < LIMIT
        )
        left = frozen_weight(layer.base, torch.float32) - product
        assert relative(left, frozen_weight(other.base_layer, torch.float32)) < LIMIT


@BOTH
def test_loftq_makes_up_for_quantization_as_peft_does(architecture: str) -> None:
    """Where s is 1: peft leaves the scale out."""
    model = build(architecture)
    names = [shape.name for shape in find_linears(model)]
    originals = {name: frozen_weight(model.get_submodule(name), torch.float32).clone() for name in names}
    quantize_linears(model, names, QuantConfig(bits=4))
    config = LoraConfig(rank=RANK, alpha=RANK, targets=LINEARS[architecture], init="loftq")
    inject(model, config, key=KEY, seed=1, originals=originals)
    for name, layer, update in updates(model):
        missing = originals[name] - frozen_weight(layer.base, torch.float32)
        best = _low_rank_decomposition(missing, reduced_rank=RANK)
        assert relative(update.delta(), best["L"] @ best["R"]) < LIMIT
        assert relative(missing - update.delta(), missing) < 0.95


@BOTH
def test_evas_directions_go_where_peft_puts_them(architecture: str) -> None:
    model = build(architecture)
    generator = torch.Generator().manual_seed(0)
    directions = {
        shape.name: torch.linalg.qr(torch.randn(shape.in_features, RANK, generator=generator)).Q.t().contiguous()
        for shape in find_linears(model)
    }
    config = LoraConfig(rank=RANK, alpha=ALPHA, targets=LINEARS[architecture], init="eva")
    inject(model, config, key=KEY, seed=1, directions=directions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft calls its own EVA without data a mistake
        theirs = peft_model(architecture, init_lora_weights="eva")
    named = {f"base_model.model.{name}": found for name, found in directions.items()}
    initialize_lora_eva_weights(theirs, eva_state_dict=named)
    for name, _, update in updates(model):
        other = theirs.base_model.model.get_submodule(name)
        assert torch.equal(update.a, other.lora_A.default.weight)
        assert not update.b.any() and not other.lora_B.default.weight.any()


@pytest.mark.parametrize("case", [case for case in CASES if case.variant == "dropout"], ids=str)
def test_with_the_same_numbers_drawn_dropout_drops_the_same(case: Any) -> None:
    twins = Twins(case)
    drawn = []
    for model in (twins.ours.train(), twins.theirs.train()):
        torch.manual_seed(5)
        drawn.append(model(**twins.batch())["loss"])
        drawn[-1].backward()
    twins.ours.eval()
    assert relative(*drawn) < LIMIT
    assert relative(drawn[0], twins.ours(**twins.batch())["loss"]) > 100 * LIMIT
    for pair in twins.trained:
        assert pair.ours.grad is not None and pair.theirs.grad is not None
        assert relative(pair.encode(pair.ours.grad), pair.theirs.grad) < LIMIT, pair.name


def test_doras_dropout_is_drawn_for_a_alone() -> None:
    """peft, as the authors' code, drops what goes into (g − 1) W₀ too, which costs another product with W₀."""
    torch.manual_seed(0)
    base = nn.Linear(24, 16).requires_grad_(False)
    holder = nn.Sequential(base)
    inject(holder, LoraConfig(rank=RANK, dropout=0.4, use_dora=True, targets=("0",)), key=KEY, seed=0)
    layer = cast(LoraLinear, holder[0])
    update = cast(LowRank, layer.adapters[KEY])
    update.b.data.normal_()
    activate(holder, KEY)
    x = torch.randn(5, 24)
    torch.manual_seed(1)
    found = holder.train()(x)
    torch.manual_seed(1)
    dropped = nn.functional.dropout(x, 0.4)
    delta = update.scale * (update.b @ update.a)
    assert update.magnitude is not None
    gain = update.magnitude / (base.weight + delta).norm(dim=1)
    assert relative(found, gain * (x @ base.weight.t() + dropped @ delta.t()) + base.bias) < LIMIT


def test_lora_plus_moves_a_and_b_as_pefts_optimizer_does() -> None:
    case = next(case for case in CASES if str(case) == "llama-linear-plain")
    ratio, rate = 16.0, 2e-4
    config = RunConfig(
        name="a run",
        data=DataConfig(dataset_id="none"),
        lora=case.config,
        optim=OptimConfig(lora_plus_ratio=ratio),
    )
    model = build("llama")
    loaded = LoadedModel(
        model=model, tokenizer=None, dtype=torch.float32, device=torch.device("cpu"), parameters=0
    )  # fmt: skip
    trainables = Lora(config).begin(loaded, cast(Any, None), (), torch.float32)
    groups = [
        {"params": [parameter], "lr": rate * trainables.rate_factors.get(name, 1.0)}
        for name, parameter in trainables.parameters.items()
    ]
    mine = torch.optim.AdamW(groups, weight_decay=0.0)
    theirs = peft_model("llama")
    other = create_loraplus_optimizer(theirs, torch.optim.AdamW, lr=rate, loraplus_lr_ratio=ratio)
    pairs = []
    for name, layer in lora_layers(model).items():
        update = cast(Any, next(iter(layer.adapters.values())))
        twin = theirs.base_model.model.get_submodule(name)
        pairs += [(update.a, twin.lora_A.default.weight), (update.b, twin.lora_B.default.weight)]
    for ours, twin in pairs:
        ours.data.add_(torch.randn_like(ours), alpha=0.1)
        twin.data.copy_(ours)
    firsts = [ours.detach().clone() for ours, _ in pairs]
    for seed in range(5):
        for side, optimizer in ((model, mine), (theirs, other)):
            optimizer.zero_grad()
            side(**batch("llama", seed))["loss"].backward()
            optimizer.step()
    assert all(relative(ours.detach(), twin.detach()) < LIMIT for ours, twin in pairs)
    moved = [(ours.detach() - first).abs().mean() for (ours, _), first in zip(pairs, firsts, strict=True)]
    assert sum(moved[1::2]) > ratio / 2 * sum(moved[0::2])


@contextmanager
def kept_for_backward() -> Iterator[dict[int, int]]:
    """Bytes of all that autograd keeps, by the address of the storage, each once."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


@pytest.mark.parametrize("use_dora", [False, True], ids=["plain", "dora"])
@BOTH
def test_lora_fa_keeps_no_layers_input_for_the_backward_pass(architecture: str, use_dora: bool) -> None:
    """With A frozen nothing needs x [T, in]; only attention keeps what it hands to its output projection anyway."""
    every, bytes_of_all = inputs_kept(our_model(architecture, use_dora=use_dora), batch(architecture, 0))
    left, bytes_left = inputs_kept(our_model(architecture, use_dora=use_dora, freeze_a=True), batch(architecture, 0))
    assert len(every) == len(LINEARS[architecture]) * 2 + 2 * (architecture == "gpt2")
    assert all(name.endswith(("o_proj", "attn.c_proj")) for name in left)
    assert bytes_left < 0.9 * bytes_of_all


def inputs_kept(model: nn.Module, rows: dict[str, Tensor]) -> tuple[list[str], int]:
    """Which adapted layers' inputs are kept for the backward pass, and the bytes of all that is."""
    seen: dict[str, Tensor] = {}  # holding them, no address is used twice
    for name, layer in lora_layers(model).items():
        layer.register_forward_pre_hook(lambda _, given, name=name: seen.update({name: given[0]}))
    with kept_for_backward() as kept:
        model(**rows)
    return [name for name, x in seen.items() if x.untyped_storage().data_ptr() in kept], sum(kept.values())


@pytest.mark.parametrize(
    "geometry",
    [{"dilation": 2, "padding": 1}, {"stride": 2, "padding": 1, "padding_mode": "circular"}],
    ids=["dilated", "strided"],
)
def test_a_is_a_convolution_of_its_bases_geometry(geometry: dict[str, Any]) -> None:
    """peft leaves dilation and padding mode out of A, whose result then has another size or another meaning."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3, **geometry))
    inject(model, LoraConfig(rank=2, targets=("0",)), key=KEY, seed=0)
    layer = cast(LoraConv, model[0])
    update = cast(LowRank, layer.adapters[KEY])
    update.b.data.normal_()
    activate(model, KEY)
    x = torch.randn(2, 3, 9, 8)
    plain = nn.Conv2d(3, 5, 3, **geometry)
    plain.load_state_dict(layer.base.state_dict())
    plain.weight.data += layer.weight_change(update)
    assert relative(model(x), plain(x)) < LIMIT


def test_a_grouped_convolution_is_no_target() -> None:
    assert find_layers(nn.Sequential(nn.Conv1d(4, 4, 3, groups=2))) == ()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_all_linear_means_what_peft_means_but_for_experts_and_their_router(architecture: str) -> None:
    task = "SEQ_CLS" if architecture in CLASSIFIERS else None
    whole = ("classifier",) if architecture in CLASSIFIERS else ()
    settings: dict[str, Any] = {"r": 2, "target_modules": "all-linear", "task_type": task}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about patterns for experts, which peft adds by itself
        config = peft.LoraConfig(**settings, fan_in_fan_out=architecture == "gpt2")
        theirs = peft.get_peft_model(build(architecture), config)
    theirs_adapted = {
        name.removeprefix("base_model.model.")
        for name, module in theirs.named_modules()
        if isinstance(module, peft.tuners.lora.LoraLayer) and not {"experts", "gate"} & set(name.split("."))
    }
    ours = inject(
        build(architecture), LoraConfig(rank=2, targets=("all-linear",), modules_to_save=whole), key=KEY, seed=0
    )
    assert set(ours) - set(whole) == theirs_adapted
