"""A probe's child that measures nothing: `python -m tests.jobs.stand_in_probe`; the environment says how it behaves."""

from __future__ import annotations

import os
import sys
import threading

from jobs.children import begin_child, tell

BEHAVIOR = "PROBE_BEHAVIOR"


def main() -> None:
    """Behave."""
    begin_child()
    behavior = os.environ[BEHAVIOR]
    if behavior == "endless":
        tell("phase", phase="loading", detail="a model")
        threading.Event().wait()
    elif behavior == "refuses":
        tell("failed", sentence="Row 3 is odd.")
        sys.exit(1)
    elif behavior == "dies":
        os.kill(os.getpid(), 9)
    figures = {
        "peak_bytes": 1, "device_bytes": None, "tokens": 100, "longest": 50, "seconds": 2.0, "steps": 3,
        "mean_tokens": 60.0, "micro_tokens": 2048, "device": "cpu", "compute_dtype": "float32",
    }  # fmt: skip
    tell("done", figures=figures)


if __name__ == "__main__":
    main()
