"""From the name of a base model to a folder on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from core.errors import ModelError
from core.models.catalogue import find
from core.models.starter import ensure_starter

NEEDED = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"]


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


def _download(ref: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(ref, allow_patterns=NEEDED))
    except GatedRepoError:
        raise ModelError(f"The model {ref} is gated", hint="Accept its licence on the hub and set HF_TOKEN") from None
    except RepositoryNotFoundError:
        raise ModelError(
            f"The hub has no model {ref}, or it is private", hint="Check its name, or set HF_TOKEN"
        ) from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"The model {ref} could not be downloaded: {str(error).splitlines()[0]}",
            hint="Check the connection, or choose the starter or a local folder",
        ) from error
