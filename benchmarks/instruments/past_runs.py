"""Runs as if they had been carried out: their rows in a home's database, and events such as a worker writes."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from core.config import parse, to_dict
from core.data.records import Conversation, Message, write_records
from core.events import EvalDone, Event, Finished, Sample, Started, StepDone
from jobs import tables
from jobs.home import open_home
from jobs.ids import new_id
from jobs.journal import EventWriter
from jobs.store import Store

TOKENS, SECONDS = 800, 1.1  # a step
WORDS = ("style", "facts", "baseline", "long-rows", "night", "retry")


def history(steps: int, evaluations: int = 10, seed: int = 0) -> Iterator[Event]:
    """What a run of so many steps tells, from its start to its end."""
    chance = random.Random(seed)
    every = max(1, steps // evaluations)

    def falling(step: int) -> float:
        return 1 + 1.7 * math.exp(-5 * step / steps)

    yield Started(
        steps=steps, first_step=1, train_rows=900, eval_rows=100, tokens_per_epoch=90_000, bits=16,
        trained_tokens_per_epoch=50_000, trainable_parameters=2_442_240, base_parameters=134_515_008,
        adapted_modules=210, compute_dtype="bfloat16", device="cpu",
    )  # fmt: skip
    for step in range(steps + 1):
        if step:
            yield StepDone(
                step=step, epoch=step / 900, loss=falling(step) + chance.gauss(0, 0.05),
                learning_rate=1e-4 * (1 - step / steps) + 1e-9, grad_norm=abs(chance.gauss(1, 0.2)),
                tokens=TOKENS * step, seconds=SECONDS * step + 0.01 * chance.random(),
                rss_bytes=1_500_000_000 + 4096 * (step % 1000), is_spike=chance.random() < 0.001,
            )  # fmt: skip
        if step % every == 0:
            share = 0.4 + 0.4 * step / steps
            yield EvalDone(step=step, loss=falling(step), token_accuracy=share)
            yield Sample(step=step, number=0, prompt="What is a star?", text=f"Arr, a star be a lantern, said {step}.")
    yield Finished(
        output="adapter", steps=steps, tokens=TOKENS * steps, seconds=SECONDS * steps,
        tokens_per_second=TOKENS / SECONDS, peak_rss_bytes=1_600_000_000, first_loss=2.7, last_loss=falling(steps),
        eval_loss=falling(steps), base_eval_loss=2.7,
    )  # fmt: skip


def write_history(path: Path, steps: int, *, evaluations: int = 10, seed: int = 0) -> None:
    """The events of such a run, as its worker would have written them."""
    moments = iter(range(1_700_000_000, 2_000_000_000))
    with EventWriter(path, clock=lambda: float(next(moments))) as writer:
        for event in history(steps, evaluations, seed):
            writer.write(event)


def add_past_runs(home: Path, count: int, *, steps: int, state: str = "finished") -> list[str]:
    """Put so many runs that are over into the home at `home`; their ids, the oldest first."""
    opened = open_home(home)
    store = Store(opened)
    try:
        dataset = {"id": "D", "name": "captain.jsonl", "rows": 1000, "file_format": "JSON Lines", "created_at": 1.0,
                   "row_format": "messages", "skipped": 0}  # fmt: skip
        runs = [_row(number, steps, state) for number in range(count)]
        with store._database.write() as connection:
            connection.execute(insert(tables.datasets).values(dataset))
            connection.execute(insert(tables.runs), runs)
    finally:
        store.close()
    opened.dataset("D").path.mkdir(parents=True)
    turns = (Message(role="user", content="What is a star?"), Message(role="assistant", content="A lantern."))
    write_records([Conversation(messages=turns, source_row=1)], opened.records("D"))
    for number, row in enumerate(runs):
        folder = opened.run(row["id"])
        folder.path.mkdir()
        folder.config.write_text(row["config"])
        write_history(folder.events, steps, seed=number)
    return [row["id"] for row in runs]


def _row(number: int, steps: int, state: str) -> dict[str, Any]:
    config = parse({
        "name": f"run {number:03}", "data": {"dataset_id": "D"}, "seed": number, "optim": {"steps": steps},
        "lora": {"rank": 2 ** (number % 6), "alpha": 16},
    })  # fmt: skip
    begun = 1_700_000_000.0 + 3600 * number
    return {
        "id": new_id(), "dataset_id": "D", "config": json.dumps(to_dict(config)), "state": state, "created_at": begun,
        "queued_at": begun, "started_at": begun + 1, "ended_at": begun + 1800, "attempt": 1, "events_offset": 0,
        "tags": json.dumps([WORDS[number % len(WORDS)]]), "note": f"try number {number}" if number % 7 == 0 else "",
    }  # fmt: skip
