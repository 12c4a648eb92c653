"""Bases in folders, adapters of them in folders, and what our engine says with both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from core.adapters.inject import inject, lora_layers
from core.adapters.layer import LoraLayer
from core.adapters.lowrank import BiasOnly, LowRank, TokenRows
from core.adapters.peft_format import save_adapter
from core.config import LoraConfig
from core.export.reference import Reference, ask
from core.export.verdict import ROUNDING, Verdict
from core.export.verify import Written, verify
from core.models.load import load_model
from core.models.vocabulary import add_tokens
from tests.core.adapters.peft_pairs import stir

SHAPE = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "intermediate_size": 128, "vocab_size": 49152, "max_position_embeddings": 512, "initializer_range": 0.1,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None, "tie_word_embeddings": True,
}  # fmt: skip
Make = Callable[..., Path]


@pytest.fixture(scope="session")
def make_base(starter_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    def make(kind: str = "llama", **changes: Any) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        shape = {name: value for name, value in SHAPE.items() if (kind, name) != ("falcon", "head_dim")}
        config = CONFIG_MAPPING[kind](**(shape | changes))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            AutoModelForCausalLM.from_config(config).float().save_pretrained(folder)
        AutoTokenizer.from_pretrained(starter_folder).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def base(make_base: Make) -> Path:
    return make_base()


def calm(model: Any) -> None:
    """Make low-rank changes as small as training does: what `stir` makes is so large that 16 bits drown in it."""
    for layer in lora_layers(model).values():
        update = layer.update("a") if isinstance(layer, LoraLayer) else None
        if isinstance(update, LowRank) and not isinstance(update, BiasOnly | TokenRows):
            update.b.data *= 0.2


def write_adapter(base: Path, folder: Path, *, new_tokens: tuple[str, ...] = (), **settings: Any) -> Path:
    """A real adapter of `base` that changes what it says."""
    loaded = load_model(base, dtype=torch.float32)
    config = LoraConfig(**({"rank": 4, "alpha": 8.0} | settings))
    tokens = add_tokens(loaded, new_tokens) if new_tokens else ()
    inject(loaded.model, config, key="a", seed=1, tokens=tokens)
    stir(loaded.model)
    calm(loaded.model)
    save_adapter(loaded.model, "a", folder, config, str(base))
    if new_tokens:
        loaded.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def plain(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(base, tmp_path_factory.mktemp("plain") / "adapter")


@pytest.fixture(scope="session")
def said(plain: Path, base: Path) -> Reference:
    """What our engine answers with the plain adapter."""
    return ask(plain, base, storages=tuple(ROUNDING))


def read_back(
    path: Path, reader: str, base: Path, reference: Reference, stored: str = "float32", **more: Any
) -> Verdict:
    return verify(Written(path=path, reader=reader, base=base, stored=stored), reference, **more)
