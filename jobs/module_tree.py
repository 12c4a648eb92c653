"""A model's own modules as a tree, read from its files: what can be adapted, how large it is, and why the rest cannot.

Blocks that are alike are one row: `layers 0-29` with the modules of any one of them inside, whose `path` has a `*` in
place of the block's number. A row stands for all of its modules at once; `modules_of` names them one by one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from core.models import shortest_targets
from core.models.shapes import LinearShape
from jobs import lists
from jobs.blueprint import HEADS, LM_HEAD, Blueprint

NodeKind = Literal[
    "model", "group", "blocks", "linear", "head", "embedding", "conv", "experts", "part", "norm", "other",
]  # fmt: skip

TARGET_KINDS = ("linear", "head", "embedding", "conv", "experts", "part")
ANY = "*"
_VECTOR = "a vector, where LoRA needs a matrix"
_NO_HEAD = "a classifier has none; its own head is trained whole"
_OWN_HEAD = "the classifier's own head, trained whole"
_ROUTER = "it deals tokens out to the experts, and is no plain layer in the loaded model"
_POSITIONS = "it works out its positions itself, so no update could be looked up"
_BY_CHANNEL = "it works on each channel by itself, so there is no matrix"
_UNKNOWN = "no layer that can carry an adapter"
_CLASS_HEADS = ("classifier", "score")
_ROUTERS = ("gate", "router")


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One row of the tree.

    `path` is a module's dotted name, with `*` for each block number that the row leaves open, and `:part` for a part of
    a fused matrix. `shape` is what goes in and out, of a vector its length, of what has modules inside nothing. `count`
    is for how many modules the row stands, `parameters` what these have together, and `per_rank` how many numbers A and
    B of one of them have for each rank: in + out. `numbers` are the blocks of a row of kind `blocks`. A head is
    `tied_to` the embedding whose weight it shares. `reason` says why a module can be no target; it is empty for those
    that can.
    """

    name: str
    path: str
    kind: NodeKind
    shape: tuple[int, ...] = ()
    parameters: int = 0
    children: tuple[Node, ...] = ()
    count: int = 1
    numbers: tuple[int, ...] = ()
    per_rank: int = 0
    tied_to: str = ""
    reason: str = ""

    @property
    def is_target(self) -> bool:
        """Whether the row itself, not only what is inside it, can carry adapters."""
        return self.kind in TARGET_KINDS and not self.reason


@dataclass(slots=True)
class _Module:
    """A place in the tree while it is put together: what its own tensors hold, and the modules inside it."""

    inside: dict[str, _Module] = field(default_factory=dict)
    layer: LinearShape | None = None
    sizes: list[tuple[int, ...]] = field(default_factory=list)
    order: int = 0


def module_tree(blueprint: Blueprint, *, has_head: bool = True) -> Node:
    """The modules of the model that `blueprint` describes: the root, with all others inside.

    Args:
        has_head: whether the model is loaded with a head over the vocabulary; a classifier is not.
    """
    root = _Module()
    layers = blueprint.layers(has_head=True)
    for at, layer in enumerate(_in_order(layers)):
        place = _place(root, layer.name)
        place.layer, place.order = layer, at
    known, has_experts = {layer.name for layer in layers}, any(layer.kind == "experts" for layer in layers)
    for name, sizes in blueprint.tensors.items():
        module = name if name in known else _module_of(name, has_experts=has_experts)
        if module is not None:
            _place(root, module, order=len(layers)).sizes.append(sizes)
    rows = _Rows(blueprint, has_head=has_head, has_experts=has_experts)
    children = _without_wrapper(rows.children(root, ""))
    return Node(name="", path="", kind="model", parameters=_sum(children), children=children)


def modules_of(tree: Node) -> dict[str, tuple[str, ...]]:
    """For each row that can be a target, by its path, the modules it stands for, in their order."""
    return dict(_walk(tree, ()))


def layers_of(tree: Node) -> tuple[LinearShape, ...]:
    """Every layer of the tree that can be a target, as `core.models.targets` takes them."""
    modules = modules_of(tree)
    return tuple(
        LinearShape(name=name, in_features=row.shape[0], out_features=row.shape[1], kind=row.kind)
        for row in _rows(tree)
        if row.is_target and row.kind in ("linear", "head", "embedding", "conv", "experts")
        for name in modules[row.path]
    )


def targets_of(checked: Collection[str], tree: Node) -> shortest_targets.Said:
    """The fewest `targets` and the `layers` that mean just the modules `checked`; no targets where none is."""
    return shortest_targets.targets_and_layers(checked, layers_of(tree))


def checked_of(targets: tuple[str, ...], layers: tuple[int, ...] | None, tree: Node) -> frozenset[str]:
    """The modules of the tree that these settings adapt, and parts of them.

    Raises:
        ConfigError: on `lora.targets` or `lora.layers`, where one names nothing in this model.
    """
    return shortest_targets.meant(targets, layers, layers_of(tree))


def _in_order(layers: Sequence[LinearShape]) -> list[LinearShape]:
    """Embeddings, then what is in between as the model computes it, then the head."""
    rank = {"embedding": 0, "head": 2}
    return sorted(layers, key=lambda layer: rank.get(layer.kind, 1))


def _module_of(tensor: str, *, has_experts: bool) -> str | None:
    """The module that holds a tensor; None for a tensor that becomes a part of the experts' joint weights."""
    module = tensor.rpartition(".")[0]
    pieces = tensor.split(".")
    if any(piece == "experts" and after.isdecimal() for piece, after in itertools.pairwise(pieces)):
        return None
    if pieces[-2:-1] and pieces[-2] in HEADS:
        return LM_HEAD
    return module.replace("block_sparse_moe", "mlp") if has_experts else module


def _place(root: _Module, name: str, order: int = 0) -> _Module:
    """Where the module `name` is in the tree, made where it is not there yet."""
    place = root
    for piece in name.split(".") if name else ():
        place = place.inside.setdefault(piece, _Module(order=order))
    return place


class _Rows:
    """Turns places into rows."""

    def __init__(self, blueprint: Blueprint, *, has_head: bool, has_experts: bool) -> None:
        self._blueprint = blueprint
        self._has_head = has_head
        self._has_experts = has_experts
        embedding = blueprint.input_embedding
        self._tied_to = embedding.name if embedding is not None and blueprint.is_tied else ""

    def children(self, place: _Module, path: str) -> tuple[Node, ...]:
        """The rows inside a place: targets in the order of the computation, then what can be none."""
        inside = sorted(place.inside.items(), key=lambda item: _order(item[1]))
        rows = [self.row(name, found, f"{path}.{name}" if path else name) for name, found in inside]
        return _folded(rows, path)

    def row(self, name: str, place: _Module, path: str) -> Node:
        """A place as a row, with what is inside it."""
        if place.layer is not None:
            return self._layer(name, place, place.layer, path)
        children = self.children(place, path)
        own = sum(math.prod(sizes) for sizes in place.sizes)
        if not children:
            kind, reason = self._no_target(path, place.sizes)
            shape = place.sizes[0] if len(place.sizes) == 1 or kind == "norm" else ()
            return Node(name=name, path=path, kind=kind, shape=shape, parameters=own, reason=reason)
        node = Node(name=name, path=path, kind="group", parameters=own + _sum(children), children=children)
        return _joined(node)

    def _layer(self, name: str, place: _Module, layer: LinearShape, path: str) -> Node:
        is_missing = layer.kind == "head" and not self._has_head
        own = sum(math.prod(sizes) for sizes in place.sizes)
        sides = layer.in_features + layer.out_features
        node = Node(
            name=name,
            path=path,
            kind=layer.kind,
            shape=(layer.in_features, layer.out_features, *([layer.experts] if layer.experts > 1 else ())),
            parameters=_joint_size(layer) if layer.kind == "experts" else own,
            per_rank=layer.experts * sides,
            tied_to=self._tied_to if layer.kind == "head" else "",
            reason=_NO_HEAD if is_missing else "",
        )
        return replace(node, children=tuple(self._parts(node, layer)))

    def _parts(self, node: Node, layer: LinearShape) -> Iterator[Node]:
        for part, rows in self._blueprint.part_rows(layer).items():
            yield Node(
                name=part,
                path=f"{node.path}:{part}",
                kind="part",
                shape=(layer.in_features, rows),
                parameters=layer.in_features * rows,
                per_rank=layer.in_features + rows,
            )

    def _no_target(self, path: str, sizes: Sequence[tuple[int, ...]]) -> tuple[NodeKind, str]:
        """What kind of module that is, and why it can be no target."""
        leaf = path.rpartition(".")[2]
        if all(len(each) == 1 for each in sizes):
            is_norm = "norm" in leaf.lower() or leaf.startswith("ln")
            return ("norm" if is_norm else "other"), _VECTOR
        if leaf in _CLASS_HEADS:
            return "other", _OWN_HEAD
        if self._has_experts and leaf in _ROUTERS:
            return "other", _ROUTER
        if "position" in leaf:
            return "other", _POSITIONS
        if any(len(each) > 2 and each[1] == 1 for each in sizes):
            return "other", _BY_CHANNEL
        return "other", _UNKNOWN


def _order(place: _Module) -> tuple[int, int]:
    """Where a place stands among its neighbors; what holds no target comes last, before a head alone."""
    if place.layer is not None:
        return (2 if place.layer.kind == "head" else 0), place.order
    inside = [number for rank, number in map(_order, place.inside.values()) if rank != 1]
    return (0, min(inside)) if inside else (1, place.order)


def _sum(rows: Sequence[Node]) -> int:
    return sum(row.parameters for row in rows)


def _without_wrapper(rows: tuple[Node, ...]) -> tuple[Node, ...]:
    """What is inside the one group that holds all of a model but its head, in the group's place."""
    groups = [row for row in rows if row.kind == "group"]
    if len(groups) != 1 or any(row.kind != "head" for row in rows if row is not groups[0]):
        return rows
    return tuple(inner for row in rows for inner in (row.children if row is groups[0] else (row,)))


def _joint_size(layer: LinearShape) -> int:
    return layer.experts * layer.in_features * layer.out_features


def _joined(node: Node) -> Node:
    """A group around nothing but one other group, as one row: `encoder.layer 0-5`."""
    if node.name.isdecimal() or len(node.children) != 1 or node.children[0].kind not in ("group", "blocks"):
        return node
    inner = node.children[0]
    space = " " if inner.kind == "blocks" else "."
    return replace(inner, name=f"{node.name}{space}{inner.name}", parameters=node.parameters)


# -- blocks that are alike -----------------------------------------------------------------------------------------


def _folded(rows: Sequence[Node], path: str) -> tuple[Node, ...]:
    """The rows with blocks that are alike as one, in the place of their first."""
    kinds: dict[object, list[Node]] = {}
    for row in rows:
        is_block = row.name.isdecimal() and row.children and row.kind == "group"
        kinds.setdefault(_likeness(row, row.path) if is_block else row.path, []).append(row)
    return tuple(alike[0] if len(alike) == 1 else _fold(alike, path) for alike in kinds.values())


def _likeness(row: Node, start: str) -> object:
    """What two blocks have in common that are alike: all but where they are."""
    inside = tuple(_likeness(child, start) for child in row.children)
    return (row.path[len(start) :], row.kind, row.shape, row.parameters, row.numbers, inside)


def _fold(alike: Sequence[Node], path: str) -> Node:
    numbers = tuple(int(row.name) for row in alike)
    first = alike[0]
    within = f"{path}.{ANY}" if path else ANY
    return Node(
        name=lists.show_layers(numbers),
        path=within,
        kind="blocks",
        parameters=_sum(alike),
        children=tuple(_times(child, len(alike), first.path, within) for child in first.children),
        count=len(alike),
        numbers=numbers,
    )


def _times(row: Node, many: int, before: str, after: str) -> Node:
    """A row of one block as a row of all that are alike."""
    return replace(
        row,
        path=after + row.path[len(before) :],
        parameters=row.parameters * many,
        count=row.count * many,
        children=tuple(_times(child, many, before, after) for child in row.children),
    )


def _rows(tree: Node) -> Iterator[Node]:
    yield tree
    for child in tree.children:
        yield from _rows(child)


def _walk(row: Node, open_numbers: tuple[Mapping[str, None], ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    if row.kind == "blocks":
        open_numbers = (*open_numbers, dict.fromkeys(map(str, row.numbers)))
    if row.is_target:
        pieces = row.path.split(ANY)
        names = (
            "".join(itertools.chain.from_iterable(zip(pieces, (*numbers, ""), strict=True)))
            for numbers in itertools.product(*open_numbers)
        )
        yield row.path, tuple(names)
    for child in row.children:
        yield from _walk(child, open_numbers)
