"""One side of `benchmarks.tokenizing`: python -m benchmarks.instruments.tokenizing_side ORDER

The order names the `side`, the `folder` with the records and the number of `cores`, to which the process keeps, with
as many threads of the tokenizer.

- `ours`: from the records' file to rows with labels in a store, then, apart, all rows of an epoch from there into
  packed batches, as the loop takes them. With `steps`, no more than these steps are packed.
- `map`: the same conversations in a `datasets.Dataset`, through `map(batched=True)` with the tokenizer's own
  `apply_chat_template`, to tokens without labels. `num_proc` is the number of its processes, 0 for none but this one.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from benchmarks.instruments.process import answer, order

BATCH_SIZE = 8


def keep_to(cores: int, threads: bool) -> None:
    """Leave all cores but `cores`, and let the tokenizer use threads or not."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    os.environ["RAYON_NUM_THREADS"] = str(cores)
    os.environ["TOKENIZERS_PARALLELISM"] = str(threads).lower()


def ours(folder: Path, steps: int | None) -> dict[str, Any]:
    """Seconds of both parts, and of a step's rows."""
    import torch

    from core.data.records import read_records
    from core.data.tokens.batching import pack
    from core.data.tokens.encoding import encode
    from core.data.tokens.splits import EpochOrder, hold_out

    torch.set_num_threads(1)
    tokenizer = starter()
    begin = time.perf_counter()
    rows = encode(tokenizer, read_records(folder / "records.jsonl"), 1024, folder).rows
    encoded = time.perf_counter()
    train = hold_out(rows, 0.0 if steps is None else 0.1, seed=0).train
    order = EpochOrder(len(train), BATCH_SIZE, seed=0)
    order.rows_of_step(0)
    ready = time.perf_counter()
    tokens = 0
    for step in range(order.steps if steps is None else min(steps, order.steps)):
        batch = pack([train[number] for number in order.rows_of_step(step)], torch.device("cpu"))
        tokens += batch.tokens.numel()
    packed = time.perf_counter()
    return {
        "encode_seconds": encoded - begin,
        "split_seconds": ready - encoded,
        "pack_seconds": packed - ready,
        "step_seconds": (packed - ready) / (step + 1),
        "packed_tokens": tokens,
    }


def mapped(folder: Path, num_proc: int) -> dict[str, Any]:
    """Seconds of `datasets.map`."""
    import datasets

    tokenizer = starter()
    data = datasets.Dataset.from_json(str(folder / "records.jsonl"), cache_dir=str(folder / "cache"))

    def tokens(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {"input_ids": tokenizer.apply_chat_template(rows["messages"], tokenize=True, return_dict=False)}

    begin = time.perf_counter()
    found = data.map(
        tokens, batched=True, num_proc=num_proc or None, remove_columns=data.column_names, load_from_cache_file=False
    )
    seconds = time.perf_counter() - begin
    assert len(found) == len(data) and found[0]["input_ids"]
    return {"encode_seconds": seconds}


def starter() -> Any:
    """The starter's tokenizer."""
    from transformers import AutoTokenizer

    from core.models.catalogue import default_models_root
    from core.models.starter import ensure_starter

    return AutoTokenizer.from_pretrained(ensure_starter(default_models_root(), lambda _: None))


def main() -> None:
    """Measure what is ordered."""
    given = order()
    folder, num_proc = Path(given["folder"]), given.get("num_proc", 0)
    keep_to(given["cores"], threads=num_proc == 0)
    answer(ours(folder, given.get("steps")) if given["side"] == "ours" else mapped(folder, num_proc))


if __name__ == "__main__":
    main()
