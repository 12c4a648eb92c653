"""The process that carries out one run: `python -m jobs.worker RUN_DIR`.

It tells everything it does by appending events to the run's folder and is told to end by the `control` file there, so
it needs neither the store nor the process that started it. Standard error goes to the run's log.

Where the disk is full, so that not even an event can be written, the room that the run has set aside is given up: the
event is written there, and the run pauses.

Until the first step there is nothing to keep, and SIGTERM ends the process at once; from then on it means: pause, as
when the machine shuts down.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import orjson

from core.config import RunConfig, parse
from core.errors import UserError
from core.events import Event, Failed, Paused, Started
from core.models.catalogue import default_models_root
from core.train.disk import disk_full, give_up_reserve, is_disk_full
from jobs.evaluations import evaluations_in
from jobs.heartbeat import begin_heartbeat
from jobs.home import RunFolder
from jobs.journal import EventWriter, read_wish
from jobs.logs import set_up_logging
from jobs.processes import NICE
from jobs.summaries import write_summary
from jobs.trackers import Trackers

log = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Carry out the run whose folder the command line names; 0 unless it failed."""
    options = _options(arguments)
    os.nice(NICE)
    set_up_logging()
    if options.gated and not sys.stdin.readline():
        return 0  # whoever started us could not put it on record
    folder = RunFolder(options.run_folder.resolve())
    begin_heartbeat(folder.heartbeat)
    with EventWriter(folder.events) as journal:
        end = _carry_out(folder, journal)
        if end is not None:
            journal.write(end)
    write_summary(folder)
    return 1 if isinstance(end, Failed) else 0


def _carry_out(folder: RunFolder, journal: EventWriter) -> Event | None:
    """How the run ended, where it has not told so itself. What it held on the disk is given back by then."""
    trackers: Trackers | None = None
    try:
        config, stop = parse(orjson.loads(folder.config.read_bytes())), _Stop(folder)
        trackers = Trackers(folder, config)
        _tell(_events(folder, config, stop), _Teller(journal, folder, stop), trackers)
    except UserError as error:
        log.info("The run failed: %s", error, exc_info=error)
        if is_disk_full(error.__cause__ or error):
            return disk_full(folder.path, folder.checkpoint_step or 0)
        return Failed(title=error.title, detail=error.detail, hint=error.hint)
    except Exception as error:
        log.exception("The run failed")
        if is_disk_full(error):
            return disk_full(folder.path, folder.checkpoint_step or 0)
        title = f"The worker hit a fault of ours: {type(error).__name__}: {error}"
        return Failed(title=title, hint="See the log; the last lines say where")
    finally:
        if trackers is not None:
            trackers.close()
    return None


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="jobs.worker", description="Carry out one run.")
    parser.add_argument("run_folder", type=Path)
    parser.add_argument("--gated", action="store_true", help="wait for a line on standard input before doing anything")
    return parser.parse_args(arguments)


def _tell(events: Iterator[Event], teller: _Teller, trackers: Trackers) -> None:
    for event in events:
        teller.tell(event)
        for note in trackers.take(event):
            teller.tell(note)


class _Teller:
    """Writes events down, on a full disk too."""

    def __init__(self, journal: EventWriter, folder: RunFolder, stop: _Stop) -> None:
        self._journal, self._folder, self._stop = journal, folder, stop
        self._missing = 0

    def tell(self, event: Event) -> None:
        """Write `event`; one that could not be written before makes the run pause, and says why.

        Raises:
            OSError: it cannot be written even in the room that was set aside.
        """
        if self._missing and isinstance(event, Paused) and not event.title:
            event = disk_full(self._folder.path, event.step, self._missing)
        try:
            self._journal.write(event)
        except OSError as error:
            if not is_disk_full(error):
                raise
            self._missing = give_up_reserve(self._folder.path)
            self._stop.pause()
            self._journal.write(event)


def _events(folder: RunFolder, config: RunConfig, stop: _Stop) -> Iterator[Event]:
    from core.data.health.near_duplicates import alike_in
    from core.data.records import read_records
    from core.train.memory import cap_memory
    from core.train.run import carry_out  # torch comes in here, after everything that can be wrong without it

    dataset = folder.home.dataset(config.data.dataset_id)
    for event in carry_out(
        config,
        records=read_records(dataset.records),
        alike=alike_in(dataset.health),
        run_folder=folder.path,
        models_root=default_models_root(),
        stop=stop,
        evaluations=evaluations_in(folder.events),
    ):
        if isinstance(event, Started):
            stop.begin()
            cap_memory()  # not sooner: while a model is read, its file's mapping counts as well
        yield event


class _Stop:
    """Answers whether the run is to end: because the control file says so, a SIGTERM came, or the disk is full.

    One that is to keep what it learned, and goes on from a checkpoint, has to read that first.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._control = folder.control
        self._is_reading = folder.checkpoint_step is not None
        self._is_pausing = False

    def __call__(self) -> str | None:
        wish = read_wish(self._control) or ("pause" if self._is_pausing else None)
        return None if wish == "keep" and self._is_reading else wish

    def begin(self) -> None:
        """The first step comes now: whatever there was to read is read, and SIGTERM means to pause."""
        self._is_reading = False
        signal.signal(signal.SIGTERM, self._terminate)

    def _terminate(self, _number: int, _frame: types.FrameType | None) -> None:
        self.pause()

    def pause(self) -> None:
        """From now on answer that it is to pause, unless something else is wished."""
        self._is_pausing = True


if __name__ == "__main__":
    sys.exit(main())
