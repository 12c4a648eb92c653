"""Where figures are kept: one JSON file a benchmark in `benchmarks/results`, with the machine that they are of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.instruments.machine import facts

FOLDER = Path(__file__).parent / "results"


def note_machine() -> None:
    """To be called before a program measures: the commit that its results name is the one that is there now."""
    facts()


def keep(name: str, figures: dict[str, Any], folder: Path = FOLDER) -> None:
    """Write `figures` as the last results of the benchmark `name`, with the machine's facts."""
    folder.mkdir(exist_ok=True)
    text = json.dumps({"machine": facts(), **_rounded(figures)}, indent=2, ensure_ascii=False)
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def last(name: str, folder: Path = FOLDER) -> dict[str, Any] | None:
    """The last results of the benchmark `name`; None where it was never run."""
    path = folder / f"{name}.json"
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _rounded(value: Any) -> Any:
    """`value` with every float at six significant digits: more is noise, and makes a diff hard to read."""
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(inner) for inner in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
