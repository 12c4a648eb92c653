"""The process that measures what a run would take: `python -m jobs.prober CONFIG RECORDS SCRATCH`.

It tells (`jobs.children`) in which phase it is, and in the end the figures, or why there are none. It writes to the
folder SCRATCH alone, which whoever started it removes.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

import orjson

from core.config import parse
from core.models.catalogue import default_models_root
from jobs.children import carry_out, tell

TRYING = "trying"


def main(arguments: list[str] | None = None) -> int:
    """Measure; 0 unless it failed."""
    options = _options(arguments)
    return carry_out(lambda: _measure(options), undone="Nothing was measured", doing="The trial step")


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
