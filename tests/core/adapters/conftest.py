"""A small base, and a plain adapter of it on disk."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from torch import nn

from tests.core.adapters.peft_pairs import PLAIN, llama, ours, saved_by_us


@pytest.fixture
def base() -> nn.Module:
    return llama()


@pytest.fixture
def saved(base: nn.Module, tmp_path: Path) -> Path:
    """An adapter on q_proj and up_proj, saved by us."""
    model = copy.deepcopy(base)
    return saved_by_us(model, ours(model, PLAIN), tmp_path / "adapter")
