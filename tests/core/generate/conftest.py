"""A chat over the tiny model with two adapters, for all that ask one."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from core.adapters.peft_format import save_adapter
from core.generate.chat import ChatModel
from core.models.load import LoadedModel
from tests.core.tiny import adapt


@pytest.fixture(scope="module")
def adapters(pristine: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two adapters of other ranks and layers."""
    folders = []
    for name, rank, targets in (("one", 3, ("q_proj", "down_proj")), ("two", 6, ("v_proj", "up_proj", "down_proj"))):
        model = copy.deepcopy(pristine.model)
        config = adapt(model, rank=rank, alpha=4, targets=targets, seed=rank)
        folders.append(tmp_path_factory.mktemp("adapters") / name)
        save_adapter(model, "a", folders[-1], config, "tiny")
    return folders


@pytest.fixture(scope="module")
def chat(tiny_folder: Path, adapters: list[Path]) -> ChatModel:
    """It keeps nothing, so that what a test asks does not depend on what others asked before."""
    model = ChatModel(tiny_folder, bits=32, kept_bytes=0)
    for folder in adapters:
        model.load_adapter(folder)
    return model


@pytest.fixture
def keys(chat: ChatModel, adapters: list[Path]) -> list[str]:
    return [chat.load_adapter(folder) for folder in adapters]
