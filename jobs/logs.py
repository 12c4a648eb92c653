"""How an entry point logs: to standard error, our own words and other people's warnings."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

TAIL_BYTES = 64 * 1024

# What these say at a lower level is about themselves. bitsandbytes warns on every CPU of a kernel that it does without.
_QUIET = {"alembic": logging.WARNING, "bitsandbytes": logging.ERROR, "httpx": logging.WARNING}


def set_up_logging(level: int = logging.INFO) -> None:
    """Call once, first thing in a process; a second call changes nothing."""
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(least)


def tail(log: Path, lines: int) -> str:
    """The last `lines` of the file `log`, as far as `TAIL_BYTES` hold them; empty where there is none."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
        text = file.read().decode("utf-8", "replace")
    return "\n".join(text.splitlines()[-lines:])
