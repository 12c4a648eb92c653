"""Puts an export on the Hugging Face hub, or on whatever HF_ENDPOINT names.

The token is the hub client's own affair: it takes HF_TOKEN or what `hf auth login` has kept. It is never an argument
here, and no sentence has it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from core.errors import RunError
from core.export.about import About

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_MESSAGE = "Upload from LoRA Workbench"
_WHERE = "set HF_TOKEN where the workbench is started"


def check_repo_id(repo_id: str) -> str:
    """`repo_id`, trimmed.

    Raises:
        RunError: it does not read owner/name.
    """
    trimmed = repo_id.strip()
    if _REPO_ID.fullmatch(trimmed) is None or "--" in trimmed or ".." in trimmed:
        raise RunError(f"{trimmed[:100]!r} is no repository's name", hint="Give owner/name, as my-account/my-adapter")
    return trimmed


def push_folder(folder: Path, repo_id: str, *, private: bool) -> str:
    """Upload the files of `folder` to the model repository `repo_id`, which is made where it is missing; its address.

    Raises:
        RunError: there is no token or it may not write there, the repository is public where it was to be private, or
            the hub cannot be reached.
    """
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.errors import HTTPError as AnyFailure  # type: ignore[attr-defined]  # of its HTTP client

    if get_token() is None:
        raise RunError("There is no token for the hub here", hint=f"Make a write token in your account and {_WHERE}")
    api = HfApi()
    try:
        api.create_repo(repo_id, private=private, exist_ok=True, repo_type="model")
        if private and not api.repo_info(repo_id, repo_type="model").private:
            raise RunError(
                f"{repo_id} is there already and public, so nothing was uploaded",
                hint="Choose another name, or make it private on the hub first",
            )
        api.upload_folder(repo_id=repo_id, folder_path=folder, repo_type="model", commit_message=_MESSAGE)
    except HfHubHTTPError as error:
        raise _refused(repo_id, error.response.status_code) from None
    except OfflineModeIsEnabled:
        raise RunError("HF_HUB_OFFLINE is set, so nothing is uploaded", hint="Start the workbench without it") from None
    except (AnyFailure, OSError, ValueError, RuntimeError) as error:
        raise RunError(
            f"The upload to {repo_id} broke off ({type(error).__name__})", hint="Check the connection and try again"
        ) from None
    return f"{constants.ENDPOINT}/{repo_id}"


def make_public(folder: Path, about: About) -> None:
    """Take the paths of this machine out of the files in `folder`: a base that is a folder keeps its last part."""
    path = folder / "adapter_config.json"
    if about.base_id or not path.is_file():
        return
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    settings["base_model_name_or_path"] = about.base_name
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _refused(repo_id: str, status: int) -> RunError:
    if status == 401:
        return RunError(
            "The hub does not accept the token that is set here", hint=f"Make a new write token and {_WHERE}"
        )
    if status in (403, 404):
        return RunError(
            f"The token here may not write to {repo_id}",
            hint=f"Choose a name under your own account, or make a token with the right to write and {_WHERE}",
        )
    return RunError(f"The hub answered with an error ({status}) to the upload to {repo_id}", hint="Try again later")
