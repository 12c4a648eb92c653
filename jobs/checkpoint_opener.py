"""The process that makes a checkpoint an adapter: `python -m jobs.checkpoint_opener RUN_FOLDER CHECKPOINT OUTPUT`.

It tells (`jobs.children`) that it is done, or why it failed, and writes to the folder OUTPUT alone.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import orjson

from core.config import parse
from core.models.catalogue import default_models_root
from jobs.children import carry_out, tell
from jobs.home import RunFolder


def main(arguments: list[str] | None = None) -> int:
    """Write the adapter; 0 unless it failed."""
    options = _options(arguments)
    return carry_out(lambda: _write(options), undone="The checkpoint was not opened", doing="Opening the checkpoint")


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
