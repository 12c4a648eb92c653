"""Follows a run in a terminal until it ends, and lets Ctrl-C end it."""

from __future__ import annotations

import signal
import types
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event as Flag
from typing import Self

import orjson
import typer

from core.errors import RunError
from core.events import (
    Appraised,
    Appraising,
    Cancelled,
    EvalDone,
    Event,
    Failed,
    Finished,
    Note,
    Paused,
    Preparing,
    Sample,
    Saved,
    Started,
    StepDone,
    to_dict,
)
from jobs.adapters import copy_adapter
from jobs.service import Run, Service

LOOK_SECONDS = 0.2

Report = Callable[[Event], None]


class RunFailed(RunError):
    """The request was right, but what it asked for went wrong."""


class RunLeft(Exception):
    """The person left the terminal; the run goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Follower:
    """Reports a run's events as they come, from byte `offset` of its events on."""

    service: Service
    run_id: str
    report: Report
    offset: int = 0

    def follow(self, output: Path | None = None) -> Run:
        """Wait until the run has ended; its adapter is copied to `output` before the end is reported.

        Raises:
            RunFailed: it ended in any other way than finished.
            RunLeft: the person pressed Ctrl-C twice.
        """
        with Interrupts() as interrupts:
            run, finished = self._until_ended(interrupts)
        if run.state != "finished":
            raise _failure(run)
        if output is not None:
            assert run.adapter_id is not None
            copy_adapter(self.service.adapter(run.adapter_id).path, output)
        if finished is not None:
            self.report(replace(finished, output=str(output)) if output is not None else finished)
        return run

    def _until_ended(self, interrupts: Interrupts) -> tuple[Run, Finished | None]:
        offset, heeded, finished = self.offset, 0, None
        last: Event | None = None
        while True:
            run = self.service.run(self.run_id)  # asked before reading: an ended run's events are all there
            events, offset = self.service.events(self.run_id, offset)
            for event in events:
                last = event
                if isinstance(event, Finished):
                    finished = event
                else:
                    self.report(event)
            if run.is_at_rest:
                self._report_silent_end(run, last)
                return run, finished
            if interrupts.count > heeded:
                heeded = interrupts.count
                self._interrupt(run, heeded)
            interrupts.wait(LOOK_SECONDS)

    def _interrupt(self, run: Run, times: int) -> None:
        if times > 1:
            raise RunLeft(run.id)
        typer.echo("Stopping after this step; what was learned is kept. Ctrl-C again leaves at once.", err=True)
        with suppress(RunError):  # it may end by itself at this very moment, which is what was wanted
            self.service.stop_run(run.id)

    def _report_silent_end(self, run: Run, last: Event | None) -> None:
        """Tell of an end that the worker could not tell of: it died, or never started."""
        if isinstance(last, Finished | Paused | Failed | Cancelled):
            return
        if run.error is not None:
            self.report(Failed(title=run.error.title, detail=run.error.detail, hint=run.error.hint))
        elif run.state == "cancelled":
            self.report(Cancelled(step=0))


def wait_until_at_rest(service: Service, run_id: str) -> Run:
    """Follow a run in silence until it is paused or has ended."""
    run = service.run(run_id)
    if not run.is_at_rest:
        service.start()
    with Interrupts() as interrupts:
        while not run.is_at_rest:
            interrupts.wait(LOOK_SECONDS)
            if interrupts.count:
                raise RunLeft(run_id)
            run = service.run(run_id)
    return run


class Interrupts:
    """Counts Ctrl-C while the block lasts. The loop acts on the count: a handler must not touch the store."""

    def __init__(self) -> None:
        self.count = 0
        self._flag = Flag()

    def wait(self, seconds: float) -> None:
        """Return after `seconds`, or at a Ctrl-C."""
        self._flag.wait(seconds)
        self._flag.clear()

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _note(self, _number: int, _frame: types.FrameType | None) -> None:
        self.count += 1


def _failure(run: Run) -> RunFailed:
    if run.error is not None:
        return RunFailed(run.error.title, run.error.detail, run.error.hint)
    return RunFailed(f"The run {run.id} was {run.state}", hint=f"Go on with: runs resume {run.id}")


def report_json(event: Event) -> None:
    """`event` as one JSON line on standard output, its kind first."""
    typer.echo(orjson.dumps(to_dict(event)).decode())


def report_text(event: Event) -> None:
    """`event` as one readable line on standard output."""
    line = _line(event)
    if line:
        typer.echo(line)


def _line(event: Event) -> str:
    match event:
        case Preparing():
            return f"{event.phase} {event.detail}".rstrip()
        case Note():
            return event.text
        case Started():
            share = event.trainable_parameters / event.base_parameters
            return (
                f"training {event.trainable_parameters:,} of {event.base_parameters:,} parameters ({share:.1%}) "
                f"on {event.train_rows} rows, {event.steps} steps, {event.compute_dtype} on {event.device}"
            )
        case StepDone():
            speed = f"{event.tokens / event.seconds:.0f} tokens/s" if event.seconds else ""
            return f"step {event.step}  epoch {event.epoch:.2f}  loss {event.loss:.4f}  {speed}"
        case EvalDone():
            named = "" if event.accuracy is None else f", {event.accuracy:.1%} of rows right"
            chosen = "" if event.token_accuracy is None else f", {event.token_accuracy:.1%} of tokens right"
            right = named or chosen
            return f"held-out loss {event.loss:.4f}{right} after {event.step} steps"
        case Appraised():
            return event.verdict
        case Finished():
            return f"finished after {event.steps} steps and {event.seconds:.1f} s: {event.output}"
        case Paused():
            return (
                f"paused after {event.step} steps: {event.title}" if event.title else f"paused after {event.step} steps"
            )
        case Cancelled():
            return f"cancelled after {event.step} steps"
        case Sample() | Saved() | Appraising() | Failed():
            return ""  # to be read on the page, no news, and said on standard error
