"""What the engine's tests share: one thread, and the tiny model in memory."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core.kernels import packed_attention
from core.models.load import LoadedModel, load_model


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """The tensors here are small: on a busy machine a second thread makes a run ten times slower, waiting for it."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def pristine(tiny_folder: Path) -> LoadedModel:
    """The tiny model in fp32, loaded once; not to be changed."""
    return load_model(tiny_folder, dtype=torch.float32)


@pytest.fixture
def plain(pristine: LoadedModel) -> LoadedModel:
    """A copy of the tiny model, with transformers' own attention."""
    return replace(pristine, model=copy.deepcopy(pristine.model))


@pytest.fixture
def tiny(plain: LoadedModel) -> LoadedModel:
    """A copy of the tiny model, with the attention that training uses."""
    model = copy.deepcopy(plain.model)
    model.set_attn_implementation(packed_attention.NAME)
    return replace(plain, model=model)
