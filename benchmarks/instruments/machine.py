"""What a figure was measured on: the processor and what it can do, memory, versions, the commit, the day.

It reads the system's own accounts and imports nothing heavy, so a parent may ask for it before its children measure.
"""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

PROJECT = Path(__file__).parents[2]
# Those that decide how fast matrices are multiplied, in the kernel's spelling.
FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "asimd", "bf16")
PACKAGES = ("torch", "transformers", "tokenizers", "bitsandbytes", "trl", "peft", "accelerate", "datasets")


@functools.cache
def facts() -> dict[str, Any]:
    """All of it, as plain values; no path and no name of this machine is among them. As it was when first asked."""
    flags = set(_cpu("flags").split() or _cpu("Features").split())
    return {
        "processor": _cpu("model name") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "cores": psutil.cpu_count(logical=False),
        "threads": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name)) is not None},
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
    }


def _cpu(field: str) -> str:
    """What Linux says of the first core; nothing where it is not Linux."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""
    lines = (line.partition(":") for line in text.splitlines())
    return next((value.strip() for name, _, value in lines if name.strip() == field), "")


def _version(package: str) -> str | None:
    try:
        return str(version(package))
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit that was measured, with a mark where a program differed from it; None outside a checkout."""
    head = _git("rev-parse", "--short=12", "HEAD")
    if head is None:
        return None
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results", ":!docs")
    return head + (" and uncommitted changes" if changed else "")


def _git(*words: str) -> str | None:
    """What git says in this project, stripped; None where there is no git or no checkout."""
    try:
        said = subprocess.run(["git", *words], cwd=PROJECT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return said.stdout.strip() if said.returncode == 0 else None


class OthersShare:
    """How busy others kept this machine while we measured, for a judgment of the figures.

    `stop()` gives the share of all cores' time that went to processes other than this one and its ended children, or
    that the host took away.
    """

    def __init__(self) -> None:
        self.begin = self.look()

    def stop(self) -> float:
        """Between 0 and 1, since this was made."""
        (all_before, busy_before, own_before), (all_now, busy_now, own_now) = self.begin, self.look()
        others = (busy_now - busy_before) - (own_now - own_before)
        return max(0.0, others / max(all_now - all_before, 1e-9))

    @staticmethod
    def look() -> tuple[float, float, float]:
        """All cores' time since the machine's start, what of it was busy, and what was ours; in seconds."""
        times = psutil.cpu_times()
        everything = sum(getattr(times, name) for name in times._fields if not name.startswith("guest"))
        idle = times.idle + getattr(times, "iowait", 0.0)
        return everything, everything - idle, sum(os.times()[:4])
