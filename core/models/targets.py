"""Which linear layers a list of targets means.

A target is the last part of a module's dotted name (`q_proj`) or more of its parts (`self_attn.q_proj`,
`layers.3.mlp.up_proj`), compared literally, part by part: never a regular expression, so no target can be crafted
that takes forever. `auto` means every linear layer of the repeated blocks, and `all-linear` those outside them as well.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from core.config import ALL_LINEAR, AUTO_TARGETS
from core.errors import ConfigError
from core.models.shapes import LinearShape


def match(targets: tuple[str, ...], shapes: Sequence[LinearShape]) -> tuple[LinearShape, ...]:
    """The layers of `shapes` that some target names, each once, in the order of `shapes`.

    Raises:
        ConfigError: on `lora.targets`, where a target names none of them.
    """
    for target in targets:
        if not any(_is_meant(target, shape.name) for shape in shapes):
            raise _no_match(target, suggestions(shapes))
    return tuple(shape for shape in shapes if any(_is_meant(target, shape.name) for target in targets))


def suggestions(shapes: Sequence[LinearShape]) -> tuple[str, ...]:
    """The last parts of the layers' names (`q_proj`, `k_proj`, …), each once, in the order of `shapes`."""
    return tuple(dict.fromkeys(_last_part(shape.name) for shape in shapes))


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


def _is_meant(target: str, name: str) -> bool:
    if target == ALL_LINEAR:
        return True
    if target == AUTO_TARGETS:
        return any(part.isdecimal() for part in name.split("."))
    return name == target or (target != "" and name.endswith(f".{target}"))


def _no_match(target: str, known: tuple[str, ...]) -> ConfigError:
    if not known:
        return ConfigError(
            "This model has no linear layers to adapt", hint="Choose another model", field="lora.targets"
        )
    close = difflib.get_close_matches(target, known, n=1)
    detail = f"did you mean {close[0]}?" if close else ""
    return ConfigError(
        f"Target {target!r} matches no module of this model", detail, f"Choose from {', '.join(known)}", "lora.targets"
    )


def _largest_rank(shape: LinearShape) -> int:
    return min(shape.in_features, shape.out_features)


def _last_part(name: str) -> str:
    return name.rpartition(".")[2]
