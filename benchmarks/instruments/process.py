"""A measurement in a process of its own, so that its peak memory is its own and no other's warm state helps it.

The process is `python -m MODULE ORDER`, where ORDER is one JSON object; its answer is the last line that it prints,
another one, with `peak_rss_bytes`. What others took of the machine meanwhile is added (`OthersShare`).

A child's `ru_maxrss` begins with its parent's memory at the fork, so the parents here never import torch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.instruments.machine import OthersShare
from core.models.catalogue import default_models_root
from jobs.launchers.local import child_environment

PROJECT = Path(__file__).parents[2]
# Nothing may be fetched while a clock runs; `datasets` would otherwise draw a bar for every map.
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}


class MeasurementFailed(Exception):
    """A measurement's process ended without an answer."""


def measured(module: str, order: dict[str, Any], *, as_worker: bool = False) -> dict[str, Any]:
    """What `module` answers to `order`.

    Args:
        as_worker: give it the environment in which the workbench starts its own workers.

    Raises:
        MeasurementFailed: it ended with an error; its last words are in the message.
    """
    environment = {**child_environment(default_models_root()), **QUIET} if as_worker else QUIET
    others = OthersShare()
    lines = run([sys.executable, "-m", module, json.dumps(order)], environment)
    return {**json.loads(lines[-1]), "others_share": others.stop()}


def run(command: list[str], environment: dict[str, str] | None = None) -> list[str]:
    """The lines that `command` prints, run in the project's folder.

    Raises:
        MeasurementFailed: it ended with an error; its last words are in the message.
    """
    done = subprocess.run(
        command, cwd=PROJECT, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        words = " ".join(done.stderr.strip().splitlines()[-3:])
        raise MeasurementFailed(f"{' '.join(command[1:3])} ended with {done.returncode}: {words}")
    return done.stdout.strip().splitlines()


def order() -> dict[str, Any]:
    """What this process was told to measure."""
    given: dict[str, Any] = json.loads(sys.argv[1])
    return given


def answer(figures: dict[str, Any]) -> None:
    """Tell what was measured, with this process's peak memory."""
    from core.train.memory import peak_rss_bytes

    print(json.dumps({**figures, "peak_rss_bytes": peak_rss_bytes()}), flush=True)
