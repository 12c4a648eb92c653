"""What the Hugging Face hub says of a model before anything is downloaded: size, licence, and whether it can be used.

One question, or two where a model is gated, asked in a thread that nobody waits for longer than a few seconds: the
client's own timeout is for each read, and a name may take long to be looked up. That the hub cannot be reached is no
error: a `remark` says so. A model that cannot be had, or that the engine could not load, has a `problem` with what to
do about it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from core.errors import ModelError
from core.models.fetch import gated, missing, needed_files, not_let_in

WAIT_SECONDS = 4.0
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".h5", ".msgpack")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFacts:
    """A model as the hub describes it; empty or None where the hub does not say.

    `download_bytes` is what has to be fetched. `is_gated` says that its owner lets in those alone who accept a licence,
    and `problem` whether that is in the way. `is_known` is False where the hub did not answer.
    """

    hub_id: str
    url: str
    is_known: bool = True
    parameters: int | None = None
    download_bytes: int | None = None
    licence: str = ""
    architecture: str = ""
    is_gated: bool = False
    problem: ModelError | None = None
    remark: str = ""


def ask_hub(hub_id: str, *, endpoint: str | None = None, wait_seconds: float = WAIT_SECONDS) -> HubFacts:
    """What the hub says of `hub_id`, which reads owner/name; it never takes much longer than `wait_seconds`.

    Args:
        endpoint: the hub's address, by default what HF_ENDPOINT says.
    """
    from huggingface_hub import HfApi, constants

    nothing = HubFacts(hub_id=hub_id, url=f"{endpoint or constants.ENDPOINT}/{hub_id}", is_known=False)
    answers: queue.SimpleQueue[HubFacts] = queue.SimpleQueue()
    api = HfApi(endpoint=endpoint)
    asking = threading.Thread(target=lambda: answers.put(_ask(api, nothing, wait_seconds)), daemon=True)
    asking.start()
    try:
        return answers.get(timeout=wait_seconds)
    except queue.Empty:
        return _unknown(nothing, f"The hub did not answer within {wait_seconds:g} seconds")


def _ask(api: Any, nothing: HubFacts, wait_seconds: float) -> HubFacts:
    """Ask, and put what is in the way into words."""
    from huggingface_hub.errors import (
        DisabledRepoError,
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )
    from huggingface_hub.errors import HTTPError as AnyFailure  # type: ignore[attr-defined]  # of its HTTP client

    hub_id, known = nothing.hub_id, replace(nothing, is_known=True)
    try:
        known = _facts(api.model_info(hub_id, files_metadata=True, timeout=wait_seconds), nothing)
        if known.is_gated:
            api.auth_check(hub_id)
        return known
    except GatedRepoError:
        return replace(known, is_gated=True, problem=gated(hub_id, nothing.url))
    except RepositoryNotFoundError:
        return replace(known, problem=missing(hub_id))
    except DisabledRepoError:
        return replace(known, problem=ModelError(f"The hub has closed the model {hub_id}", hint="Choose another model"))
    except OfflineModeIsEnabled:
        return _unknown(nothing, "HF_HUB_OFFLINE is set, so the hub is not asked")
    except HfHubHTTPError as error:
        if error.response.status_code == 401:
            return replace(known, problem=not_let_in(hub_id))
        return _unknown(nothing, f"The hub answered with an error ({error.response.status_code})")
    except AnyFailure:
        return _unknown(nothing, "The hub cannot be reached")
    except (ValueError, LookupError, TypeError, AttributeError):  # what the client makes of an answer that is none
        return _unknown(nothing, "The hub's answer could not be understood")


def _unknown(nothing: HubFacts, why: str) -> HubFacts:
    return replace(nothing, remark=f"{why}; size and licence are not known")


def _facts(info: Any, nothing: HubFacts) -> HubFacts:
    """The client's `ModelInfo` as ours."""
    config = info.config if isinstance(info.config, dict) else {}
    sizes = {sibling.rfilename: sibling.size for sibling in info.siblings or ()}
    needed = needed_files(list(sizes))
    known = [sizes[name] for name in needed if sizes[name] is not None]
    return replace(
        nothing,
        is_known=True,
        parameters=info.safetensors.total if info.safetensors else None,
        download_bytes=sum(known) if known and len(known) == len(needed) else None,
        licence=_licence(info),
        architecture=str((config.get("architectures") or [config.get("model_type") or ""])[0]),
        is_gated=bool(info.gated),
        problem=_unusable(nothing.hub_id, list(sizes), needed, _base(info)),
        remark=_remark(info, config),
    )


def _licence(info: Any) -> str:
    """By its short name; one of the owner's own by the name they gave it."""
    card = info.card_data or {}
    said = card.get("license") or next((tag[8:] for tag in info.tags or () if tag.startswith("license:")), "")
    own = card.get("license_name") if said == "other" else ""
    return str(own or (said[0] if isinstance(said, list) and said else said) or "")


def _base(info: Any) -> str:
    """The model that it was made from, as its card says."""
    said = (info.card_data or {}).get("base_model") or ""
    return str(said[0] if isinstance(said, list) and said else said or "")


def _remark(info: Any, config: dict[str, Any]) -> str:
    """What one should know that need not be in the way."""
    quantized = config.get("quantization_config")
    if isinstance(quantized, dict):
        kind = quantized.get("quant_method", "quantized")
        return f"Its weights are stored quantized ({kind}), which may not load here; the original in 16 bits will"
    if "custom_code" in (info.tags or ()):
        return "It comes with code of its own, which is never run here; it works if transformers knows its kind itself"
    return ""


def _unusable(hub_id: str, names: Sequence[str], needed: Sequence[str], base: str) -> ModelError | None:
    """Why the engine could not load a repository with files of these names; None where it could."""
    if "config.json" in names and any(name.endswith(".safetensors") for name in needed):
        return None
    other = f"Choose {base}, which it was made from" if base else "Choose the model it was made from"
    if "adapter_config.json" in names:
        return ModelError(f"{hub_id} is a LoRA adapter, not a base model", hint=other)
    if any(name.lower().endswith(".gguf") for name in names):
        title = f"{hub_id} holds GGUF files only"
        return ModelError(title, "they are made for llama.cpp and cannot be trained on", other)
    if "model_index.json" in names:
        return ModelError(f"{hub_id} is no language model but a diffusion pipeline", hint="Choose a language model")
    if any(name.lower().endswith(_PICKLES) for name in names):
        detail = "loading a pickle can run any code, so they are never opened here"
        hint = f"Choose a version with *.safetensors files{f', such as {base}' if base else ', or convert it first'}"
        return ModelError(f"{hub_id} holds pickled weights only", detail, hint)
    lacks = "config.json" if "config.json" not in names else "*.safetensors files"
    return ModelError(f"{hub_id} holds no model that can be loaded", f"it has no {lacks}", "Choose another model")
