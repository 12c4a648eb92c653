"""Put adapters into a model, choose among them, take them out again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.adapters.begin import device_of, new_expert_update, new_update
from core.adapters.conv import LoraConv
from core.adapters.copies import AdaptedWhole, TrainedCopy
from core.adapters.embedding import LoraEmbedding
from core.adapters.experts import LoraExperts, expert_matrices
from core.adapters.layer import Adapted, LoraLayer, Mix
from core.adapters.linear import LoraLinear
from core.adapters.lowrank import BiasOnly, LowRank, TokenRows
from core.adapters.plan import Placement, Plan, plan
from core.config import LoraConfig
from core.errors import AdapterError
from core.models.linears import base_modules, is_tied, output_head


def inject(
    model: nn.Module,
    config: LoraConfig,
    *,
    key: str,
    seed: int,
    bias_only: bool = False,
    tokens: Sequence[int] = (),
    directions: Mapping[str, Tensor] | None = None,
    originals: Mapping[str, Tensor] | None = None,
) -> tuple[str, ...]:
    """Give every layer that `config` names a fresh update called `key`, and freeze all else.

    Args:
        bias_only: train every bias and nothing else (BitFit).
        tokens: the ids of tokens whose embedding is trained.
        directions: for the start `eva`, `[r, in]` by layer name. originals: for `loftq`, the weights `[out, in]` from
            before they were quantized.

    Returns:
        The adapted modules' names, in model order.

    Raises:
        ConfigError: a setting names nothing, or does not fit the model; nothing was changed.
        AdapterError: an embedding would be adapted in two ways; nothing was changed.
    """
    what = plan(model, config, bias_only=bias_only)
    _check_tokens(model, what, tokens)
    begin = _Beginning(config, torch.Generator().manual_seed(seed), directions or {}, originals or {})
    updates = [begin.update(model, placement) for placement in what.placements]  # a start that cannot be had is refused
    model.requires_grad_(False)
    for placement, update in zip(what.placements, updates, strict=True):
        _put(model, placement, key, update)
    for name in what.whole:
        layer = wrap(model, name, whole=True)
        layer.adapters[key] = TrainedCopy(layer.base)
    for name in what.biases:
        _train_bias(model, name, key)
    if tokens:
        _train_tokens(model, tokens, key)
    _share_whole_ends(model, key)
    return tuple(name for name, layer in lora_layers(model).items() if layer.has(key))


@dataclass(frozen=True, slots=True)
class _Beginning:
    """What fresh updates are drawn from; see `inject`."""

    config: LoraConfig
    generator: torch.Generator
    directions: Mapping[str, Tensor]
    originals: Mapping[str, Tensor]

    def update(self, model: nn.Module, placement: Placement) -> LowRank:
        """The update for one layer of `model`, which stays as it is."""
        name = placement.shape.name
        if placement.shape.kind == "experts":
            experts = model.get_submodule(name.rpartition(".")[0])
            device = device_of(experts.base if isinstance(experts, LoraExperts) else experts)
            return new_expert_update(placement, self.config, self.generator, device)
        found = model.get_submodule(name)
        layer = found if isinstance(found, Adapted) else _layer_around(found, name)
        assert isinstance(layer, LoraLayer)
        seen = {"directions": self.directions.get(name), "original": self.originals.get(name)}
        return new_update(layer, placement, self.config, self.generator, **seen)


def _put(model: nn.Module, placement: Placement, key: str, update: LowRank) -> None:
    name = placement.shape.name
    if placement.shape.kind == "experts":
        module, _, matrix = name.rpartition(".")
        experts = wrap(model, module)
        assert isinstance(experts, LoraExperts)
        experts.put(key, matrix, update)
    else:
        wrap(model, name).adapters[key] = update


def _train_bias(model: nn.Module, name: str, key: str) -> None:
    found = model.get_submodule(name)
    if isinstance(found, LoraLinear) or (not isinstance(found, Adapted) and _wrapper(found) is LoraLinear):
        layer = wrap(model, name)
        layer.adapters[key] = BiasOnly(layer.base.bias, layer.in_features)  # type: ignore[arg-type]
    else:
        layer = wrap(model, name, whole=True)
        layer.adapters[key] = TrainedCopy(layer.base, ["bias"])


def _check_tokens(model: nn.Module, what: Plan, tokens: Sequence[int]) -> None:
    if not tokens:
        return
    name, embedding = _embedding(model)
    if isinstance(embedding, AdaptedWhole) or name in what.whole:
        raise AdapterError("An embedding is trained whole or at chosen tokens, not both")
    if any(placement.shape.name == name for placement in what.placements):
        raise AdapterError("An embedding takes new tokens or a low-rank update, not both")
    head = output_head(model)
    if is_tied(model) and any(model.get_submodule(owner) is head for owner in what.biases):
        raise AdapterError("New tokens cannot be trained beside the bias of a tied output head")


def _train_tokens(model: nn.Module, tokens: Sequence[int], key: str) -> None:
    layer = wrap(model, _embedding(model)[0])
    assert isinstance(layer, LoraEmbedding)
    ids = torch.tensor(list(tokens), device=layer.weight.device)
    change = torch.zeros(len(tokens), layer.out_features, device=ids.device)
    layer.adapters[key] = TokenRows(ids, change, layer.in_features)


def _embedding(model: nn.Module) -> tuple[str, nn.Module]:
    embedding: nn.Module = model.get_input_embeddings()  # type: ignore[operator]
    return next(name for name, module in base_modules(model) if module is embedding), embedding


def wrap(model: nn.Module, name: str, *, whole: bool = False) -> Adapted:
    """The adapted layer at `name`, put around the module there if there is none yet; a tied head comes along.

    Raises:
        AdapterError: the module is of no kind that can carry an update, or is adapted in the other way already.
    """
    found = model.get_submodule(name)
    if isinstance(found, Adapted):
        if isinstance(found, AdaptedWhole) != whole:
            raise AdapterError(f"{name} is trained whole by one adapter and in part by another")
        return found
    layer = AdaptedWhole(found) if whole else _layer_around(found, name)
    is_tied_end = isinstance(layer, LoraEmbedding) and _is_tied_end(model, found)
    tied_head = output_head(model) if is_tied_end else None
    _replace(model, name, layer)
    if tied_head is not None and isinstance(layer, LoraLayer):
        _let_follow(model, tied_head, layer)
    return layer


def _let_follow(model: nn.Module, head: nn.Module, embedding: LoraLayer) -> None:
    """Let the tied `head` take what `embedding` learns."""
    if isinstance(head, LoraLinear):  # an adapter of the head alone came first
        head.follow(embedding)
    elif not isinstance(head, Adapted):
        name = next(other for other, module in base_modules(model) if module is head)
        _replace(model, name, LoraLinear(head, tied=embedding))


def _layer_around(module: nn.Module, name: str) -> Adapted:
    kind = _wrapper(module)
    if kind is None:
        raise AdapterError(f"{name} is a {type(module).__name__}, which cannot carry a low-rank update")
    return kind(module)


def _wrapper(module: nn.Module) -> type[LoraLinear | LoraEmbedding | LoraConv | LoraExperts] | None:
    if expert_matrices(module):
        return LoraExperts
    if isinstance(module, nn.Embedding):
        return LoraEmbedding
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        return LoraConv if module.groups == 1 else None
    has_sizes = hasattr(module, "in_features") or hasattr(module, "nf")
    return LoraLinear if has_sizes else None


def _is_tied_end(model: nn.Module, module: nn.Module) -> bool:
    return is_tied(model) and module is model.get_input_embeddings()  # type: ignore[operator]


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent_name, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent_name), child, module)


def _share_whole_ends(model: nn.Module, key: str) -> None:
    """Where embedding and head are tied and one is trained whole, let the other use the same trained weight."""
    if not is_tied(model):
        return
    ends = [model.get_input_embeddings(), output_head(model)]  # type: ignore[operator]
    trained = [end for end in ends if isinstance(end, AdaptedWhole) and end.has(key)]
    if not trained:
        return
    first = trained[0].copy_of(key)
    assert first is not None
    for end in ends:
        name = next(name for name, module in model.named_modules() if module is end)
        layer = wrap(model, name, whole=True)
        if not layer.has(key):
            layer.adapters[key] = TrainedCopy(layer.base)
        layer.adapters[key].module.weight = first.module.weight  # type: ignore[union-attr]


def lora_layers(model: nn.Module) -> dict[str, Adapted]:
    """Every adapted layer of `model` by the name of the module that it stands for, in model order."""
    return {name: module for name, module in base_modules(model) if isinstance(module, Adapted)}


def require(model: nn.Module, key: str) -> None:
    """Refuse a key that would match nothing, which looks like the base model and is a mistake.

    Raises:
        AdapterError: no layer of `model` has an adapter called `key`.
    """
    if not any(layer.has(key) for layer in lora_layers(model).values()):
        raise AdapterError(f"No adapter {key} is loaded", hint="Load it first")


def activate(model: nn.Module, key: str | None) -> None:
    """Let every row of every batch use the adapter `key`, or the base alone where None.

    Raises:
        AdapterError: `key` names no adapter of `model`.
    """
    if key is not None:
        require(model, key)
    for layer in lora_layers(model).values():
        layer.active = key


def remove(model: nn.Module, key: str) -> None:
    """Take the adapter `key` out; layers that no adapter needs any more become the plain base layer again."""
    layers = lora_layers(model)
    for layer in layers.values():
        if key in layer.adapters:
            del layer.adapters[key]
    for name, layer in layers.items():
        if layer.is_bare():
            _replace(model, name, layer.base)


@contextmanager
def routed(model: nn.Module, rows: Sequence[str | None | Mix], dtype: torch.dtype) -> Iterator[None]:
    """Within the block, row i of every batch uses `rows[i]`: an adapter's key, None (the base), or a mix.

    A batch may have a multiple of that many rows, as beam search makes it; neighbors then share a mix. One mix alone
    serves batches of any size.

    Raises:
        AdapterError: a key names no adapter of `model`.
    """
    routing = Routing(model, dtype)
    try:
        routing.use(rows)
        yield
    finally:
        routing.end()


class Routing:
    """Lets the rows of `model` use adapters of their own, and others from batch to batch, until it ends: layers keep
    what they made of each mix until then. Meanwhile no adapter may be put in, taken out or changed.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        self._model, self._dtype = model, dtype
        self._layers = list(lora_layers(model).values())
        self._actives = [layer.active for layer in self._layers]

    def use(self, rows: Sequence[str | None | Mix]) -> None:
        """As `routed`, from now on. Raises: AdapterError."""
        mixes = tuple(as_mix(row) for row in rows)
        for key in {key for mix in mixes for key, _ in mix}:
            require(self._model, key)
        for layer in self._layers:
            layer.route(mixes, self._dtype)
            layer.active = None

    def end(self) -> None:
        """Leave the model as it was."""
        for layer, active in zip(self._layers, self._actives, strict=True):
            layer.route(None, self._dtype)
            layer.active = active


def as_mix(row: str | None | Mix) -> Mix:
    """What a row of `routed` may be, as adapters with their strengths; none for the base."""
    if row is None:
        return ()
    return ((row, 1.0),) if isinstance(row, str) else row
