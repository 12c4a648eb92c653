"""Files that a test describes, and the starter's tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.core.data.samples import Writer


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """Writes a file from text (as UTF-8) or bytes."""

    def to_file(name: str, content: Any) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return to_file


@pytest.fixture(scope="module")
def shared_tokenizer(starter_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(starter_folder)


@pytest.fixture
def tokenizer(shared_tokenizer: Any) -> Any:
    """The starter's: ChatML, with a system message of its own where none is given."""
    template = shared_tokenizer.chat_template
    yield shared_tokenizer
    shared_tokenizer.chat_template = template
