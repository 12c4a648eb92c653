"""One adapted model of ours and one of peft's, over equal bases, with every trained tensor paired.

peft stands for what it can do itself; where it has no such thing, a twin is put together from what it has:

    parts of a fused layer   a LoRA of rank parts · r whose B is held at zero outside the parts' own blocks
    PiSSA, OLoRA             a plain LoRA over a base from which s · B₀ A₀ was taken
    a base in 4 or 8 bits    a LoRA over a plain base that holds the dequantized weights
    LoRA-FA                  a LoRA whose A is frozen
    BitFit                   no peft: the plain model with its biases trained
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import peft
import torch
from torch import Tensor, nn

from core.adapters.copies import AdaptedWhole, TrainedCopy
from core.adapters.embedding import LoraEmbedding
from core.adapters.experts import LoraExperts, expert_matrices
from core.adapters.inject import activate, inject, lora_layers
from core.adapters.layer import Adapted, LoraLayer, Mix
from core.adapters.linear import LoraLinear
from core.adapters.lowrank import AnchoredRank, BiasOnly, FusedRank, LowRank, TokenRows, Transposed
from core.config import LoraConfig, QuantConfig
from core.models.linears import find_linears
from core.models.quantize import QuantizedLinear, frozen_weight, quantize_linears
from tests.core.parity.architectures import batch, build
from tests.core.parity.cases import UNFELT, Case

KEY, NEIGHBOR = "a", "b"  # the neighbor is there and should never be felt
THEIRS = "default"
STEPS = 5


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A tensor of ours and the one of peft's that plays its part: theirs = encode(ours) + origin, encode linear.

    Where peft keeps two tensors for a tied embedding and head, and we one, `mirror` is the other of the two, as it lies
    or transposed (`is_turned`). Its gradient belongs to the same tensor, and `theirs` alone is stepped.
    """

    name: str
    ours: nn.Parameter
    theirs: nn.Parameter
    encode: Callable[[Tensor], Tensor] = lambda tensor: tensor
    origin: Tensor | float = 0.0
    mirror: nn.Parameter | None = None
    is_turned: bool = False

    @property
    def is_absolute(self) -> bool:
        """Whether both sides hold the same numbers, and not one a change and the other its result."""
        return not isinstance(self.origin, Tensor)

    def expected(self) -> Tensor:
        """Ours as peft would have it."""
        return self.encode(self.ours.detach()) + self.origin

    def give(self) -> None:
        """Let peft have our value."""
        self.theirs.data.copy_(self.expected())
        self.reflect()

    def reflect(self) -> None:
        """Let the mirror show what `theirs` holds."""
        if self.mirror is not None:
            self.mirror.data.copy_(self._turned(self.theirs.detach()))

    def gather(self) -> None:
        """Let `theirs` have the mirror's gradient too."""
        if self.mirror is not None and self.mirror.grad is not None:
            assert self.theirs.grad is not None
            self.theirs.grad += self._turned(self.mirror.grad)
            self.mirror.grad = None

    def _turned(self, tensor: Tensor) -> Tensor:
        return tensor.t() if self.is_turned else tensor


class Twins:
    """`ours` and `theirs` for one case, A and B equal and B not zero; `reset` brings both back to that."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.base = build(case.architecture)
        self.ours = build(case.architecture)
        names = [shape.name for shape in find_linears(self.ours)]
        originals = {name: frozen_weight(self.ours.get_submodule(name), torch.float32).clone() for name in names}
        if case.bits < 16:
            quantize_linears(self.ours, names, QuantConfig(bits=case.bits))  # type: ignore[arg-type]
        for key, config in {NEIGHBOR: replace(case.config, rank=2, alpha=5), KEY: case.config}.items():
            inject(
                self.ours,
                config,
                key=key,
                seed=1,
                bias_only=case.is_bias_only,
                tokens=case.tokens,
                directions=_orthonormal(self.ours, config) if config.init == "eva" else None,
                originals=originals if case.bits < 16 else None,
            )
            started = {name: p.detach().clone() for name, p in self.ours.named_parameters() if p.requires_grad}
            _disturb(self.ours)
        self.started = started
        activate(self.ours, KEY)
        self.theirs = _plain_twin(case, self.ours) if case.is_bias_only else _peft_twin(case, self.ours)
        self.pairs = list(_pairs(self))
        self.first = [pair.ours.detach().clone() for pair in self.pairs]
        self.reset()

    @property
    def trained(self) -> list[Pair]:
        """The pairs that have gradients."""
        return [pair for pair in self.pairs if pair.ours.requires_grad]

    def reset(self) -> None:
        """Both sides as they were at first, in evaluation mode and without gradients."""
        for pair, value in zip(self.pairs, self.first, strict=True):
            pair.ours.data.copy_(value)
            pair.give()
        for model in (self.ours, self.theirs):
            model.eval().zero_grad()
        activate(self.ours, KEY)

    def step(self) -> None:
        """A few steps of AdamW on either side, on the same batches.

        Token rows are not decayed: peft pulls them to zero, and we to what they are in the base.
        """
        mine = _optimizer([(pair.ours, pair.is_absolute) for pair in self.trained])
        other = _optimizer([(pair.theirs, pair.is_absolute) for pair in self.trained])
        for seed in range(STEPS):
            for model, optimizer in ((self.ours, mine), (self.theirs, other)):
                optimizer.zero_grad()
                model(**self.batch(seed))["loss"].backward()
            for pair in self.trained:
                pair.gather()
            mine.step()
            other.step()
            for pair in self.trained:
                pair.reflect()

    def felt(self, pair: Pair, tensor: Tensor) -> Tensor:
        """`tensor`, in the shape of the pair's, without the elements that nothing feels."""
        places = UNFELT.get(self.case.architecture, {}).items()
        unfelt = [part for name, part in places if pair.name.endswith(name)]
        if not unfelt:
            return tensor
        kept = torch.ones(len(tensor), dtype=torch.bool)
        kept[unfelt[0]] = False
        return tensor[kept]

    def their_module(self, name: str) -> nn.Module:
        """What peft has in the place of the base's module `name`."""
        return self.theirs.get_submodule(name if self.case.is_bias_only else f"base_model.model.{name}")

    def batch(self, seed: int = 0) -> dict[str, Tensor]:
        """Padded rows with a mask and labels."""
        return batch(self.case.architecture, seed)


def relative(found: Tensor, expected: Tensor) -> float:
    """‖found − expected‖ / ‖expected‖, 0 where both are zero."""
    distance = torch.linalg.vector_norm(found.double() - expected.double()).item()
    length = torch.linalg.vector_norm(expected.double()).item()
    return distance / length if length else distance


def _optimizer(parameters: Sequence[tuple[nn.Parameter, bool]]) -> torch.optim.Optimizer:
    groups = [{"params": [p], "weight_decay": 0.01 if is_decayed else 0.0} for p, is_decayed in parameters]
    return torch.optim.AdamW(groups, lr=1e-3)


def _disturb(model: nn.Module) -> None:
    """Move every trained tensor away from its start, so that all of them count in the output."""
    generator = torch.Generator().manual_seed(2)
    for name, parameter in sorted(model.named_parameters()):
        if parameter.requires_grad:
            spread = 0.1 * float(parameter.detach().std()) if name.endswith((".weight", ".magnitude")) else 0.1
            parameter.data.add_(torch.randn(parameter.shape, generator=generator) * spread)


def _orthonormal(model: nn.Module, config: LoraConfig) -> dict[str, Tensor]:
    """Directions of the right shapes for the start `eva`; which ones is a matter of `test_starts`."""
    generator = torch.Generator().manual_seed(3)
    drawn = {s.name: torch.randn(s.in_features, config.rank, generator=generator) for s in find_linears(model)}
    return {name: torch.linalg.qr(matrix).Q.t() for name, matrix in drawn.items()}


def plain_base(case: Case, ours: nn.Module) -> nn.Module:
    """A plain model whose linear layers hold what ours compute with, be they quantized or not."""
    plain = build(case.architecture)
    for shape in find_linears(ours):
        layer: Any = ours.get_submodule(shape.name)
        weight = frozen_weight(layer.base if isinstance(layer, LoraLinear) else layer, torch.float32)
        kept: Any = plain.get_submodule(shape.name).weight
        kept.data.copy_(weight.t() if case.is_transposed else weight)
    return plain


def anchored_base(case: Case, ours: nn.Module) -> nn.Module:
    """`plain_base`, less what the starts of our adapter take away."""
    plain = plain_base(case, ours)
    for name, layer in lora_layers(ours).items():
        update = getattr(layer.adapters, KEY, None)
        if isinstance(update, AnchoredRank):
            weight = plain.get_submodule(name).get_parameter("weight")
            taken = update.scale * (update.b0 @ update.a0)
            weight.data -= taken.t() if case.is_transposed else taken.view_as(weight)
    return plain


def blended_base(case: Case, ours: nn.Module, mix: Mix) -> nn.Module:
    """`plain_base` with each adapter's changes added to its weights, times its strength: a mix, slowly and plainly."""
    plain = plain_base(case, ours)
    done: set[tuple[int, str]] = set()  # a tied weight is one
    for name, layer in lora_layers(ours).items():
        for key, strength in mix:
            for path, change in _changes(layer, key):
                weight = plain.get_submodule(name).get_parameter(path)
                was_turned = case.is_transposed and isinstance(layer.base, QuantizedLinear) and path == "weight"
                if (id(weight), key) not in done:
                    weight.data += strength * (change.t() if was_turned else change)
                done.add((id(weight), key))
    return plain.eval()


def _changes(layer: Adapted, key: str) -> Iterator[tuple[str, Tensor]]:
    """By how much `key` changes each of a layer's parameters."""
    if key not in layer.adapters:
        return
    if isinstance(layer, AdaptedWhole):
        trained = layer.copy_of(key)
        assert trained is not None
        yield from ((path, p.detach() - layer.base.get_parameter(path)) for path, p in trained.trained().items())
    elif isinstance(layer, LoraExperts):
        for matrix in expert_matrices(layer.base):
            update = layer.update(key, matrix)
            assert update is not None
            yield matrix, layer.weight_change(update)
    elif isinstance(layer, LoraLayer):
        update = layer.adapters[key]
        assert isinstance(update, LowRank)
        yield "weight", layer.weight_change(update)
        if update.bias is not None:
            yield "bias", (update.bias - layer.base.bias).detach()  # type: ignore[operator]


def _plain_twin(case: Case, ours: nn.Module) -> nn.Module:
    plain = plain_base(case, ours).requires_grad_(False)
    for name, parameter in plain.named_parameters():
        parameter.requires_grad_(name.endswith("bias"))
    return plain


def _peft_twin(case: Case, ours: nn.Module) -> nn.Module:
    settings = {
        "r": case.config.rank,
        "lora_alpha": case.config.alpha,
        "target_modules": list(case.config.targets),
        "lora_dropout": case.config.dropout,
        "use_rslora": case.config.use_rslora,
        "use_dora": case.config.use_dora,
        "bias": case.config.bias,
        "rank_pattern": dict(case.config.rank_pattern),
        "alpha_pattern": dict(case.config.alpha_pattern),
        "layers_to_transform": list(case.config.layers) if case.config.layers is not None else None,
        "modules_to_save": list(case.config.modules_to_save) or None,
        "trainable_token_indices": list(case.tokens) or None,
        "fan_in_fan_out": case.is_transposed,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's advice about tied weights and target names is not what we test
        model = peft.get_peft_model(anchored_base(case, ours), peft.LoraConfig(**(settings | case.peft)))  # type: ignore[arg-type]
    if case.config.freeze_a:
        for name, parameter in model.named_parameters():
            if ".lora_A." in name or ".lora_embedding_A." in name:
                parameter.requires_grad_(False)
    return model.eval()


def _pairs(twins: Twins) -> Iterator[Pair]:
    found: dict[int, Pair] = {}
    for name, layer in lora_layers(twins.ours).items():
        for pair in _pairs_of(name, layer, twins.their_module(name)):
            first = found.setdefault(id(pair.ours), pair)
            if first.theirs is not pair.theirs:
                turned = first.theirs.shape != pair.theirs.shape
                found[id(pair.ours)] = replace(first, mirror=pair.theirs, is_turned=turned)
    return iter(found.values())


def _pairs_of(name: str, layer: Adapted, theirs: Any) -> Iterator[Pair]:
    if isinstance(layer, LoraLinear) and isinstance(tied := layer.update(KEY), Transposed):
        if not isinstance(tied.update, TokenRows):
            yield Pair(name=f"{name}.b", ours=tied.update.b, theirs=theirs.lora_A[THEIRS].weight)
            yield Pair(name=f"{name}.a", ours=tied.update.a, theirs=theirs.lora_B[THEIRS].weight)
    elif KEY not in layer.adapters:
        return
    elif isinstance(layer, AdaptedWhole):
        yield from _whole_pairs(name, layer, theirs)
    elif isinstance(layer, LoraExperts):
        yield from _expert_pairs(name, layer, theirs)
    elif isinstance(layer, LoraLayer):
        yield from _low_rank_pairs(name, layer, theirs)


def _whole_pairs(name: str, layer: AdaptedWhole, theirs: Any) -> Iterator[Pair]:
    trained = layer.copy_of(KEY)
    assert isinstance(trained, TrainedCopy)
    holder = theirs.modules_to_save[THEIRS] if hasattr(theirs, "modules_to_save") else theirs
    for path, parameter in trained.trained().items():
        yield Pair(name=f"{name}.{path}", ours=parameter, theirs=holder.get_parameter(path))


def _expert_pairs(name: str, layer: LoraExperts, theirs: Any) -> Iterator[Pair]:
    """peft nests one wrapper a matrix, and lays all experts' factors in one A and one B, B rank by rank."""
    while hasattr(theirs, "parameter_name"):
        update = layer.update(KEY, theirs.parameter_name)
        assert update is not None
        a, b = theirs.lora_A[THEIRS].weight, theirs.lora_B[THEIRS].weight
        place = f"{name}.{theirs.parameter_name}"
        yield Pair(name=f"{place}.a", ours=update.a, theirs=a, encode=lambda t: t.flatten(0, 1))
        yield Pair(name=f"{place}.b", ours=update.b, theirs=b, encode=lambda t: t.permute(1, 2, 0).flatten(1))
        theirs = theirs.base_layer


def _low_rank_pairs(name: str, layer: LoraLayer, theirs: Any) -> Iterator[Pair]:
    update = layer.adapters[KEY]
    assert isinstance(update, LowRank)
    if isinstance(update, TokenRows):
        delta = theirs.token_adapter.trainable_tokens_delta[THEIRS]
        rows = layer.matrix().t()[update.tokens]
        yield Pair(name=f"{name}.b", ours=update.b, theirs=delta, encode=lambda t: t.t(), origin=rows)
        return
    if update.bias is not None:
        bias = theirs.base_layer.bias if hasattr(theirs, "base_layer") else theirs.bias
        yield Pair(name=f"{name}.bias", ours=update.bias, theirs=bias)
    if isinstance(update, BiasOnly):
        return
    if isinstance(layer, LoraEmbedding):
        a, b = theirs.lora_embedding_A[THEIRS], theirs.lora_embedding_B[THEIRS]
    else:
        a, b = theirs.lora_A[THEIRS].weight, theirs.lora_B[THEIRS].weight
    yield Pair(name=f"{name}.a", ours=update.a, theirs=a, encode=_like(a))
    yield _b_pair(name, update, b)
    if update.magnitude is not None:
        magnitude = theirs.lora_magnitude_vector[THEIRS].weight
        yield Pair(
            name=f"{name}.magnitude", ours=update.magnitude, theirs=magnitude, encode=lambda t: t.view_as(magnitude)
        )


def _like(pattern: Tensor) -> Callable[[Tensor], Tensor]:
    """Into the shape of `pattern`: peft keeps the factors of a convolution as convolutions."""
    return lambda tensor: tensor.view_as(pattern)


def _b_pair(name: str, update: LowRank, b: nn.Parameter) -> Pair:
    if not isinstance(update, FusedRank):
        return Pair(name=f"{name}.b", ours=update.b, theirs=b, encode=_like(b))

    def widened(narrow: Tensor) -> Tensor:
        """The parts' blocks at their rows and ranks, slowly and plainly."""
        wide = torch.zeros(update.out_features, len(update.parts) * narrow.shape[1])
        start = 0
        for index, part in enumerate(update.parts):
            for row in part.tolist():
                wide[row, index * narrow.shape[1] : (index + 1) * narrow.shape[1]] = narrow[start]
                start += 1
        return wide

    inside = widened(torch.ones_like(update.b))
    b.register_hook(lambda gradient: gradient * inside)
    return Pair(name=f"{name}.b", ours=update.b, theirs=b, encode=widened)
