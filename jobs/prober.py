"""The process that measures what a run would take: `python -m jobs.prober CONFIG RECORDS SCRATCH`.

It tells (`jobs.children`) in which phase it is, and in the end the figures, or why there are none. It writes to the
folder SCRATCH alone, which whoever started it removes.
"""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import asdict
from pathlib import Path

import orjson

from core.config import parse
from core.errors import UserError
from core.models.catalogue import default_models_root
from jobs.children import begin_child, tell
from jobs.logs import set_up_logging

TRYING = "trying"

log = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Measure; 0 unless it failed."""
    options = _options(arguments)
    begin_child()
    set_up_logging()
    try:
        _measure(options)
    except UserError as error:
        log.info("Nothing was measured: %s", error, exc_info=error)
        tell("failed", sentence=str(error))
        return 1
    except Exception as error:
        log.exception("Nothing was measured because of a fault of ours")
        tell("failed", sentence=f"The trial step hit a fault of ours: {type(error).__name__}: {error}.")
        return 1
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="jobs.prober", description="Measure what a run would take.")
    parser.add_argument("config", help="JSON, of a RunConfig")
    parser.add_argument("records", type=Path)
    parser.add_argument("scratch", type=Path, help="an empty folder")
    return parser.parse_args(arguments)


def _measure(options: argparse.Namespace) -> None:
    config = parse(orjson.loads(options.config))
    from core.data.records import read_records
    from core.events import Note, Preparing, StepDone
    from core.train.memory import cap_memory  # torch comes in here
    from core.train.probe import Probed, Probing, probe

    for event in probe(
        config,
        records=read_records(options.records),
        scratch=options.scratch,
        models_root=default_models_root(),
        stop=lambda: None,  # who started us ends us
    ):
        if isinstance(event, Preparing):
            tell("phase", phase=event.phase, detail=event.detail)
        elif isinstance(event, Probing):
            cap_memory()  # as the worker does, so that what does not fit is told and not killed
            tell("phase", phase=TRYING, detail=f"rows of up to {event.longest:,} tokens")
        elif isinstance(event, StepDone):
            tell("phase", phase=TRYING, detail=f"{event.seconds:.1f} s so far")
        elif isinstance(event, Note):
            tell("note", text=event.text)
        elif isinstance(event, Probed):
            tell("done", figures=asdict(event))


if __name__ == "__main__":
    sys.exit(main())
