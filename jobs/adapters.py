"""What a run leaves behind, as files: adapters, and whole models. What their configs say, copies and zips of them.

Weights are hashed here, never loaded. A whole model, which full fine-tuning makes, is a folder in transformers' format;
an adapter is one in PEFT's, with its tokenizer where tokens were added and the names of the classes of a classifier.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from core.config import Method, Task
from core.data.tokens.labeling import LABELS_FILE
from core.errors import AdapterError, ConfigError
from core.models.shapes import weight_files
from jobs.ids import new_id
from jobs.names import slug
from jobs.views import Adapter

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
README_FILE = "README.md"
MODEL_CONFIG_FILE = "config.json"
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "merges.txt",
)  # fmt: skip
ADAPTER_FILES = (CONFIG_FILE, WEIGHTS_FILE, README_FILE, LABELS_FILE, *TOKENIZER_FILES)
MODEL_FILES = (MODEL_CONFIG_FILE, "generation_config.json", README_FILE, *TOKENIZER_FILES)
FINGERPRINT_DIGITS = 8
CLASSIFIER_TASK, CLASSIFIER_CLASS = "SEQ_CLS", "ForSequenceClassification"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFacts:
    """What a folder with a run's result says of itself. `base_model` is whatever the one who trained it called the
    base. A whole model has neither rank nor targets, and trained biases (BitFit) have no rank.
    """

    method: Method
    task: Task
    rank: int
    alpha: float
    targets: tuple[str, ...]
    base_model: str
    bytes: int
    fingerprint: str

    def as_row(self) -> dict[str, Any]:
        """The values as the store keeps them."""
        return {
            "rank": self.rank,
            "alpha": self.alpha,
            "targets": orjson.dumps(self.targets).decode(),
            "base_model": self.base_model,
            "bytes": self.bytes,
            "fingerprint": self.fingerprint,
        }


def describe_adapter(folder: Path) -> AdapterFacts:
    """What was trained into `folder`, without loading it.

    Raises:
        AdapterError: the folder holds neither an adapter in PEFT's format nor a model in transformers', each with
            safetensors weights.
        ModelError: it holds a model some of whose weights are missing.
    """
    if (folder / MODEL_CONFIG_FILE).is_file() and not (folder / CONFIG_FILE).is_file():
        return _describe_model(folder)
    missing = next((name for name in (CONFIG_FILE, WEIGHTS_FILE) if not (folder / name).is_file()), None)
    if missing is not None:
        raise AdapterError(f"{folder} holds no adapter", f"{missing} is missing", "Choose an adapter's folder")
    try:
        return _describe_peft(orjson.loads((folder / CONFIG_FILE).read_bytes()), folder / WEIGHTS_FILE)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AdapterError(f"{CONFIG_FILE} is not a LoRA adapter's", str(folder), "Export the adapter again") from error


def require_adapter(folder: Path) -> AdapterFacts:
    """What the adapter in `folder` is.

    Raises:
        AdapterError: the folder holds no adapter, but perhaps a whole model.
    """
    facts = describe_adapter(folder)
    if facts.method == "full":
        raise AdapterError(f"{folder} holds a whole model and no adapter", hint="Give it as the base model")
    return facts


def write_zip(adapter: Adapter, exports: Path) -> Path:
    """A zip of the adapter's, or model's, files in `exports`, there as a whole or not at all.

    Raises:
        AdapterError: its files have gone.
    """
    describe_adapter(adapter.path)
    target = exports / f"{slug(adapter.name)}-{adapter.fingerprint}.zip"
    zip_folder(adapter.path, target)
    return target


def zip_folder(folder: Path, target: Path) -> None:
    """Zip the adapter or model in `folder` to `target`."""
    zip_files((folder / name for name in _present(folder)), target)


def zip_files(files: Iterable[Path], target: Path) -> None:
    """Zip `files` by their names to `target`, there as a whole or not at all. Weights do not shrink, so they are stored
    as they are.
    """
    draft = target.with_name(f".{new_id()}.zip")
    try:
        with zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as archive:
            for file in files:
                archive.write(file, file.name)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def take_out_of_zip(archive: Path, folder: Path) -> None:
    """Put the files that `zip_files` has packed into `folder`."""
    with zipfile.ZipFile(archive) as packed:
        for name in packed.namelist():
            with packed.open(name) as source, (folder / Path(name).name).open("wb") as target:
                shutil.copyfileobj(source, target)


def copy_adapter(folder: Path, output: Path) -> None:
    """Put the adapter's, or model's, files into `output`; each is whole there or not there at all, other files are
    left alone.

    Raises:
        AdapterError: `folder` holds neither.
    """
    describe_adapter(folder)
    output.mkdir(parents=True, exist_ok=True)
    drafts = {name: output / f".{new_id()}-{name}" for name in _present(folder)}
    try:
        for name, draft in drafts.items():
            shutil.copyfile(folder / name, draft)
        for name, draft in drafts.items():
            draft.replace(output / name)
    finally:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)


def check_output(output: Path, *, must_be_new: bool = False) -> None:
    """Refuse a folder that an adapter cannot or should not be written into.

    Args:
        must_be_new: an earlier adapter is not to be replaced either, since what is written is not the same few files.

    Raises:
        ConfigError: it is a file, holds something other than an earlier adapter, or cannot be written to.
    """
    if output.exists() and not output.is_dir():
        raise ConfigError(f"{output} is a file", hint="Give --output a folder", field="output")
    hint = "Give --output a new or an empty folder"
    if output.is_dir() and any(output.iterdir()):
        if must_be_new:
            raise ConfigError(f"{output} is there already and not empty", hint=hint, field="output")
        if not (output / CONFIG_FILE).is_file():
            raise ConfigError(f"{output} is not empty and holds no earlier adapter", hint=hint, field="output")
    nearest = next(path for path in (output.absolute(), *output.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ConfigError(f"{output} cannot be written: {nearest} does not allow it", hint="Choose another folder")


def _describe_peft(settings: dict[str, Any], weights: Path) -> AdapterFacts:
    has_rank = settings.get("peft_type") != "BITFIT"
    targets = settings["target_modules"] if has_rank else ()
    is_classifier = settings.get("task_type") == CLASSIFIER_TASK or (weights.parent / LABELS_FILE).is_file()
    return AdapterFacts(
        method="lora" if has_rank else "bitfit",
        task="classification" if is_classifier else "chat",
        rank=int(settings["r"]) if has_rank else 0,
        alpha=float(settings["lora_alpha"]) if has_rank else 0.0,
        targets=(targets,) if isinstance(targets, str) else tuple(map(str, targets or ())),
        base_model=str(settings.get("base_model_name_or_path") or ""),
        bytes=weights.stat().st_size,
        fingerprint=_fingerprint([weights]),
    )


def _describe_model(folder: Path) -> AdapterFacts:
    try:
        architectures = list(orjson.loads((folder / MODEL_CONFIG_FILE).read_bytes()).get("architectures") or ())
    except (ValueError, AttributeError, TypeError) as error:
        raise AdapterError(f"{MODEL_CONFIG_FILE} is not a model's", str(folder), "Train or export it again") from error
    weights = weight_files(folder)
    return AdapterFacts(
        method="full",
        task="classification" if any(str(name).endswith(CLASSIFIER_CLASS) for name in architectures) else "chat",
        rank=0,
        alpha=0.0,
        targets=(),
        base_model="",
        bytes=sum(path.stat().st_size for path in weights),
        fingerprint=_fingerprint(weights),
    )


def _present(folder: Path) -> list[str]:
    """The names of the files in `folder` that belong to the adapter or model in it."""
    if (folder / CONFIG_FILE).is_file():
        return [name for name in ADAPTER_FILES if (folder / name).is_file()]
    weights = [path.name for path in weight_files(folder)]
    index = [path.name for path in folder.glob("*.safetensors.index.json")]
    return [*(name for name in MODEL_FILES if (folder / name).is_file()), *index, *weights]


def _fingerprint(weights: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in weights:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:FINGERPRINT_DIGITS]
