"""Runs over the tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.core.train.running import Make, Run


@pytest.fixture
def make(tiny_folder: Path, tmp_path: Path) -> Make:
    def build(name: str = "run", **settings: Any) -> Run:
        base = settings.pop("base", tiny_folder)
        return Run(base, tmp_path / name, **settings)

    return build
