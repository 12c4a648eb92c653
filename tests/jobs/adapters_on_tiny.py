"""Adapters of the tiny model that change what it says, in a home as if runs had left them."""

from __future__ import annotations

from pathlib import Path

import torch
from sqlalchemy import insert
from transformers import AutoModelForCausalLM

from core.adapters.peft_format import WEIGHTS_FILE, save_adapter
from jobs import tables
from jobs.home import open_home
from jobs.ids import new_id
from jobs.store import Store
from tests.core.tiny import adapt


def put_adapters(home: Path, model: Path, ranks: dict[str, int]) -> dict[str, str]:
    """An adapter of its rank for each name; their fingerprints."""
    store, fingerprints = Store(open_home(home)), {}
    for seed, (name, rank) in enumerate(ranks.items()):
        folder = home / "adapters_of_tests" / str(seed)
        base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        config = adapt(base, rank=rank, alpha=4 * rank, seed=seed)
        save_adapter(base, "a", folder, config, str(model))
        fingerprints[name] = f"{seed:08x}"
        values = {
            "id": new_id(), "run_id": None, "name": name, "base_model": str(model),
            "folder": str(folder.relative_to(home)), "rank": rank, "alpha": 4.0 * rank, "targets": '["auto"]',
            "bytes": (folder / WEIGHTS_FILE).stat().st_size, "fingerprint": fingerprints[name],
            "created_at": 1000.0 + seed,
        }  # fmt: skip
        with store._database.write() as connection:
            connection.execute(insert(tables.adapters).values(**values))
    store.close()
    return fingerprints
