"""Whether what a benchmark measures against is installed; the workbench itself never imports it."""

from __future__ import annotations

import importlib.util
import sys


def require(*packages: str) -> None:
    """Go on if all `packages` are installed, else end the process with one sentence that says how to get them."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f"{', '.join(missing)} is not installed; run: pip install -r benchmarks/requirements.txt")
