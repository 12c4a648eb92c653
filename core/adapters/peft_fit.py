"""Whether an adapter from disk fits a base model, and what it puts where. Nothing in the model is changed here.

Where embedding and head are tied, peft ties what they learn only if it is told to (`ensure_weight_tying`); else the
head stays as it is, or has an update of its own. Here an embedding's update always serves a tied head as well, so the
former is what happens by itself, and for the latter the head gets an update of its own, which may be nothing.

PiSSA's and OLoRA's B₀ A₀, which peft took out of the base, are computed again from the base as it is.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from core.adapters.begin import device_of
from core.adapters.copies import AdaptedWhole, TrainedCopy
from core.adapters.layer import Adapted
from core.adapters.lowrank import AnchoredRank, BiasOnly, LowRank, TokenRows
from core.adapters.peft_base import BaseView, view
from core.adapters.peft_experts import read as read_experts
from core.adapters.peft_settings import PeftSettings
from core.adapters.peft_tensors import LayerTensors, PeftTensors
from core.adapters.starts import Place, begin
from core.errors import AdapterError
from core.models.quantize import QuantizedLinear, frozen_weight
from core.models.shapes import LinearShape

Fitted: TypeAlias = dict[str, LowRank | TrainedCopy | nn.ModuleDict]

# peft lists both of them for every classifier, whichever of them it has
_CLASS_HEADS = ("classifier", "score")


def fit(settings: PeftSettings, tensors: PeftTensors, model: nn.Module) -> Fitted:
    """What the adapter puts beside the modules of `model`, by their names: fp32, on their devices, not to be trained.

    Raises:
        AdapterError: it was made for another base, lacks what its config promises, or cannot stand beside the adapters
            that are there.
    """
    return _Fitting(settings, tensors, view(model)).placed()


class HeadRows(LowRank):
    """Chosen rows of an output head, in another place than before: A holds by how much, and B picks the tokens.

    Args:
        tokens: `[n]` int64 token ids. change: `[n, width]` fp32. vocabulary: how many rows the head has.
    """

    def __init__(self, tokens: Tensor, change: Tensor, vocabulary: int) -> None:
        super().__init__(change, torch.empty(0, len(tokens), device=change.device), alpha=len(tokens))
        self.vocabulary = vocabulary
        self.register_buffer("tokens", tokens, persistent=False)

    tokens: Tensor

    def factors(self) -> tuple[Tensor, Tensor]:
        picks = self.a.new_zeros(self.vocabulary, len(self.tokens))
        picks[self.tokens, torch.arange(len(self.tokens), device=self.tokens.device)] = 1.0
        return self.a, picks


class _Fitting:
    """One adapter on one base."""

    def __init__(self, settings: PeftSettings, tensors: PeftTensors, base: BaseView) -> None:
        self._settings, self._tensors, self._base = settings, tensors, base
        self._whole, self._copies = dict(tensors.whole), dict(tensors.copies)
        self._placed: Fitted = {}

    def placed(self) -> Fitted:
        """Every update and copy, all checks done."""
        for name, layer in self._tensors.layers.items():
            self._placed[name] = self._update(name, layer)
        self._placed |= dict(read_experts(self._settings, self._tensors.experts, self._base))
        self._check_targets()
        self._let_head_follow()
        self._check_copies()
        self._place_tokens()
        for name, bias in self._tensors.biases.items():
            self._place_bias(name, bias)
        self._place_whole()
        self._settle_tied_ends()
        self._check_room()
        for placed in self._placed.values():
            placed.requires_grad_(False)
        return self._placed

    # ---- low-rank updates

    def _update(self, module: str, layer: LayerTensors) -> LowRank:
        shape = self._base.shapes.get(module)
        if isinstance(self._base.standing.get(module), AdaptedWhole):
            raise self._no_room(module)
        if shape is None or (shape.kind == "embedding") != layer.is_embedding:
            kind = "embedding" if layer.is_embedding else "linear layer"
            raise self._other_base(f"this one has no {kind} {module}")
        base = self._base.modules[module]
        theirs, here = (layer.b.shape[0], *layer.kernel), _sizes(shape, base)
        if theirs != here:
            raise self._other_base(f"{module} is {_times(theirs)} in it and {_times(here)} here")
        device, settings = device_of(base), self._settings
        scaling: dict[str, Any] = {"alpha": settings.alpha_of(module), "use_rslora": settings.use_rslora}
        a, b = layer.a.to(device, copy=True), layer.b.to(device, copy=True)
        if settings.start and shape.kind != "embedding":
            update: LowRank = AnchoredRank(self._anchor(module, shape, layer.a.shape[0]), **scaling).to(device)
            update.a.data, update.b.data = a, b
        else:
            update = LowRank(a, b, **scaling)
        if layer.magnitude is not None:
            update.magnitude = nn.Parameter(layer.magnitude.to(device, copy=True))
        return update

    def _anchor(self, module: str, shape: LinearShape, rank: int) -> tuple[Tensor, Tensor]:
        """A₀ `[r, in]` and B₀ `[out, r]` as peft computed them when training began."""
        base, start = self._base.modules[module], self._settings.start
        if (
            isinstance(base, QuantizedLinear)
            or shape.kind == "conv"
            or rank > min(shape.in_features, shape.out_features)
        ):
            raise AdapterError(
                f"What the start {start} took out of {module} cannot be computed again",
                "it depends on the base's weights, bit by bit",
                "Load the base in 16 or 32 bits, or export the adapter from peft as a plain one",
            )
        weight = frozen_weight(base, torch.float32)
        is_turned = start == "olora" and shape.is_transposed  # peft decomposes a Conv1D's weight as it lies
        weight = weight.t() if is_turned else weight
        place = Place(
            in_features=weight.shape[1],
            out_features=weight.shape[0],
            rank=rank,
            scale=self._settings.scale_of(module),
            weight=weight,
        )
        found = begin("pissa" if start == "pissa" else "olora", place, torch.Generator()).anchor
        assert found is not None
        return (found[1].t(), found[0].t()) if is_turned else found

    def _check_targets(self) -> None:
        """The config's targets and the tensors must name the same modules, as far as the config alone can tell."""
        if not self._settings.is_decidable():
            return
        layers = self._tensors.layers
        for name, shape in self._base.shapes.items():
            is_target = self._settings.is_target(name, is_linear=shape.kind == "linear")
            if is_target and name not in layers and shape.kind != "experts":
                raise self._incomplete(f"The adapter has no tensors for {name}, which its targets name")
        for name in layers:
            is_follower = self._base.is_tied and name == self._base.head and self._base.embedding in layers
            is_linear = self._base.shapes[name].kind == "linear"
            if not is_follower and not self._settings.is_target(name, is_linear=is_linear):
                raise self._incomplete(f"The adapter has tensors for {name}, which its targets do not name")

    # ---- rows of tokens, biases, whole modules

    def _place_tokens(self) -> None:
        wanted = dict(self._settings.tokens)
        for module, rows in self._tensors.tokens.items():
            end = next((name for name in wanted if self._is_end(module, name)), None)
            if end is None:
                raise self._incomplete(f"The adapter has rows for {module}, whose tokens its config does not name")
            self._placed[module] = self._token_rows(module, wanted.pop(end), rows)
        for end, ids in wanted.items():
            is_follower = self._base.is_tied and self._base.head is not None and self._is_end(self._base.head, end)
            if ids and not is_follower:
                raise self._incomplete(f"The adapter has no rows for the {len(ids)} tokens that its config names")

    def _is_end(self, module: str, name: str) -> bool:
        return module.endswith(name) if name else module == self._base.embedding

    def _token_rows(self, module: str, ids: tuple[int, ...], rows: Tensor) -> LowRank:
        shape, weight = self._base.shapes.get(module), self._base.tensor(f"{module}.weight")
        if shape is None or weight is None or module in self._placed or weight.shape[1:] != rows.shape[1:]:
            raise self._other_base(f"{module} cannot take rows of {rows.shape[-1]} features here")
        if len(ids) != len(rows):
            raise self._incomplete(f"The adapter has {len(rows)} rows for the {len(ids)} tokens that its config names")
        if max(ids, default=0) >= len(weight):
            raise AdapterError(
                f"The adapter brings new tokens, up to number {max(ids)}, and the base has room for {len(weight)}",
                self._made_for,
                "Let the base's vocabulary grow first",
            )
        tokens = torch.tensor(ids, device=weight.device)
        change = rows.to(weight.device) - weight.detach()[tokens].float()
        if shape.kind == "embedding":
            return TokenRows(tokens, change, len(weight))
        return HeadRows(tokens, change, len(weight))

    def _place_bias(self, module: str, bias: Tensor) -> None:
        here = self._base.tensor(f"{module}.bias")
        if here is None or here.shape != bias.shape:
            raise self._other_base(f"{module} has no bias of {_times(tuple(bias.shape))} here")
        bias = bias.to(here.device, copy=True)
        update, shape = self._placed.get(module), self._base.shapes.get(module)
        if isinstance(update, LowRank):
            update.bias = nn.Parameter(bias)
        elif shape is not None and shape.kind in ("linear", "head"):
            self._placed[module] = BiasOnly(bias, shape.in_features)
        else:
            copied = TrainedCopy(self._base.modules[module], ["bias"])
            copied.module.get_parameter("bias").data = bias
            self._placed[module] = copied

    def _place_whole(self) -> None:
        for name in self._settings.whole:
            meant = [module for module in self._base.modules if module.endswith(name)]
            missing = [module for module in meant if self._settings.lies_in_whole(module) not in self._whole]
            if missing or (not meant and name not in _CLASS_HEADS):
                raise self._incomplete(f"The adapter has no tensors for {(*missing, name)[0]}, which it trains whole")
        for module, tensors in self._whole.items():
            self._placed[module] = self._copy(module, tensors)

    def _let_head_follow(self) -> None:
        """A tied head follows an embedding that is trained whole, though peft's config names the embedding alone."""
        embedding, head = self._base.embedding, self._base.head
        if self._settings.is_tied and self._base.is_tied and embedding in self._whole and head not in self._whole:
            weight = self._whole[str(embedding)].get("weight")
            if weight is not None:
                self._whole[str(head)] = {"weight": self._copies.pop(f"{head}.weight", weight)}

    def _copy(self, module: str, tensors: dict[str, Tensor]) -> TrainedCopy:
        base = self._base.modules.get(module)
        if base is None or any(isinstance(inner, QuantizedLinear) for inner in base.modules()):
            there = "here it is stored in 4 or 8 bits" if base is not None else "this one has no such module"
            raise self._other_base(f"{module} is trained whole, and {there}")
        copied = TrainedCopy(base)
        state = copied.module.state_dict()
        for name in sorted(state.keys() ^ tensors.keys()):
            raise self._other_base(f"{module} has {'no' if name in state else 'a'} tensor {name} in it, unlike here")
        for name, tensor in tensors.items():
            if tensor.shape != state[name].shape:
                sizes = f"{_times(tuple(tensor.shape))} in it and {_times(tuple(state[name].shape))} here"
                raise self._other_base(f"{module}.{name} is {sizes}")
        copied.module.load_state_dict(tensors)
        return copied

    # ---- what stands in other places of the model

    def _check_copies(self) -> None:
        """What peft saved of the base itself must be in this base, to the bit, at the coarser of the two precisions."""
        ends = {self._base.embedding, self._base.head}
        known = {*ends, *self._tensors.layers, *self._tensors.tokens, *self._whole}
        for name, tensor in self._copies.items():
            here = self._base.tensor(name)
            if here is None or name.rpartition(".")[0] not in known:
                raise self._other_base(f"this one has nothing for the tensor {name}")
            if here.shape != tensor.shape:
                sizes = f"{_times(tuple(tensor.shape))} in it and {_times(tuple(here.shape))} here"
                raise self._other_base(f"{name} is {sizes}")
            here = here.detach().cpu()
            if not torch.equal(here.to(tensor.dtype), tensor) and not torch.equal(here, tensor.to(here.dtype)):
                raise self._other_base(f"its copy of {name} has other values")

    def _settle_tied_ends(self) -> None:
        embedding, head = self._base.embedding, self._base.head
        if not self._base.is_tied or embedding is None or head is None:
            return
        first, second = self._placed.get(embedding), self._placed.get(head)
        if isinstance(first, TrainedCopy) and isinstance(second, TrainedCopy):
            if torch.equal(first.module.weight, second.module.weight):  # type: ignore[arg-type]
                second.module.weight = first.module.weight
        elif isinstance(first, LowRank) and isinstance(second, BiasOnly):
            raise AdapterError(
                f"The adapter trains {embedding} and the bias of {head}, which is tied to it",
                self._made_for,
                "Choose an adapter without one of them",
            )
        elif isinstance(first, TokenRows) or (first is not None and second is None and self._settings.is_tied):
            self._placed.pop(head, None)
        elif isinstance(first, LowRank) and second is None:
            self._placed[head] = _nothing(first)
        elif isinstance(first, LowRank) and isinstance(second, LowRank) and _is_mirrored(first, second):
            del self._placed[head]

    def _check_room(self) -> None:
        """Refuse what could not be put beside the adapters that the model has, before any of it is."""
        standing = {name: module for name, module in self._base.standing.items() if isinstance(module, Adapted)}
        outer = tuple(f"{name}." for name in {*standing, *self._placed})
        for name, placed in self._placed.items():
            is_whole = isinstance(placed, TrainedCopy)
            is_other = name in standing and isinstance(standing[name], AdaptedWhole) != is_whole
            holds = is_whole and any(inner.startswith(f"{name}.") for inner in standing)
            if is_other or holds or name.startswith(outer):
                raise self._no_room(name)
        head = self._base.head
        serves = self._base.is_tied and isinstance(self._placed.get(str(self._base.embedding)), LowRank)
        if serves and isinstance(standing.get(str(head)), AdaptedWhole):
            raise self._no_room(str(head))

    # ---- complaints

    @property
    def _made_for(self) -> str:
        here = f", and this is {self._base.name}" if self._base.name else ""
        return f"made for {self._settings.base_model or 'an unnamed model'}{here}"

    def _no_room(self, module: str) -> AdapterError:
        return AdapterError(
            f"The adapter cannot stand beside another one that trains {module} as a whole or as a part of it",
            self._made_for,
            "Use one of them at a time",
        )

    def _other_base(self, difference: str) -> AdapterError:
        title = f"The adapter is for another base model: {difference}"
        return AdapterError(title, self._made_for, "Choose the base it was trained on")

    def _incomplete(self, title: str) -> AdapterError:
        return AdapterError(title, self._made_for, "Export it again, or choose the base it was trained on")


def _sizes(shape: LinearShape, base: nn.Module) -> tuple[int, ...]:
    """The layer's output features and A's shape behind r."""
    if shape.kind == "conv":
        weight: Any = base.weight
        return tuple(weight.shape)
    return shape.out_features, shape.in_features


def _times(sizes: tuple[int, ...]) -> str:
    return "×".join(map(str, sizes))


def _is_mirrored(embedding: LowRank, head: LowRank) -> bool:
    """Whether the head's ΔW is the embedding's, transposed, factor by factor."""
    same = torch.equal(head.a, embedding.b.t()) and torch.equal(head.b, embedding.a.t())
    return same and head.scale == embedding.scale and head.magnitude is None and embedding.magnitude is None


def _nothing(embedding: LowRank) -> LowRank:
    """An update of the tied head that changes nothing, and keeps the embedding's away from it."""
    vocabulary, width = embedding.a.shape[1], embedding.b.shape[0]
    return LowRank(embedding.a.new_zeros(1, width), embedding.a.new_zeros(vocabulary, 1), alpha=1.0)
