"""The process that measures what a run has learned, after its end: `python -m jobs.appraiser RUN_FOLDER STEP`.

It tells (`jobs.children`) how far it is, and that it is done, or why it failed. What was measured is kept in the run's
folder, whole or not at all (`core.analysis.appraisal`).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import orjson

from core.analysis.appraisal import write_appraisal
from core.config import parse
from core.models.catalogue import default_models_root
from jobs.children import carry_out, tell
from jobs.evaluations import evaluations_in
from jobs.home import RunFolder

MEASURING = "measuring"


def main(arguments: list[str] | None = None) -> int:
    """Measure; 0 unless it failed."""
    options = _options(arguments)
    return carry_out(lambda: _appraise(options), undone="Nothing was measured", doing="Measuring what it learned")


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="jobs.appraiser", description="Measure what a run has learned.")
    parser.add_argument("run_folder", type=Path)
    parser.add_argument("step", type=int, help="how many steps the run has made")
    return parser.parse_args(arguments)


def _appraise(options: argparse.Namespace) -> None:
    folder = RunFolder(options.run_folder)
    config = parse(orjson.loads(folder.config.read_bytes()))
    from core.data.health.near_duplicates import alike_in
    from core.data.records import read_records
    from core.events import Preparing
    from core.train.appraising_later import Left, appraise_later  # torch comes in here
    from core.train.memory import cap_memory

    dataset = folder.home.dataset(config.data.dataset_id)
    progress = appraise_later(
        Left(
            config=config,
            folder=folder.path,
            records=read_records(dataset.records),
            models_root=default_models_root(),
            step=options.step,
            alike=alike_in(dataset.health),
            evaluations=evaluations_in(folder.events),
        )
    )
    is_capped = False
    while True:
        try:
            told = next(progress)
        except StopIteration as end:
            write_appraisal(folder.path, end.value)
            tell("done")
            return
        if isinstance(told, Preparing):
            tell("phase", phase=told.phase, detail=told.detail, share_done=None)
            continue
        if not is_capped:  # as the worker does, so that what does not fit is told and not killed
            cap_memory()
            is_capped = True
        tell("phase", phase=MEASURING, detail="", share_done=told.share_done)


if __name__ == "__main__":
    sys.exit(main())
