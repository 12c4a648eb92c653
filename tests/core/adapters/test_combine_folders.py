"""Adapters on disk combined and shrunk: what is written loads, and changes the base by what was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from core.adapters.combine_folders import combine_folders, shrink_folder
from core.adapters.inject import lora_layers, remove, routed
from core.adapters.layer import LoraLayer
from core.adapters.peft_format import load_adapter, save_adapter
from core.adapters.ways import Combination
from core.errors import AdapterError, ConfigError
from core.models.load import LoadedModel
from tests.core.tiny import adapt, plain_logits

TOKENS = list(range(40, 60))


def saved(loaded: LoadedModel, folder: Path, *, base: str = "tiny", **settings: int) -> Path:
    config = adapt(loaded.model, key="a", **settings)  # type: ignore[arg-type]
    save_adapter(loaded.model, "a", folder, config, base)
    remove(loaded.model, "a")
    return folder


def changes(loaded: LoadedModel, folder: Path) -> dict[str, Tensor]:
    key = load_adapter(loaded.model, folder)
    found = {}
    for name, layer in lora_layers(loaded.model).items():
        update = layer.update(key) if isinstance(layer, LoraLayer) else None
        if update is not None:
            found[name] = update.delta()
    return found


def test_a_concatenation_says_what_the_weighted_mix_says(plain: LoadedModel, tmp_path: Path) -> None:
    first, second = saved(plain, tmp_path / "a", seed=1), saved(plain, tmp_path / "b", seed=2, rank=2)
    energy = combine_folders([first, second], Combination(how="concat", weights=(0.5, -1.0)), tmp_path / "c")
    keys = [load_adapter(plain.model, folder) for folder in (first, second, tmp_path / "c")]
    with routed(plain.model, [((keys[0], 0.5), (keys[1], -1.0))], torch.float32):
        mixed = plain_logits(plain.model, TOKENS)
    with routed(plain.model, [keys[2]], torch.float32):
        combined = plain_logits(plain.model, TOKENS)
    assert energy == 1.0
    assert torch.allclose(combined, mixed, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("how", ["svd", "ties", "dare_linear", "dare_ties"])
def test_a_reduced_combination_has_the_rank_asked_for(plain: LoadedModel, tmp_path: Path, how: str) -> None:
    folders = [saved(plain, tmp_path / str(seed), seed=seed) for seed in (1, 2)]
    wanted = Combination(how=how, weights=(1.0, 1.0), rank=3)  # type: ignore[arg-type]
    energy = combine_folders(folders, wanted, tmp_path / "c")
    ranks = {int(torch.linalg.matrix_rank(delta)) for delta in changes(plain, tmp_path / "c").values()}
    assert ranks == {3}
    assert 0 < energy < 1


def test_svd_at_full_rank_is_the_sum(plain: LoadedModel, tmp_path: Path) -> None:
    folders = [saved(plain, tmp_path / str(seed), seed=seed) for seed in (1, 2)]
    combine_folders(folders, Combination(how="svd", weights=(1.0, 2.0), rank=8), tmp_path / "c")
    one, two, both = (changes(plain, folder) for folder in (*folders, tmp_path / "c"))
    assert all(torch.allclose(both[name], one[name] + 2 * two[name], atol=1e-4) for name in both)


def test_a_shrunk_adapter_is_the_nearest_of_its_rank(plain: LoadedModel, tmp_path: Path) -> None:
    folder = saved(plain, tmp_path / "a", rank=4)
    reduced = shrink_folder(folder, tmp_path / "b", rank=2)
    whole, small = changes(plain, folder), changes(plain, tmp_path / "b")
    for name, delta in whole.items():
        u, s, vh = torch.linalg.svd(delta)
        assert torch.allclose(small[name], u[:, :2] * s[:2] @ vh[:2], atol=1e-4)
        assert reduced.energy[name] == pytest.approx(float((s[:2] ** 2).sum() / (s**2).sum()), abs=1e-4)


def test_adapters_of_different_bases_are_not_combined(plain: LoadedModel, tmp_path: Path) -> None:
    folders = [saved(plain, tmp_path / "a"), saved(plain, tmp_path / "b", base="another")]
    with pytest.raises(AdapterError, match=r"different base models \(tiny, another\)"):
        combine_folders(folders, Combination(how="concat", weights=(1.0, 1.0)), tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_missing_rank_and_too_few_weights_are_told(plain: LoadedModel, tmp_path: Path) -> None:
    folders = [saved(plain, tmp_path / str(seed), seed=seed) for seed in (1, 2)]
    for wrong in (Combination(how="svd", weights=(1.0, 1.0)), Combination(how="concat", weights=(1.0,))):
        with pytest.raises(ConfigError):
            combine_folders(folders, wrong, tmp_path / "c")
