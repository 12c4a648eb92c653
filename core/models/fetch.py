"""From the name of a base model to a folder on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from core.errors import ModelError
from core.models.catalogue import find
from core.models.starter import ensure_starter

NEEDED = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"]
# The same weights once more: in other layouts and folders, and in other precisions.
NOT_NEEDED = ["*/*", "consolidated*.safetensors", "adapter_*", "*.fp16.safetensors", "*.fp32.safetensors"]
TOKEN_VARIABLE = "HF_TOKEN"


def ensure_model(ref: str, models_root: Path, report: Callable[[str], None]) -> Path:
    """The folder of the base model `ref`: the starter, a local folder, or a hub id, downloaded where it is missing.

    Args:
        report: told in a few words about anything that takes time.

    Raises:
        ModelError: it does not exist, is gated, or the hub cannot be reached.
    """
    source = find(ref, models_root)
    if source.folder is not None:
        return source.folder
    if source.kind == "starter":
        return ensure_starter(models_root, report)
    report(f"downloading {ref} from the hub")
    return _download(ref)


def needed_files(names: Sequence[str]) -> list[str]:
    """Those of a repository's files that are downloaded."""
    return [name for name in names if _is_any(name, NEEDED) and not _is_any(name, NOT_NEEDED)]


def gated(ref: str, url: str) -> ModelError:
    """What to do about a model whose owner wants to be asked, with the token that there is or without one."""
    from huggingface_hub import get_token

    title = f"The model {ref} is gated: its owner wants its licence accepted first"
    if get_token() is None:
        return ModelError(
            title,
            hint=f"Accept it at {url}, make a read token in your account's settings, and set {TOKEN_VARIABLE} to it "
            "where the workbench is started",
        )
    return ModelError(
        title,
        "the token here belongs to an account that has no access yet",
        f"Accept it at {url} with that account; some owners look at each request, which can take days",
    )


def missing(ref: str) -> ModelError:
    """What to do about a model that the hub does not know, or does not show."""
    return ModelError(
        f"The hub has no model {ref}, or it is private",
        hint=f"Check its name; for a private model, set {TOKEN_VARIABLE} where the workbench is started",
    )


def not_let_in(ref: str) -> ModelError:
    """What to do where the hub asks who we are: about the token, if there is one, or as for a missing model."""
    from huggingface_hub import get_token

    if get_token() is None:
        return missing(ref)
    title = "The hub does not accept the token that is set here"
    return ModelError(title, hint=f"Make a new read token and set {TOKEN_VARIABLE} where the workbench is started")


def _is_any(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _download(ref: str) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(ref, allow_patterns=NEEDED, ignore_patterns=NOT_NEEDED))
    except GatedRepoError:
        raise gated(ref, f"{constants.ENDPOINT}/{ref}") from None
    except RepositoryNotFoundError:
        raise missing(ref) from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"The model {ref} could not be downloaded: {str(error).splitlines()[0]}",
            hint="Check the connection, or choose the starter or a local folder",
        ) from error
