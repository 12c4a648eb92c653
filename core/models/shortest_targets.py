"""The shortest way to say which layers are adapted: from a set of modules to `targets` and `layers`.

`core.models.targets` reads targets; this is the way back, for a page on which modules are checked one by one. What is
checked is a set of names: a module's dotted name, or that with `:part` for a part of a fused matrix.

A target names every module whose name ends with it, so what two targets name is either apart or one within the other.
For each checked module, the shortest ending that names checked modules alone is therefore one of the fewest targets
there can be; `auto` and `all-linear`, which are no endings, are tried first. Blocks that are left out can be said by
`layers` as well: whichever takes fewer targets is taken.

A module whose whole name is the end of another's cannot be named alone. Then both are said, as the engine would take
them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from core.config import ALL_LINEAR, AUTO_TARGETS
from core.models.shapes import LinearShape
from core.models.targets import block_of, is_meant, match, parts

Said = tuple[tuple[str, ...], tuple[int, ...] | None]


def targets_and_layers(checked: Collection[str], shapes: Sequence[LinearShape]) -> Said:
    """The fewest targets, and the layers they are narrowed to, that mean `checked`; no targets where nothing is.

    Args:
        checked: names of `shapes`, or parts of them. A part counts for nothing beside its whole.
    """
    whole = {name for name in checked if ":" not in name}
    wanted = whole | {name for name in checked if name.partition(":")[0] not in whole}
    everywhere = _fewest(wanted, shapes)
    blocks = {block_of(name.partition(":")[0]) for name in wanted}
    layers = tuple(sorted(block for block in blocks if block is not None))
    if not layers or None in blocks:
        return everywhere, None
    narrowed = _fewest(wanted, [shape for shape in shapes if block_of(shape.name) in layers])
    return (narrowed, layers) if len(narrowed) < len(everywhere) else (everywhere, None)


def meant(targets: tuple[str, ...], layers: tuple[int, ...] | None, shapes: Sequence[LinearShape]) -> frozenset[str]:
    """What these settings adapt, as names in the form that `targets_and_layers` takes.

    Raises:
        ConfigError: as `core.models.targets.match`.
    """
    found: set[str] = set()
    for shape in match(targets, shapes, layers):
        pieces = parts(targets, shape)
        found |= {f"{shape.name}:{part}" for part in pieces} or {shape.name}
    return frozenset(found)


def _fewest(wanted: set[str], shapes: Sequence[LinearShape]) -> tuple[str, ...]:
    """The fewest targets that mean `wanted` and nothing else of `shapes`."""
    endings = _shortest_endings(wanted, shapes)
    choices: list[tuple[str, ...]] = []
    for broad in (AUTO_TARGETS, ALL_LINEAR):
        names = {shape.name for shape in shapes if is_meant(broad, shape)}
        if names and names <= wanted:
            rest = (ending for name, ending in endings.items() if name not in names)
            choices.append((broad, *dict.fromkeys(rest)))
    return min([*choices, tuple(dict.fromkeys(endings.values()))], key=len)


def _shortest_endings(wanted: set[str], shapes: Sequence[LinearShape]) -> dict[str, str]:
    """For each of `wanted`, in the model's order, the shortest ending that names, of `shapes`, what is wanted alone."""
    there = Counter(ending for shape in shapes for ending in _endings_of(shape.name))
    asked: Counter[str] = Counter()
    for name in wanted:
        module, colon, part = name.partition(":")
        asked.update(f"{ending}{colon}{part}" for ending in _endings_of(module))
    order = {shape.name: at for at, shape in enumerate(shapes)}
    found: dict[str, str] = {}
    for name in sorted(wanted, key=lambda name: (order.get(name.partition(":")[0], len(order)), name)):
        module, colon, part = name.partition(":")
        found[name] = next(
            f"{ending}{colon}{part}"
            for ending in _endings_of(module)
            if asked[f"{ending}{colon}{part}"] == there[ending] or ending == module
        )
    return found


def _endings_of(name: str) -> Iterator[str]:
    """The ends of a dotted name, the shortest first. One that would begin with a block's number gets the word before
    it, as in `layers.3.mlp.up_proj`.
    """
    pieces = name.split(".")
    for start in range(len(pieces) - 1, -1, -1):
        if start == 0 or not pieces[start].isdecimal():
            yield ".".join(pieces[start:])
