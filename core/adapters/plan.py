"""What an adapter's settings mean for one model, found and checked before anything is changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from core.adapters.copies import AdaptedWhole
from core.adapters.layer import Adapted
from core.checks import check_layers
from core.config import LoraConfig
from core.errors import ConfigError
from core.models.fused import fused_parts
from core.models.linears import base_modules, find_layers, input_embedding, is_tied, output_head
from core.models.shapes import LinearShape
from core.models.targets import check_rank, match, names, parts, pattern_values


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """One layer's update: its rank and alpha, and the parts of a fused layer that it is for (all where empty)."""

    shape: LinearShape
    rank: int
    alpha: float
    parts: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Where updates go, the modules that are trained whole, and the modules whose bias alone is trained."""

    placements: tuple[Placement, ...]
    whole: tuple[str, ...]
    biases: tuple[str, ...]


def plan(model: nn.Module, config: LoraConfig, *, bias_only: bool = False) -> Plan:
    """What `config` asks of `model`; with `bias_only` (BitFit) every bias and nothing else.

    Raises:
        ConfigError: a target, pattern, layer, part or module names nothing, a rank is above a matrix, or two settings
            contradict each other.
    """
    whole = _whole(model, config.modules_to_save)
    if bias_only:
        return Plan(placements=(), whole=whole, biases=_biases(model, whole))
    shapes = tuple(shape for shape in find_layers(model) if not _lies_in(shape.name, whole))
    chosen = match(config.targets, shapes, config.layers)
    tied, embedding = is_tied(model), input_embedding(model)
    its_name = next((name for name, module in base_modules(model) if module is embedding), None)
    check_layers(config, chosen, is_tied=tied, input_embedding=its_name)
    if tied:
        chosen = _untie(model, chosen, shapes)
        _check_head_bias(model, chosen, config)
    ranks = pattern_values(config.rank_pattern, config.rank, chosen, "lora.rank_pattern")
    alphas = pattern_values(config.alpha_pattern, config.alpha, chosen, "lora.alpha_pattern")
    for shape in chosen:
        check_rank(ranks[shape.name], [shape])
    placements = tuple(
        Placement(
            shape=shape,
            rank=ranks[shape.name],
            alpha=alphas[shape.name],
            parts=_parts(model, shape, config),
        )
        for shape in chosen
    )
    taken = {*(shape.name for shape in chosen), *whole}
    return Plan(placements=placements, whole=whole, biases=_biases(model, taken) if config.bias == "all" else ())


def _whole(model: nn.Module, wanted: Sequence[str]) -> tuple[str, ...]:
    """Full names of the modules that `wanted` names; the outermost where one lies in another."""
    every = [name for name, module in base_modules(model) if name and next(module.parameters(), None) is not None]
    for name in wanted:
        if not any(names(name, module) for module in every):
            known = dict.fromkeys(module.rpartition(".")[2] for module in every if not module[-1].isdecimal())
            raise ConfigError(
                f"No module of this model is called {name}",
                hint=f"Choose from {', '.join(known)}",
                field="lora.modules_to_save",
            )
    found = [module for module in every if any(names(name, module) for name in wanted)]
    outermost = tuple(module for module in found if not _lies_in(module, set(found) - {module}))
    for name in outermost:
        module = model.get_submodule(name)
        if not isinstance(module, AdaptedWhole) and any(isinstance(inner, Adapted) for inner in module.modules()):
            raise ConfigError(
                f"{name} cannot be trained whole",
                "another adapter adapts it in part",
                "Take that adapter out first",
                field="lora.modules_to_save",
            )
    return outermost


def _lies_in(name: str, outer: Sequence[str] | set[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in outer)


def _untie(model: nn.Module, chosen: Sequence[LinearShape], shapes: Sequence[LinearShape]) -> tuple[LinearShape, ...]:
    """`chosen`, where the tied head and its embedding are one layer, the embedding's; whichever of them was named."""
    embedding = input_embedding(model)
    ends = [shape for shape in shapes if model.get_submodule(shape.name) is embedding]
    others = [shape for shape in chosen if shape.kind != "head" and shape not in ends]
    return (*ends, *others) if len(others) < len(chosen) else tuple(chosen)


def _check_head_bias(model: nn.Module, chosen: Sequence[LinearShape], config: LoraConfig) -> None:
    """A tied head follows its embedding, or has a trained bias of its own; one layer holds one update an adapter."""
    has_bias = getattr(output_head(model), "bias", None) is not None
    if has_bias and config.bias == "all" and any(shape.kind == "embedding" for shape in chosen):
        raise ConfigError(
            "The output head is tied to the embedding and has a bias, and they cannot both be trained",
            hint="Leave the embedding out of the targets, or train the biases of adapted layers alone",
            field="lora.bias",
        )


def _parts(model: nn.Module, shape: LinearShape, config: LoraConfig) -> tuple[Tensor, ...]:
    wanted = parts(config.targets, shape)
    if not wanted:
        return ()
    known = fused_parts(model.config, shape.name, shape.out_features)
    for part in wanted:
        if part not in known:
            leaf = shape.name.rpartition(".")[2]
            raise ConfigError(
                f"{leaf} has no part {part!r}",
                "" if known else "it is not known as several matrices in one",
                f"Choose from {', '.join(f'{leaf}:{name}' for name in known)}" if known else f"Adapt {leaf} as a whole",
                field="lora.targets",
            )
    return tuple(known[part] for part in wanted)


def _biases(model: nn.Module, taken: set[str] | Sequence[str]) -> tuple[str, ...]:
    """Modules with a bias of their own that are not in `taken`.

    Raises:
        ConfigError: the model has no biases.
    """
    biases = {name: getattr(module, "bias", None) for name, module in base_modules(model)}
    inner = {id(bias): name for name, bias in biases.items() if bias is not None}  # where two modules name one bias
    owners = list(inner.values())
    if not owners:
        kind = getattr(model.config, "model_type", "this")
        raise ConfigError(
            f"Models of the kind {kind} have no biases to train",
            hint="Choose LoRA, or a base model with biases, such as GPT-2, OPT or BERT",
            field="lora.bias",
        )
    return tuple(name for name in owners if not _lies_in(name, taken))
