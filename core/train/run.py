"""A run from its config to an adapter on disk: fetch, load, quantize, inject, tokenize, train, save."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from core.adapters.card import write_card
from core.adapters.inject import activate, inject
from core.adapters.peft_format import read_adapter, save_adapter
from core.config import RunConfig
from core.data.batching import hold_out
from core.data.encoding import Encoding, Row, encode, ensure_template
from core.data.records import Record
from core.events import Cancelled, Event, Finished, Note, Preparing, Started
from core.kernels import packed_attention
from core.models.catalogue import public_name
from core.models.fetch import ensure_model
from core.models.load import LoadedModel, load_model
from core.models.precision import best_device, choose_precision
from core.train.loop import Loop, Stop
from core.train.memory import peak_rss_bytes
from core.train.trial import refuse_inexact

ADAPTER_KEY = "trained"


def carry_out(
    config: RunConfig, *, records: Sequence[Record], run_folder: Path, models_root: Path, stop: Stop
) -> Iterator[Event]:
    """Train as `config` says and write the adapter to `run_folder/adapter`; goes on from `run_folder/checkpoints`.

    Args:
        records: the dataset. stop: answers None, "keep" (end now, save what was learned) or "cancel" (end now); asked
            between phases and before every micro-batch.

    Yields:
        Everything worth reporting; the last event is `Finished` or `Cancelled`.

    Raises:
        UserError: the run cannot be carried out, or went wrong.
    """
    notes: list[str] = []
    yield Preparing(phase="fetching", detail=config.base_model)
    folder = ensure_model(config.base_model, models_root, notes.append)
    device = best_device()
    precision = choose_precision(device, config.quant.bits)
    yield Note(text=precision.reason)
    if stop():
        yield Cancelled(step=0)
        return
    yield Preparing(phase="loading", detail=folder.name)
    loaded = load_model(
        folder, dtype=precision.dtype, quant=config.quant, device=device, attention=packed_attention.NAME
    )
    refuse_inexact(loaded)
    yield Preparing(phase="injecting")
    modules = inject(loaded.model, config.lora, key=ADAPTER_KEY, seed=config.seed)
    activate(loaded.model, ADAPTER_KEY)
    yield Preparing(phase="tokenizing", detail=f"{len(records)} rows")
    if ensure_template(loaded.tokenizer):
        notes.append("The model has no chat template; a plain one is used (### User / ### Assistant)")
    encoding = encode(loaded.tokenizer, records, config.data.max_tokens)
    train_rows, eval_rows = hold_out(encoding.rows, config.data.holdout, config.seed)
    notes += _what_was_lost(encoding, eval_rows, config)
    yield from (Note(text=text) for text in notes)
    loop = Loop(loaded, config, train_rows, eval_rows, run_folder / "checkpoints", stop)
    yield from loop.resume()
    yield _started(loop, loaded, config, modules)
    yield from loop.run()
    yield from _end(loop, run_folder)


def _what_was_lost(encoding: Encoding, eval_rows: Sequence[Row], config: RunConfig) -> list[str]:
    limit = config.data.max_tokens
    notes = []
    if encoding.truncated:
        notes.append(f"{encoding.truncated} rows are longer than {limit} tokens and were cut")
    if encoding.without_labels:
        notes.append(f"{encoding.without_labels} rows keep nothing to train on within {limit} tokens and were left out")
    if config.data.holdout and not eval_rows:
        notes.append("Too few rows to hold any back: there is no evaluation loss")
    return notes


def _started(loop: Loop, loaded: LoadedModel, config: RunConfig, modules: Sequence[str]) -> Started:
    return Started(
        steps=loop.steps,
        first_step=loop.steps_done + 1,
        train_rows=len(loop.train_rows),
        eval_rows=len(loop.eval_rows),
        tokens_per_epoch=sum(len(row.tokens) for row in loop.train_rows),
        trained_tokens_per_epoch=sum(row.trained for row in loop.train_rows),
        trainable_parameters=sum(parameter.numel() for parameter in loop.parameters.values()),
        base_parameters=loaded.parameters,
        adapted_modules=len(modules),
        bits=config.quant.bits,
        compute_dtype=str(loaded.dtype).removeprefix("torch."),
        device=str(loaded.device),
    )


def _end(loop: Loop, run_folder: Path) -> Iterator[Event]:
    stopped = loop.steps_done < loop.steps
    if loop.stop() == "cancel" or loop.steps_done == 0:
        yield Cancelled(step=loop.steps_done)
        return
    output = run_folder / "adapter"
    _save_whole(loop, output)
    yield Finished(
        output=str(output),
        steps=loop.steps_done,
        tokens=loop.tokens,
        seconds=loop.seconds,
        tokens_per_second=loop.tokens / loop.seconds if loop.seconds else 0.0,
        peak_rss_bytes=peak_rss_bytes(),
        first_loss=loop.first_loss,
        last_loss=loop.last_loss,
        eval_loss=loop.eval_loss,
        base_eval_loss=loop.base_eval_loss,
        stopped=stopped,
    )


def _save_whole(loop: Loop, output: Path) -> None:
    """Write the adapter beside its final place, prove that it can be read, then move it there in one go."""
    temporary = output.with_name("adapter.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    base_model = public_name(loop.config.base_model)
    save_adapter(loop.loaded.model, ADAPTER_KEY, temporary, loop.config.lora, base_model)
    write_card(temporary, loop.config, base_model, eval_loss=loop.eval_loss, base_eval_loss=loop.base_eval_loss)
    read_adapter(temporary)
    shutil.rmtree(output, ignore_errors=True)
    os.replace(temporary, output)
