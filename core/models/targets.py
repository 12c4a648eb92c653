"""Which layers a list of targets means.

A target is the last part of a module's dotted name (`q_proj`) or more of its parts (`self_attn.q_proj`,
`layers.3.mlp.up_proj`), compared literally, part by part: never a regular expression, so no target can be crafted
that takes forever. `auto` means every linear layer of the repeated blocks, and `all-linear` those outside them as well;
embeddings, the output head, convolutions and experts are meant by name alone. What follows a colon is a part of a
fused projection (`qkv_proj:v`). Patterns, which give some layers a rank of their own, name layers in the same way.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TypeVar

from core.config import ALL_LINEAR, AUTO_TARGETS
from core.errors import ConfigError
from core.models.shapes import LinearShape

_Value = TypeVar("_Value")


def match(
    targets: tuple[str, ...], shapes: Sequence[LinearShape], layers: tuple[int, ...] | None = None
) -> tuple[LinearShape, ...]:
    """The layers of `shapes` that some target names, each once, in the order of `shapes`; of the blocks `layers` alone.

    Raises:
        ConfigError: on `lora.targets` or `lora.layers`, where one names none of them.
    """
    for target in targets:
        if not any(is_meant(target, shape) for shape in shapes):
            raise _no_match(target, suggestions(shapes), "lora.targets")
    matched = tuple(shape for shape in shapes if any(is_meant(target, shape) for target in targets))
    return matched if layers is None else _in_blocks(matched, layers)


def parts(targets: tuple[str, ...], shape: LinearShape) -> tuple[str, ...]:
    """The parts of the fused layer `shape` that `targets` ask for; none where some target asks for the whole."""
    naming = [target for target in targets if is_meant(target, shape)]
    if any(":" not in target for target in naming):
        return ()
    return tuple(dict.fromkeys(target.partition(":")[2] for target in naming))


def suggestions(shapes: Sequence[LinearShape]) -> tuple[str, ...]:
    """The last parts of the layers' names (`q_proj`, `k_proj`, …), each once, in the order of `shapes`."""
    return tuple(dict.fromkeys(_last_part(shape.name) for shape in shapes))


def pattern_values(
    pattern: Mapping[str, _Value], default: _Value, shapes: Sequence[LinearShape], field: str
) -> dict[str, _Value]:
    """For each layer's name what the first key of `pattern` that names it says, else `default`.

    Raises:
        ConfigError: on `field`, where a key names none of `shapes`.
    """
    for key in pattern:
        if not any(names(key, shape.name) for shape in shapes):
            raise _no_match(key, suggestions(shapes), field, what="adapted module")
    return {
        shape.name: next((value for key, value in pattern.items() if names(key, shape.name)), default)
        for shape in shapes
    }


def check_rank(rank: int, shapes: Sequence[LinearShape]) -> None:
    """Refuse a rank above what the smallest layer can hold: B A has no rank beyond min(in, out).

    Raises:
        ConfigError: on `lora.rank`.
    """
    smallest = min(shapes, key=_largest_rank, default=None)
    if smallest is None or rank <= _largest_rank(smallest):
        return
    raise ConfigError(
        f"Rank {rank} is too large for {smallest.name}",
        f"it maps {smallest.in_features} features to {smallest.out_features}",
        f"Choose a rank of at most {_largest_rank(smallest)}, or leave {_last_part(smallest.name)} out of the targets",
        field="lora.rank",
    )


def not_skipped(layers: Sequence[str], skip: Sequence[str]) -> list[str]:
    """Those of the dense `layers` (their names) that quantization is to take: all that nothing in `skip` names.

    Raises:
        ConfigError: on `quant.skip`, where something in it names none of the layers, or it names all of them.
    """
    for pattern in skip:
        if not any(names(pattern, name) for name in layers):
            known = dict.fromkeys(name.rpartition(".")[2] for name in layers)
            raise ConfigError(
                f"Skip {pattern!r} matches no layer that would be quantized",
                hint=f"Choose from {', '.join(known)}",
                field="quant.skip",
            )
    rest = [name for name in layers if not any(names(pattern, name) for pattern in skip)]
    if skip and not rest:
        raise ConfigError(
            "Every layer is skipped, so nothing would be quantized",
            ", ".join(skip),
            "Skip fewer layers, or choose 16 bits",
            "quant.skip",
        )
    return rest


def names(target: str, name: str) -> bool:
    """Whether `target` is the whole of the dotted `name` or its last parts."""
    return name == target or (target != "" and name.endswith(f".{target}"))


def is_meant(target: str, shape: LinearShape) -> bool:
    """Whether `target`, a part of a fused layer aside, means the layer `shape`."""
    if target == ALL_LINEAR:
        return shape.kind == "linear"
    if target == AUTO_TARGETS:
        return shape.kind == "linear" and block_of(shape.name) is not None
    return names(target.partition(":")[0], shape.name)


def block_of(name: str) -> int | None:
    """The number of the repeated block that a module lies in; None outside them."""
    return next((int(part) for part in name.split(".") if part.isdecimal()), None)


def _in_blocks(shapes: Sequence[LinearShape], layers: tuple[int, ...]) -> tuple[LinearShape, ...]:
    known = sorted({block for shape in shapes if (block := block_of(shape.name)) is not None})
    for layer in layers:
        if layer not in known:
            there = f"Choose from {known[0]} to {known[-1]}" if known else "Leave the choice of layers empty"
            raise ConfigError(f"The targets name nothing in layer {layer}", hint=there, field="lora.layers")
    return tuple(shape for shape in shapes if block_of(shape.name) in layers)


def _no_match(target: str, known: tuple[str, ...], field: str, what: str = "module of this model") -> ConfigError:
    if not known:
        return ConfigError("This model has no linear layers to adapt", hint="Choose another model", field=field)
    close = difflib.get_close_matches(target, known, n=1)
    detail = f"did you mean {close[0]}?" if close else ""
    kind = "Target" if field == "lora.targets" else "Pattern"
    return ConfigError(f"{kind} {target!r} matches no {what}", detail, f"Choose from {', '.join(known)}", field)


def _largest_rank(shape: LinearShape) -> int:
    return min(shape.in_features, shape.out_features)


def _last_part(name: str) -> str:
    return name.rpartition(".")[2]
