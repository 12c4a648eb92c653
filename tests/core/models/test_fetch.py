from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.errors import ModelError
from core.models.fetch import ensure_model

NOBODY = "http://127.0.0.1:9"  # the discard port: nobody answers there


def test_a_folder_is_itself(tiny_folder: Path, tmp_path: Path) -> None:
    told: list[str] = []
    assert ensure_model(str(tiny_folder), tmp_path, told.append) == tiny_folder.resolve()
    assert told == []


def test_the_starter_is_in_the_models_root(starter_folder: Path) -> None:
    assert ensure_model("starter", starter_folder.parent, lambda _: None) == starter_folder


@pytest.mark.parametrize("ref", ["/no/such/folder", "one two", "a/../b", "owner/na..me"])
def test_what_cannot_be_a_model_is_refused_before_anything_is_fetched(ref: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        ensure_model(ref, tmp_path, lambda _: None)


def test_a_hub_that_does_not_answer_is_told_in_one_sentence(tmp_path: Path) -> None:
    """In a process of its own: the hub's client reads its address when it is imported."""
    program = (
        "from pathlib import Path\n"
        "from core.errors import ModelError\n"
        "from core.models.fetch import ensure_model\n"
        "try:\n"
        f"    ensure_model('owner/name', Path({str(tmp_path)!r}), print)\n"
        "except ModelError as error:\n"
        "    print(error)\n"
    )
    environment = os.environ | {"HF_ENDPOINT": NOBODY, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_TELEMETRY": "1"}
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    said = result.stdout.strip().splitlines()
    assert said[0] == "downloading owner/name from the hub"
    assert len(said) == 2 and "owner/name could not be downloaded" in said[1] and said[1].endswith(".")
