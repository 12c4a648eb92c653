"""The process that makes a checkpoint an adapter: `python -m jobs.checkpoint_opener RUN_FOLDER CHECKPOINT OUTPUT`.

It tells (`jobs.children`) that it is done, or why it failed, and writes to the folder OUTPUT alone.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import orjson

from core.config import parse
from core.errors import UserError
from core.models.catalogue import default_models_root
from jobs.children import begin_child, tell
from jobs.home import RunFolder
from jobs.logs import set_up_logging

log = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Write the adapter; 0 unless it failed."""
    options = _options(arguments)
    begin_child()
    set_up_logging()
    try:
        _write(options)
    except UserError as error:
        log.info("The checkpoint was not opened: %s", error, exc_info=error)
        tell("failed", title=error.title, detail=error.detail, hint=error.hint)
        return 1
    except Exception as error:
        log.exception("The checkpoint was not opened because of a fault of ours")
        title = f"Opening the checkpoint hit a fault of ours: {type(error).__name__}: {error}"
        tell("failed", title=title, detail="", hint="See the app's log")
        return 1
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="jobs.checkpoint_opener", description="Make a checkpoint an adapter.")
    parser.add_argument("run_folder", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("output", type=Path, help="a folder that is not there yet")
    return parser.parse_args(arguments)


def _write(options: argparse.Namespace) -> None:
    folder = RunFolder(options.run_folder)
    config = parse(orjson.loads(folder.config.read_bytes()))
    from core.train.opened import write_opened  # torch comes in here

    step = write_opened(
        options.checkpoint,
        config,
        run_folder=folder.path,
        models_root=default_models_root(),
        output=options.output,
    )
    tell("done", step=step)


if __name__ == "__main__":
    sys.exit(main())
