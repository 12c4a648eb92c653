"""What all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def starter_folder() -> Path:
    """The starter model in transformers' format; made on first use."""
    from core.models.catalogue import default_models_root
    from core.models.starter import ensure_starter

    return ensure_starter(default_models_root(), lambda _: None)


@pytest.fixture(scope="session")
def tiny_folder(starter_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Llama in fp32 with the starter's tokenizer: small enough to train in a blink."""
    from transformers import AutoTokenizer

    from tests.core.tiny import tiny_llama

    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_llama().save_pretrained(folder)
    AutoTokenizer.from_pretrained(starter_folder).save_pretrained(folder)
    return folder
