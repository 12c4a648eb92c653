"""Base models as a config or an adapter names them: what can be adapted in them, and whether two names mean one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from core.config import STARTER, RunConfig
from core.errors import AdapterError, ModelError
from core.models.catalogue import find, public_name
from core.models.shapes import linear_shapes, parameter_count
from jobs.views import ModelCard


def inspect_model(ref: str, models_root: Path) -> ModelCard:
    """What the base model `ref` is; without numbers while it is not on this machine.

    Raises:
        ModelError: there is no such model, or its files are broken.
    """
    source = find(ref, models_root)
    if source.folder is None:
        return ModelCard(source=source, parameters=None, shapes=())
    return ModelCard(source=source, parameters=parameter_count(source.folder), shapes=linear_shapes(source.folder))


def with_absolute_base(config: RunConfig, models_root: Path) -> RunConfig:
    """`config` with a base model's folder given in full, since the worker runs in another folder than the caller."""
    return replace(config, base_model=_absolute(config.base_model, models_root))


def shared_base(named: Sequence[tuple[str, str]], asked: str | None, models_root: Path) -> str:
    """The one base model on which all adapters of a chat stand.

    Args:
        named: for each adapter, how it is called and what it calls its base. A base that cannot be found here, as in
            an adapter from elsewhere, is taken to be the one that is `asked` for; shapes are checked when it is loaded.
        asked: the base that the person named, if any.

    Raises:
        AdapterError: two adapters, or an adapter and the person, mean different bases; or none can be found.
    """
    known = [(label, base) for label, base in named if identity(base, models_root) is not None]
    if asked is not None:
        known.insert(0, ("the chat", asked))
    if not known:
        if not named:
            return STARTER
        label, base = named[0]
        title = f"The base model {base or 'of the adapter'} is not on this machine"
        raise AdapterError(title, f"{label} needs it", "Name the base model")
    first_label, first = known[0]
    for label, base in known[1:]:
        if identity(base, models_root) != identity(first, models_root):
            title = f"{label} was trained on {base}, but {first_label} uses {first}"
            raise AdapterError(title, hint="Put adapters of one base model side by side")
    return STARTER if asked is None and identity(first, models_root) == STARTER else _absolute(first, models_root)


def _absolute(ref: str, models_root: Path) -> str:
    source = find(ref, models_root)
    return str(source.folder) if source.kind == "folder" else ref


def identity(ref: str, models_root: Path) -> str | None:
    """What is the same for two names of one model; None if the name means nothing here.

    The starter goes by three names: its own, its folder's, and that of the hub model which adapters trained on it
    carry.
    """
    try:
        source = find(ref, models_root)
    except ModelError:
        return None
    starter_folder = find(STARTER, models_root).folder
    if public_name(ref) == public_name(STARTER) or (source.folder is not None and source.folder == starter_folder):
        return STARTER
    return str(source.folder.resolve()) if source.folder is not None else source.ref
