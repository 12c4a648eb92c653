"""The process that makes rows for a dataset's draft: `python -m jobs.intake ORDER DRAFT`, started by `jobs.intakes`.

`ORDER` is JSON, one of

    {"source": path, "name": …, "mapping": … or null, "asks": …}   a person's file, or a folder of such
    {"hub": id, "config": …, "split": …, "name": …, "mapping": …}  a dataset on the hub
    {"parent": folder, "kinds": […], "profile": …, "limit": …}     another dataset's rows without those of some kinds

It tells `reading` with how many rows are read, what share of the file is, or of the rows that are then compared,
and last one of `taken`, `unsure` (what the
columns may mean) or `refused`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
import psutil

from core.data.formats.mapping import parse_mapping
from core.data.readers.hub import fetch_dataset
from core.errors import UserError
from jobs.children import begin_child, tell, tell_refusal
from jobs.cleaning import Cleaning, clean
from jobs.home import DatasetFolder
from jobs.logs import set_up_logging
from jobs.taking_in import Order, Taken, Tell, Unsure, take_in

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out the order that the command line holds; 0 where it was, or was refused in words."""
    text, draft = arguments or sys.argv[1:]
    begin_child()
    set_up_logging()
    try:
        taken = _carry_out(orjson.loads(text), DatasetFolder(Path(draft)))
        tell("taken", taken=asdict(taken))
    except Unsure as error:
        tell("unsure", problem=_words(error), guess=asdict(error.guess))
    except UserError as error:
        log.info("The file was refused: %s", error)
        tell_refusal(error)
    except OSError as error:
        log.warning("The rows could not be kept", exc_info=True)
        why = error.strerror or str(error)
        tell("refused", problem={"title": "The rows could not be kept", "detail": why, "hint": "Make room on the disk"})
    return 0


def _carry_out(order: dict[str, Any], draft: DatasetFolder) -> Taken:
    if "parent" in order:
        parent = DatasetFolder(Path(order["parent"]))
        profile = Path(order["profile"]) if order["profile"] else None
        cleaning = Cleaning(parent=parent, kinds=order["kinds"], profile=profile, limit=order["limit"])
        return clean(cleaning, draft, _progress(parent.records))
    mapping = parse_mapping(order["mapping"]) if order["mapping"] else None
    if "hub" in order:
        folder = draft.download
        files = fetch_dataset(order["hub"], order["config"], order["split"], folder, _told_bytes)
        return take_in(Order(source=folder, files=files, name=order["name"], mapping=mapping), draft, _progress(folder))
    source = Path(order["source"])
    wanted = Order(source=source, name=order["name"], mapping=mapping, asks=order.get("asks", False))
    return take_in(wanted, draft, _progress(source))


def _told_bytes(done: int, total: int) -> None:
    tell("reading", rows=0, share_done=done / total if total else None, is_comparing=False)


def _progress(source: Path) -> Tell:
    """Tells how far the reading of `source` is: by what this process has read since, of what the file has. Not every
    system counts what a process reads; there only the rows are told.
    """
    size = source.stat().st_size if source.is_file() else 0
    begin = _bytes_read()

    def told(rows: int, compared: float | None) -> None:
        if compared is not None:
            tell("reading", rows=rows, share_done=compared, is_comparing=True)
            return
        now = _bytes_read()
        done = min(1.0, (now - begin) / size) if size and now is not None and begin is not None else None
        tell("reading", rows=rows, share_done=done, is_comparing=False)

    return told


def _bytes_read() -> int | None:
    counters = getattr(psutil.Process(), "io_counters", None)
    return getattr(counters(), "read_chars", None) if counters is not None else None


def _words(error: UserError) -> dict[str, str]:
    return {"title": error.title, "detail": error.detail, "hint": error.hint}


if __name__ == "__main__":
    sys.exit(main())
