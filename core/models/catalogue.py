"""Where a base model is to be found: the starter, a folder of the person's, or an id of the Hugging Face hub.

Nothing is downloaded here. A model that is not on this machine yet has no folder, and `core.models.fetch` gets it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import platformdirs

from core.config import STARTER
from core.errors import ModelError
from core.models.shapes import weight_files

STARTER_FOLDER = "smollm2-135m-instruct"
STARTER_UPSTREAM = "HuggingFaceTB/SmolLM2-135M-Instruct"
STARTER_TITLE = "SmolLM2 135M Instruct (starter)"
MODELS_VARIABLE = "LORA_WORKBENCH_MODELS"

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """What a reference to a base model stands for; `folder` is None while the model is not on this machine."""

    ref: str
    title: str
    kind: Literal["starter", "folder", "hub"]
    folder: Path | None


def default_models_root() -> Path:
    """The folder that keeps downloaded models, shared by all homes."""
    chosen = os.environ.get(MODELS_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("lora-workbench")) / "models"


def find(ref: str, models_root: Path) -> ModelSource:
    """The model that `ref` names: `starter`, a folder's path or a hub id. A folder that exists wins over a hub id.

    Raises:
        ModelError: `ref` is none of these, or the folder holds no model in safetensors files.
    """
    if ref == STARTER:
        return _starter(models_root)
    if ref.isprintable() and (_looks_like_path(ref) or os.path.exists(os.path.expanduser(ref))):
        return _folder(ref)
    if _HUB_ID.fullmatch(ref) and ".." not in ref:
        return ModelSource(ref=ref, title=ref, kind="hub", folder=_cached_snapshot(ref))
    raise ModelError(
        f"{ref!r} is no base model",
        "it is neither a folder, nor a hub id such as owner/name, nor 'starter'",
        "Give the path of a model folder, a hub id or 'starter'",
    )


def local_models(models_root: Path) -> tuple[ModelSource, ...]:
    """The models in folders directly below `models_root`, but the starter, by name."""
    found = []
    for folder in sorted(models_root.iterdir()) if models_root.is_dir() else ():
        if folder.name != STARTER_FOLDER and (folder / "config.json").is_file() and _is_whole(folder):
            found.append(ModelSource(ref=str(folder), title=folder.name, kind="folder", folder=folder))
    return tuple(found)


def cached_models() -> tuple[ModelSource, ...]:
    """The models in the hub's cache that are there completely, the newest first."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        cache = scan_cache_dir(constants.HF_HUB_CACHE)
        repositories = [found for found in cache.repos if found.repo_type == "model"]
    except CacheNotFound:
        return ()
    newest_first = sorted(repositories, key=lambda found: (-found.last_modified, found.repo_id))
    folders = {found.repo_id: _cached_snapshot(found.repo_id) for found in newest_first}
    return tuple(
        ModelSource(ref=hub_id, title=hub_id, kind="hub", folder=folder)
        for hub_id, folder in folders.items()
        if folder is not None
    )


def _starter(models_root: Path) -> ModelSource:
    folder = models_root / STARTER_FOLDER
    is_here = (folder / "config.json").is_file()
    return ModelSource(ref=STARTER, title=STARTER_TITLE, kind="starter", folder=folder if is_here else None)


def _looks_like_path(ref: str) -> bool:
    return ref.startswith(("/", ".", "~")) or ref.count("/") > 1 or "\\" in ref


def _folder(ref: str) -> ModelSource:
    folder = Path(os.path.realpath(os.path.expanduser(ref)))
    if not os.path.exists(folder):
        raise ModelError(f"The folder {ref} does not exist", hint="Check the path, or give a hub id or 'starter'")
    if not folder.is_dir():
        raise ModelError(f"{ref} is a file", hint="Give the folder that holds config.json and the *.safetensors files")
    _check_model_folder(folder, ref)
    return ModelSource(ref=ref, title=folder.name, kind="folder", folder=folder)


def _check_model_folder(folder: Path, ref: str) -> None:
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise ModelError(f"{ref} holds a LoRA adapter, not a base model", hint="Choose the model it was trained on")
        raise ModelError(f"{ref} holds no model: there is no config.json", hint="Choose the folder that has one")
    has_safetensors = any(folder.glob("*.safetensors"))
    if not has_safetensors and any(path for pattern in _PICKLES for path in folder.glob(pattern)):
        raise ModelError(
            f"{ref} holds pickled weights only",
            "loading a pickle can run any code, so they are never opened here",
            "Convert the model to safetensors first",
        )
    weight_files(folder)


def _cached_snapshot(hub_id: str) -> Path | None:
    """The hub cache's folder of this model where config and all weights are there already, else None."""
    from huggingface_hub import try_to_load_from_cache  # lazily: it is slow to import and few callers need it
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(hub_id, "config.json")
    except HFValidationError:
        raise ModelError(f"{hub_id!r} is no valid hub id", hint="Check its spelling: it reads owner/name") from None
    if not isinstance(config, str):
        return None
    snapshot = Path(config).parent
    return snapshot if _is_whole(snapshot) else None


def _is_whole(folder: Path) -> bool:
    """Whether all files with the weights of the model in `folder` are there."""
    try:
        return bool(weight_files(folder))
    except ModelError:
        return False


def public_name(ref: str) -> str:
    """What an adapter's config calls the base `ref`: for the starter the hub id of the model that it comes from."""
    return STARTER_UPSTREAM if ref == STARTER else ref
