"""What both sides of a comparison begin with, so that they do the same work: rows, tokens with labels, an adapter.

    python -m benchmarks.instruments.starting_point '{"folder": …, "rows": 400, "settings": {…}}'

The folder receives

- `rows.jsonl`: the workload (`benchmarks.workload`), for whoever reads text;
- `tokens.jsonl`: one row a line as our encoder made it, in the order in which our loop takes them in the first epoch.
  `input_ids` and `labels` are in transformers' convention, where the model shifts the labels and not the data: a
  label stands at its own token. So an opponent is fed the same tokens and is asked for the same ones;
- `adapter/`: the fresh adapter that our run will make from the same seed, in PEFT's format.

The answer tells where the base model is, and what the rows are like. `filled_up` is how many positions a padded batch
has for each real token, over an epoch; `shared_beginning` is how many tokens all rows begin with alike.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from benchmarks.instruments.process import answer, order
from benchmarks.workload import rows
from core.config import DataConfig, LoraConfig, OptimConfig, QuantConfig, RunConfig

if TYPE_CHECKING:
    from core.data.tokens.encoding import Row

Bits = Literal[4, 8, 16, 32]

LEARNING_RATE = 1e-3
MAX_TOKENS = 1024


def our_config(*, rank: int, alpha: float, seed: int, batch_size: int, steps: int = 1, bits: Bits = 16) -> RunConfig:
    """Our run's settings in a comparison: every linear layer, a constant rate, no row held out."""
    return RunConfig(
        name="benchmark",
        data=DataConfig(dataset_id="benchmark", max_tokens=MAX_TOKENS, holdout=0.0),
        lora=LoraConfig(rank=rank, alpha=alpha, targets=("all-linear",)),
        quant=QuantConfig(bits=bits),
        optim=OptimConfig(
            learning_rate=LEARNING_RATE,
            schedule="constant",
            warmup=0.0,
            batch_size=batch_size,
            steps=steps,
            clip_norm=1.0,
            evaluations=1,
        ),
        seed=seed,
    )


def write(folder: Path, count: int, config: RunConfig) -> dict[str, Any]:
    """Fill `folder`; where the base model is, and what the rows are like."""
    import torch

    from core.data.reading import read_dataset
    from core.models.catalogue import default_models_root
    from core.models.starter import ensure_starter
    from core.train.tasks import task_of

    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows(count))
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")
    model_folder = ensure_starter(default_models_root(), lambda words: print(words, flush=True))
    task = task_of(config, read_dataset(folder / "rows.jsonl").records)
    loaded = task.load(model_folder, torch.float32, torch.device("cpu"))
    *_, encoding = task.encode(loaded, folder)
    batches = epoch(encoding.rows, config)
    _write_tokens(folder / "tokens.jsonl", batches)
    _write_adapter(folder / "adapter", loaded.model, config)
    lengths = [[len(row.tokens) for row in batch] for batch in batches]
    tokens = sum(map(sum, lengths))
    return {
        "model": str(model_folder),
        "rows": sum(map(len, lengths)),
        "tokens": tokens,
        "labels": sum(row.trained for batch in batches for row in batch),
        "filled_up": sum(len(batch) * max(batch) for batch in lengths) / tokens,
        "shared_beginning": len(os.path.commonprefix([row.tokens for batch in batches for row in batch])),
    }


def epoch(encoded: Any, config: RunConfig) -> list[list[Row]]:
    """The rows of each optimizer step of the first epoch, in order."""
    from core.data.tokens.splits import EpochOrder

    order = EpochOrder(len(encoded), config.optim.batch_size, config.seed)
    return [[encoded[number] for number in order.rows_of_step(step)] for step in range(order.steps)]


def _write_tokens(path: Path, batches: list[list[Row]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in (row for batch in batches for row in batch):
            file.write(json.dumps(as_others_take(list(row.tokens), list(row.labels))) + "\n")


def as_others_take(tokens: list[int], labels: list[int]) -> dict[str, list[int]]:
    """A row of ours, where a label stands before its token, as others take it."""
    from core.data.tokens.encoding import IGNORE

    last = [labels[-1]] if labels[-1] != IGNORE else []  # what is asked for must be there
    return {"input_ids": tokens + last, "labels": [IGNORE, *labels[:-1], *last]}


def _write_adapter(folder: Path, model: Any, config: RunConfig) -> None:
    from core.adapters.inject import inject
    from core.adapters.peft_format import save_adapter

    inject(model, config.lora, key="start", seed=config.seed)
    save_adapter(model, "start", folder, config.lora, "starter")


def main() -> None:
    """Write what is ordered."""
    given = order()
    answer(write(Path(given["folder"]), given["rows"], our_config(**given["settings"])))


if __name__ == "__main__":
    main()
