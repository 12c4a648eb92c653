"""Which names mean one base model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from core.config import STARTER
from core.errors import AdapterError
from core.models.catalogue import STARTER_FOLDER, public_name
from jobs.bases import shared_base


@pytest.fixture
def models_root(tmp_path: Path, tiny_model: Path) -> Path:
    """A models folder whose starter is the tiny model."""
    shutil.copytree(tiny_model, tmp_path / "models" / STARTER_FOLDER)
    return tmp_path / "models"


def test_without_adapters_it_is_the_one_asked_for_else_the_starter(models_root: Path, tiny_model: Path) -> None:
    assert shared_base([], None, models_root) == STARTER
    assert shared_base([], str(tiny_model), models_root) == str(tiny_model)


def test_the_starters_three_names_are_one(models_root: Path) -> None:
    names = [STARTER, public_name(STARTER), str(models_root / STARTER_FOLDER)]
    assert shared_base([(name, name) for name in names], None, models_root) == STARTER
    for asked in names:
        assert shared_base([(name, name) for name in names], asked, models_root) == asked


def test_a_folder_is_one_base_by_whatever_path_it_is_reached(
    models_root: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(tiny_model)
    monkeypatch.chdir(tmp_path)
    assert shared_base([("a", "./link"), ("b", str(tiny_model))], None, models_root) == str(tiny_model)


def test_two_bases_are_refused_by_name(models_root: Path, tiny_model: Path) -> None:
    with pytest.raises(AdapterError) as caught:
        shared_base([("captain", STARTER), ("clerk", str(tiny_model))], None, models_root)
    for name in ("captain", "clerk", STARTER, str(tiny_model)):
        assert name in str(caught.value)
    with pytest.raises(AdapterError):
        shared_base([("captain", STARTER)], str(tiny_model), models_root)


def test_an_adapter_from_elsewhere_is_tried_on_the_base_that_was_asked_for(models_root: Path, tiny_model: Path) -> None:
    elsewhere = [("captain", "/home/somebody/model")]
    assert shared_base(elsewhere, str(tiny_model), models_root) == str(tiny_model)
    with pytest.raises(AdapterError, match="/home/somebody/model is not on this machine"):
        shared_base(elsewhere, None, models_root)
