"""A worker that behaves as its first argument says: `python -m tests.jobs.stand_in BEHAVIOR RUN_DIR`.

It keeps to the worker's side of the bargain (the gate, the events, the control file) without a model, so that tests
can try how a run's process may end.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from core.events import Cancelled, Event, Failed, Finished, Paused, Preparing, Started, StepDone
from jobs.home import RunFolder
from jobs.journal import EventWriter, read_wish

STARTED = Started(
    steps=100, first_step=1, train_rows=9, eval_rows=1, tokens_per_epoch=90, trained_tokens_per_epoch=60,
    trainable_parameters=64, base_parameters=640, adapted_modules=2, bits=16, compute_dtype="float32", device="cpu",
)  # fmt: skip


def main(behavior: str, folder: RunFolder) -> int:
    """Wait at the gate, then behave."""
    if not sys.stdin.readline():
        return 0
    with (folder.path / "starts").open("a") as starts:
        starts.write(f"{os.getpid()} {time.monotonic()}\n")
    with EventWriter(folder.events) as journal:
        for event in BEHAVIORS[behavior](folder):
            journal.write(event)
    with (folder.path / "ends").open("a") as ends:
        ends.write(f"{time.monotonic()}\n")
    return 0


def finishes(folder: RunFolder) -> Iterator[Event]:
    yield STARTED
    yield _step(1)
    yield from _finish(folder, 1)


def heeds(folder: RunFolder) -> Iterator[Event]:
    """Steps until it is told to end."""
    yield STARTED
    step = 0
    while (wish := read_wish(folder.control)) is None:
        step += 1
        yield _step(step)
        time.sleep(0.01)
    if wish == "cancel":
        yield Cancelled(step=step)
    elif wish == "pause":
        yield Paused(step=step)
    else:
        yield from _finish(folder, step, stopped=True)


def prepares_forever(_folder: RunFolder) -> Iterator[Event]:
    yield Preparing(phase="loading")
    _pause_forever()


def ignores_everything(_folder: RunFolder) -> Iterator[Event]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield STARTED
    _pause_forever()


def finishes_but_stays(folder: RunFolder) -> Iterator[Event]:
    yield from finishes(folder)
    _pause_forever()


def leaves_silently(_folder: RunFolder) -> Iterator[Event]:
    yield Preparing(phase="loading")
    sys.exit(3)


def runs_out_of_disk(folder: RunFolder) -> Iterator[Event]:
    """The first time."""
    if len((folder.path / "starts").read_text().splitlines()) == 1:
        yield STARTED
        yield Paused(step=1, title="The disk is full", detail="2 MB are needed", hint="Make room, then resume")
    else:
        yield from finishes(folder)


def fails(_folder: RunFolder) -> Iterator[Event]:
    yield Failed(title="The loss is not a number", detail="step 7", hint="Lower the learning rate")


def finishes_without_adapter(_folder: RunFolder) -> Iterator[Event]:
    yield STARTED
    yield _finished(1, stopped=False)


BEHAVIORS = {
    behavior.__name__: behavior
    for behavior in (
        finishes,
        heeds,
        prepares_forever,
        ignores_everything,
        finishes_but_stays,
        leaves_silently,
        fails,
        finishes_without_adapter,
        runs_out_of_disk,
    )
}


def write_adapter(folder: Path, weights: bytes = b"weights") -> None:
    """An adapter's files as far as jobs look at them."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj"],
        "base_model_name_or_path": "x/y",
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    (folder / "adapter_model.safetensors").write_bytes(weights)
    (folder / "README.md").write_text("# An adapter\n")


def write_model(folder: Path, architecture: str = "LlamaForCausalLM") -> None:
    """A whole model's files as far as jobs look at them: two shards, and what does not belong to it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    (folder / "tokenizer.json").write_text("{}")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    for name, shard in shards.items():
        save_file({name: np.zeros(2, np.float32)}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    (folder / "training_args.bin").write_bytes(b"secret")


def _finish(folder: RunFolder, step: int, stopped: bool = False) -> Iterator[Event]:
    write_adapter(folder.adapter)
    yield _finished(step, stopped)


def _finished(step: int, stopped: bool) -> Finished:
    return Finished(
        output="adapter", steps=step, tokens=10 * step, seconds=0.1, tokens_per_second=100.0, peak_rss_bytes=1,
        first_loss=2.0, last_loss=1.0, eval_loss=1.5, base_eval_loss=2.5, stopped=stopped,
    )  # fmt: skip


def _step(step: int) -> StepDone:
    return StepDone(
        step=step, epoch=0.1, loss=2.0, learning_rate=1e-4, grad_norm=1.0, tokens=10, seconds=0.1, rss_bytes=1
    )


def _pause_forever() -> None:
    while True:
        signal.pause()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], RunFolder(Path(sys.argv[2]))))
