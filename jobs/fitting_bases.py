"""Which base models on this machine an adapter could stand on, told by the headers of its file and theirs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, TypeAlias

from core.errors import ModelError
from core.models.shapes import LinearShape, tensor_shapes
from jobs.adapters import WEIGHTS_FILE
from jobs.bases import inspect_model
from jobs.models import Models
from jobs.views import Adapter

Base: TypeAlias = Literal["here", "hub", "unknown"]
Sizes: TypeAlias = tuple[int, int]

_PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"


def fitting(adapter: Adapter, models: Models, models_root: Path) -> tuple[tuple[str, str], ...]:
    """What each base model that fits is called, and its reference; those of the Train page's choice."""
    try:
        wanted = adapted_sizes(adapter.path)
    except (ModelError, OSError):  # its file has gone or is broken, which is told where it is used
        return ()
    found = []
    for choice in models.choices():
        if choice.is_here and fits(wanted, _shapes(choice.ref, models_root)):
            found.append((choice.title, choice.ref))
    return tuple(found)


def adapted_sizes(folder: Path) -> dict[str, Sizes]:
    """The features that go into and come out of each module that the adapter in `folder` changes at low rank.

    Raises:
        ModelError: its file is broken. OSError: it has gone.
    """
    shapes = tensor_shapes(folder / WEIGHTS_FILE)
    sizes = {}
    for key, shape in shapes.items():
        other = shapes.get(f"{key.removesuffix(_A)}{_B}")
        if key.endswith(_A) and other and len(shape) > 1:
            sizes[key.removeprefix(_PREFIX).removesuffix(_A)] = shape[1], other[0]
    return sizes


def fits(wanted: Mapping[str, Sizes], layers: Iterable[LinearShape]) -> bool:
    """Whether each module that is wanted is among `layers`, with its sizes. A checkpoint may name them without the
    model's own first word.
    """
    known = {layer.name: (layer.in_features, layer.out_features) for layer in layers}
    return bool(wanted) and all(
        sizes in (known.get(module), known.get(module.partition(".")[2])) for module, sizes in wanted.items()
    )


def _shapes(ref: str, models_root: Path) -> tuple[LinearShape, ...]:
    try:
        return inspect_model(ref, models_root).shapes
    except ModelError:  # moved or broken since it was listed
        return ()
