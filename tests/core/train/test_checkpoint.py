from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from core.models.precision import Precision
from core.train import checkpoint
from core.train.checkpoint import (
    PRECISION_FILE,
    STATE_FILE,
    TENSORS_FILE,
    keep_precision,
    restore,
    save_checkpoint,
)
from core.train.manifest import MANIFEST_FILE


class Training:
    """Two parameters on their way down a bowl."""

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.parameters = {
            "a": nn.Parameter(torch.randn(3, 4, generator=generator)),
            "b": nn.Parameter(torch.randn(5, generator=generator)),
        }
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=0.1, fused=True)

    def step(self) -> None:
        sum(parameter.square().sum() for parameter in self.parameters.values()).backward()  # type: ignore[union-attr]
        self.optimizer.step()
        self.optimizer.zero_grad()

    def save(self, folder: Path, step: int, kept: int = 2) -> Path:
        return save_checkpoint(folder, step, self.parameters, self.optimizer, {"tokens": 7.0 * step}, kept)

    def restore(self, folder: Path) -> tuple[int, dict[str, float], list[str]]:
        return restore(folder, self.parameters, self.optimizer)

    def values(self) -> list[torch.Tensor]:
        return [parameter.detach().clone() for parameter in self.parameters.values()]


def run(folder: Path, steps: int) -> Training:
    """Train so many steps with a checkpoint after each."""
    training = Training()
    for step in range(1, steps + 1):
        training.step()
        training.save(folder, step)
    return training


def same(one: Training, other: Training) -> bool:
    return all(torch.equal(*pair) for pair in zip(one.values(), other.values(), strict=True))


def test_going_on_from_a_checkpoint_is_going_on(tmp_path: Path) -> None:
    straight = run(tmp_path, 3)
    resumed = Training(seed=9)
    assert resumed.restore(tmp_path) == (3, {"tokens": 21.0}, [])
    assert same(resumed, straight)
    for _ in range(4):
        straight.step()
        resumed.step()
    assert same(resumed, straight)


@pytest.mark.parametrize("folder", ["", "not there"])
def test_without_a_checkpoint_nothing_changes(tmp_path: Path, folder: str) -> None:
    training = Training()
    before = training.values()
    assert training.restore(tmp_path / folder) == (0, {}, [])
    assert all(torch.equal(*pair) for pair in zip(before, training.values(), strict=True))


def test_the_newest_and_the_one_before_are_kept(tmp_path: Path) -> None:
    run(tmp_path, 12)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000011", "step-00000012"]


@pytest.mark.parametrize("kept", [1, 3])
def test_so_many_are_kept_as_are_asked_for(tmp_path: Path, kept: int) -> None:
    training = Training()
    for step in range(1, 6):
        training.save(tmp_path, step, kept)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step-{n:08d}" for n in range(6 - kept, 6)]


def test_one_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = run(tmp_path, 2)
    for broken in ("save_file", "flush"):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="no room"):
            patch.setattr(checkpoint, broken, lambda *_: (_ for _ in ()).throw(OSError("no room")))
            training.save(tmp_path, 3)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]


def truncate(path: Path) -> None:
    content = (path / TENSORS_FILE).read_bytes()
    (path / TENSORS_FILE).write_bytes(content[:-5])


def flip_a_bit(path: Path) -> None:
    content = bytearray((path / TENSORS_FILE).read_bytes())
    content[-3] ^= 4
    (path / TENSORS_FILE).write_bytes(content)


def another_run(path: Path) -> None:
    """Whole and sound, but of a run with other parameters."""
    tensors = load_file(path / TENSORS_FILE)
    tensors["c"] = tensors.pop("b")
    save_file(tensors, path / TENSORS_FILE)


DAMAGES: list[Callable[[Path], object]] = [
    truncate,
    flip_a_bit,
    another_run,
    lambda path: (path / TENSORS_FILE).unlink(),
    lambda path: (path / STATE_FILE).unlink(),
    lambda path: (path / STATE_FILE).write_text(""),
    lambda path: (path / STATE_FILE).write_text("[1, 2]"),
    lambda path: (path / STATE_FILE).write_text(json.dumps({"step": 3})),
    lambda path: (path / MANIFEST_FILE).unlink(),
    lambda path: (path / MANIFEST_FILE).write_text("{}"),
    lambda path: (path / MANIFEST_FILE).write_text((path / MANIFEST_FILE).read_text()[:-9]),
    lambda path: (path / STATE_FILE).write_bytes(b"\xff\x00"),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    run(tmp_path, 3)
    damage(tmp_path / "step-00000003")
    training = Training(seed=9)
    assert training.restore(tmp_path) == (2, {"tokens": 14.0}, ["step-00000003"])
    assert same(training, run(tmp_path / "other", 2))


def test_where_all_are_damaged_all_are_named_and_nothing_changes(tmp_path: Path) -> None:
    run(tmp_path, 3)
    for name in ("step-00000002", "step-00000003"):
        flip_a_bit(tmp_path / name)
    training = Training(seed=9)
    before = training.values()
    assert training.restore(tmp_path) == (0, {}, ["step-00000003", "step-00000002"])
    assert all(torch.equal(*pair) for pair in zip(before, training.values(), strict=True))


def test_a_damaged_checkpoint_is_replaced_when_its_step_comes_again(tmp_path: Path) -> None:
    run(tmp_path, 3)
    truncate(tmp_path / "step-00000003")
    training = Training(seed=9)
    training.restore(tmp_path)
    training.step()
    training.save(tmp_path, 3)
    again = Training(seed=9)
    assert again.restore(tmp_path) == (3, {"tokens": 21.0}, [])
    assert same(again, training)


def test_a_new_checkpoint_drops_the_damaged_ones_behind_it_and_never_itself(tmp_path: Path) -> None:
    run(tmp_path, 5)
    for step in (4, 5):
        truncate(tmp_path / f"step-0000000{step}")
    training = Training(seed=9)
    training.save(tmp_path, 2)  # as if it had gone on from step 1
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]
    assert Training(seed=8).restore(tmp_path)[0] == 2


def test_what_a_crash_left_half_written_is_ignored_and_cleared_away(tmp_path: Path) -> None:
    training = run(tmp_path, 2)
    half = tmp_path / "tmp-00000003"
    half.mkdir()
    (half / TENSORS_FILE).write_bytes(b"half")
    assert Training(seed=9).restore(tmp_path)[0] == 2
    training.step()
    training.save(tmp_path, 3)
    assert not half.exists() and Training(seed=9).restore(tmp_path)[0] == 3


def test_no_pickle_is_written(tmp_path: Path) -> None:
    run(tmp_path, 1)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".json", ".safetensors"}


# ---- the precision that a run began with

BF16, FP32 = Precision(dtype=torch.bfloat16, reason="fast here"), Precision(dtype=torch.float32, reason="fast there")


def test_a_run_goes_on_in_the_precision_it_began_with_whatever_is_measured_later(tmp_path: Path) -> None:
    assert keep_precision(tmp_path / "new", lambda: BF16) == BF16
    assert keep_precision(tmp_path / "new", lambda: FP32) == BF16
    assert keep_precision(tmp_path / "other", lambda: FP32) == FP32


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"dtype": "int7", "reason": ""}', b'{"dtype": []}', b"\xff"])
def test_a_record_of_it_that_cannot_be_read_is_made_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / PRECISION_FILE).write_bytes(content)
    assert keep_precision(tmp_path, lambda: BF16) == BF16
    assert keep_precision(tmp_path, lambda: FP32) == BF16
