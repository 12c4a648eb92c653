"""A few optimizer steps of our engine, started as a person would, from the command line; one of the sides compared.

The run gets the rows as text and encodes them itself. Its own events say how long each optimizer step took, how many
real tokens it was fed, and how much memory its process had at most, from its first import to the adapter on disk.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.instruments.machine import OthersShare
from benchmarks.instruments.process import run


def train(rows: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Each optimizer step's seconds, tokens and loss, and the process's peak memory.

    Args:
        config: the run's settings as `core.config.to_dict` gives them.

    Raises:
        MeasurementFailed: the run ended with an error; its last words are in the message.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "run.yaml").write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
        command = [
            sys.executable, "app.py", "train", "--json", "--data", str(rows), "--config", str(folder / "run.yaml"),
            "--home", str(folder / "home"), "--output", str(folder / "adapter"),
        ]  # fmt: skip
        others = OthersShare()
        lines = run(command)
    return {**figures([json.loads(line) for line in lines]), "others_share": others.stop()}


def figures(events: list[dict[str, Any]]) -> dict[str, Any]:
    """What a run's events say, step by step; theirs are running totals."""
    steps = [event for event in events if event["event"] == "step"]
    ended = next(event for event in events if event["event"] == "finished")
    started = next(event for event in events if event["event"] == "started")
    return {
        "seconds": _differences([step["seconds"] for step in steps]),
        "tokens": _differences([step["tokens"] for step in steps]),
        "losses": [step["loss"] for step in steps],
        "peak_rss_bytes": ended["peak_rss_bytes"],
        "compute_dtype": started["compute_dtype"],
        "notes": [event["text"] for event in events if event["event"] == "note"],
    }


def _differences(totals: list[Any]) -> list[Any]:
    return [total - before for before, total in zip([0, *totals[:-1]], totals, strict=True)]
