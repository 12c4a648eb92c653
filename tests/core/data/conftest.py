"""Files that a test describes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.core.data.samples import Writer


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """Writes a file from text (as UTF-8) or bytes."""

    def to_file(name: str, content: Any) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return to_file
