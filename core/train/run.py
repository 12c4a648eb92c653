"""A run from its config to what was trained, on disk: fetch, load, encode, make ready, train, save.

The encoded rows lie in a nameless file in the run's folder, which is gone when the run has ended, however it does; a
resumed run encodes its records again.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from core.analysis.appraisal import FILE
from core.config import RunConfig
from core.data.health.near_duplicates import Alike
from core.data.records import Records
from core.data.tokens.encoding import Encoding
from core.data.tokens.splits import hold_out, lengths_of, trained_of
from core.durable import flush, flush_all
from core.events import Cancelled, Event, Finished, Note, Paused, Preparing, Started
from core.models.fetch import ensure_model
from core.models.precision import best_device, choose_precision
from core.train.appraising import appraise_run
from core.train.checkpoint import keep_precision
from core.train.checkpointing import checkpoint_blocks
from core.train.disk import disk_full, is_disk_full
from core.train.loop import Loop, Stop, Subject
from core.train.memory import folder_bytes, peak_rss_bytes
from core.train.methods import Losses, Method, method_of
from core.train.samples import Sampler, prompts_of
from core.train.tasks import task_of

TELL_SECONDS = 1.0  # between two words on how far tokenizing is


def carry_out(
    config: RunConfig,
    *,
    records: Records,
    run_folder: Path,
    models_root: Path,
    stop: Stop,
    alike: Alike | None = None,
    evaluations: Mapping[int, float] | None = None,
) -> Iterator[Event]:
    """Train as `config` says and write the result to `run_folder/adapter`; goes on from `run_folder/checkpoints`.

    Args:
        records: the dataset.
        alike: which of its rows are nearly the same; such are not held out while another of them is trained on.
        stop: answers None, "keep" (end now, save what was learned), "pause" (end now, to go on
            another day) or "cancel" (end now); asked between phases, while rows are tokenized, and before every micro-
            batch.
        evaluations: losses on held-out rows, by step, that were measured when the run was carried out before.

    Yields:
        Everything worth reporting; the last event is `Finished`, `Paused` or `Cancelled`.

    Raises:
        UserError: the run cannot be carried out, or went wrong.
    """
    loop_and_method = yield from prepare(
        config, records=records, run_folder=run_folder, models_root=models_root, stop=stop, alike=alike
    )
    if loop_and_method is None:
        yield _given_up(stop)
        return
    loop, method = loop_and_method
    yield from loop.resume()
    loop.evaluations |= {step: loss for step, loss in (evaluations or {}).items() if step <= loop.steps_done}
    yield _started(loop, method)
    try:
        yield from loop.run()
        yield from _end(loop, method, run_folder)
    finally:
        loop.reserve.release()


def prepare(
    config: RunConfig,
    *,
    records: Records,
    run_folder: Path,
    models_root: Path,
    stop: Stop,
    alike: Alike | None = None,
) -> Generator[Event, None, tuple[Loop, Method] | None]:
    """All that `carry_out` does before the first step. Arguments and errors as there; of a run that went on before,
    nothing is read but its precision.

    Returns:
        The run's loop and its method; None where `stop` has answered.
    """
    method, task = method_of(config), task_of(config, records)
    notes: list[str] = []
    yield Preparing(phase="fetching", detail=config.base_model)
    folder = ensure_model(config.base_model, models_root, notes.append)
    device = best_device()
    precision = keep_precision(run_folder, lambda: choose_precision(device, config.quant.bits))
    yield Note(text=precision.reason)
    if stop():
        return None
    yield Preparing(phase="loading", detail=folder.name)
    loaded = task.load(folder, method.stored_in(precision.dtype), device)
    method.extend(loaded)
    objective, remarks = task.objective(loaded)
    encoding = yield from _encoded(task.encode(loaded, run_folder), len(records), stop)
    if encoding is None:
        return None
    train_rows, eval_rows, copies = hold_out(encoding.rows, config.data.holdout, config.seed, alike)
    yield from (Note(text=text) for text in (*notes, *remarks, *task.losses(encoding)))
    if copies:
        what = "1 row is a copy of another" if copies == 1 else f"{copies:,} rows are copies of others"
        yield Note(text=f"{what}; equal rows are never held back from one side and trained on the other")
    if alike is not None and len(alike.rows):
        what = "1 row is nearly another" if len(alike.rows) == 1 else f"{len(alike.rows):,} rows are nearly others"
        yield Note(text=f"{what}; such rows are held back together or not at all")
    if config.data.holdout and not eval_rows:
        yield Note(text="Too few rows that differ to hold any back: there is no evaluation loss")
    yield Preparing(phase="injecting")
    trainables = method.begin(loaded, objective, train_rows, precision.dtype)
    if config.optim.checkpointing:
        checkpoint_blocks(loaded.model)
    sampler = None
    if config.task == "chat":
        sampler = Sampler(loaded, prompts_of(config.samples, loaded, records, eval_rows), trainables.autocast)
    subject = Subject(loaded=loaded, trainables=trainables, objective=objective, sampler=sampler)
    return Loop(subject, config, train_rows, eval_rows, run_folder / "checkpoints", stop), method


def _encoded(progress: Iterator[Encoding[Any]], rows: int, stop: Stop) -> Generator[Event, None, Encoding[Any] | None]:
    """Returns all rows, tokenized, or None where the run is to end; tells now and then how far it is."""
    yield Preparing(phase="tokenizing", detail=f"{rows:,} rows")
    told = time.monotonic()
    for encoding in progress:
        if stop():
            return None
        if time.monotonic() - told >= TELL_SECONDS:
            told = time.monotonic()
            yield Preparing(phase="tokenizing", detail=f"{encoding.records:,} of {rows:,} rows")
    return encoding


def _started(loop: Loop, method: Method) -> Started:
    trainables, loaded = loop.subject.trainables, loop.loaded
    return Started(
        steps=loop.steps,
        first_step=loop.steps_done + 1,
        train_rows=len(loop.train_rows),
        eval_rows=len(loop.eval_rows),
        tokens_per_epoch=int(lengths_of(loop.train_rows).sum()),
        trained_tokens_per_epoch=int(trained_of(loop.train_rows).sum()),
        trainable_parameters=sum(parameter.numel() for parameter in loop.parameters.values()),
        base_parameters=loaded.parameters,
        adapted_modules=len(trainables.modules),
        bits=loop.config.quant.bits,
        compute_dtype=str(trainables.autocast or loaded.dtype).removeprefix("torch."),
        device=str(loaded.device),
        method=method.name,
    )


def _end(loop: Loop, method: Method, run_folder: Path) -> Iterator[Event]:
    stopped = loop.steps_done < loop.steps
    is_given_up = loop.steps_done == 0 or (loop.stop() == "pause" and not loop.is_over)
    if loop.stop() == "cancel" or (is_given_up and not loop.reserve.is_used):
        yield _given_up(loop.stop, loop.steps_done)
        return
    output = run_folder / "adapter"
    (run_folder / FILE).unlink(missing_ok=True)  # it would be of other weights
    if not loop.reserve.is_used:
        _save_if_there_is_room(loop, method, output)
    if loop.reserve.is_used:
        yield disk_full(run_folder, loop.saved_step, loop.reserve.size)
        return
    finished = Finished(
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
        output_bytes=folder_bytes(output),
    )
    if not stopped and not loop.stop():  # who stops a run wants the machine back
        yield from appraise_run(loop, run_folder)
        if loop.stop() == "cancel":
            yield _given_up(loop.stop, loop.steps_done)
            return
    yield finished


def _given_up(stop: Stop, step: int = 0) -> Event:
    return Paused(step=step) if stop() == "pause" else Cancelled(step=step)


def _save_if_there_is_room(loop: Loop, method: Method, output: Path) -> None:
    try:
        loop.reserve.release()  # what it was kept for has been written
        _save_whole(loop, method, output)
    except (OSError, SafetensorError) as error:
        if not is_disk_full(error):
            raise
        loop.reserve.is_used = True


def _save_whole(loop: Loop, method: Method, output: Path) -> None:
    """Write what was trained beside its final place, proved to be readable there, then move it in one go."""
    temporary = output.with_name("adapter.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        method.save(temporary, Losses(trained=loop.eval_loss, base=loop.base_eval_loss))
        flush_all(temporary)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(output, ignore_errors=True)
    os.replace(temporary, output)
    flush([output.parent])
