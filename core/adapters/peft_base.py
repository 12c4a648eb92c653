"""A base model as an adapter's file names it: without the wrappers that we put around its modules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from core.adapters.layer import Adapted
from core.models.linears import find_layers, input_embedding, is_tied, output_head
from core.models.shapes import LinearShape


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseView:
    """`modules` of the base by name, `standing` what stands in their place in the model (an `Adapted`, or themselves),
    the `shapes` of all layers that can carry an update, and, of a model that has them, the names of its input
    `embedding` and its output `head`.
    """

    name: str
    modules: dict[str, nn.Module]
    standing: dict[str, nn.Module]
    shapes: dict[str, LinearShape]
    embedding: str | None
    head: str | None
    is_tied: bool

    def tensor(self, name: str) -> Tensor | None:
        """The parameter or buffer with the full name `name`, or None."""
        module, _, leaf = name.rpartition(".")
        found = self.modules.get(module)
        if found is None:
            return None
        return {**dict(found.named_parameters(recurse=False)), **dict(found.named_buffers(recurse=False))}.get(leaf)


def view(model: nn.Module) -> BaseView:
    """`model`, whose adapters, if there are any, are looked through."""
    standing = dict(_named(model))
    modules = {name: found.base if isinstance(found, Adapted) else found for name, found in standing.items()}
    names = {id(found): name for name, found in standing.items()}
    config: Any = getattr(model, "config", None)
    embedding = input_embedding(model)
    return BaseView(
        name=str(getattr(config, "_name_or_path", "") or ""),
        modules=modules,
        standing=standing,
        shapes={shape.name: shape for shape in find_layers(model)},
        embedding=names.get(id(embedding)),
        head=names.get(id(output_head(model))),
        is_tied=is_tied(model),
    )


def _named(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The modules inside `module` by the names that they have in the base, in model order."""
    for leaf, child in (module.base if isinstance(module, Adapted) else module).named_children():
        yield f"{prefix}{leaf}", child
        yield from _named(child, f"{prefix}{leaf}.")
