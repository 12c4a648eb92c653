"""Runs of our engine that are carried on one optimizer step at a time, so that several can take turns in one process.

Compared in turns, runs see the same machine: what others take of it meanwhile hits all of them alike.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from benchmarks.instruments.process import MeasurementFailed
from core.config import RunConfig
from core.data.records import Conversation, Message, Record, read_records, write_records
from core.events import Note, Started, StepDone
from core.models.catalogue import default_models_root
from core.train.run import carry_out

FOREVER = 1_000_000  # steps; nobody waits for the last


@dataclass(frozen=True, slots=True)
class Step:
    """What one optimizer step took, as the run's own events say."""

    tokens: int
    seconds: float
    loss: float


class Stepping:
    """One run that stands between two steps; a context manager, whose folder holds the records and what the run keeps.

    `config` is what it runs by, `started` its own event of that name, and `notes` are what it said before that.
    """

    started: Started

    def __init__(self, config: RunConfig, records: Iterable[Record]) -> None:
        self.config = replace(config, optim=replace(config.optim, steps=FOREVER))
        self.records = records
        self._tokens, self._seconds = 0, 0.0
        self.notes: list[str] = []

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        write_records(self.records, folder / "records.jsonl")
        self._events: Any = carry_out(
            self.config,
            records=read_records(folder / "records.jsonl"),
            run_folder=folder / "run",
            models_root=default_models_root(),
            stop=lambda: None,
        )
        for event in self._events:
            if isinstance(event, Note):
                self.notes.append(event.text)
            elif isinstance(event, Started):
                self.started = event
                break
        return self

    def __exit__(self, *_: object) -> None:
        self._events.close()
        self._folder.cleanup()

    def step(self) -> Step:
        """Carry out one optimizer step.

        Raises:
            MeasurementFailed: the run has something to say, so it is not the one that was to be measured.
        """
        done = next(event for event in self._events if isinstance(event, StepDone | Note))
        if isinstance(done, Note):
            raise MeasurementFailed(done.text)
        step = Step(done.tokens - self._tokens, done.seconds - self._seconds, done.loss)
        self._tokens, self._seconds = done.tokens, done.seconds
        return step


def conversations(texts: Iterable[tuple[str, str]], *, numbered: bool = False) -> Iterable[Record]:
    """Records of one question and its answer each; where `numbered`, each begins with a number of its own."""
    for number, (question, answer) in enumerate(texts, start=1):
        system = (Message(role="system", content=f"{number:06}"[::-1]),) if numbered else ()
        turns = (Message(role="user", content=question), Message(role="assistant", content=answer))
        yield Conversation(messages=(*system, *turns), source_row=number)
