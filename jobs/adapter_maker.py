"""The process that puts an adapter into a draft: `python -m jobs.adapter_maker ORDER DRAFT`, started by `jobs.makings`.

`ORDER` is JSON, one of

    {"do": "take", "zip": path, "name": …}                          a PEFT zip that a person uploaded
    {"do": "take", "files": {name: path}}                           the files of one, uploaded side by side
    {"do": "take", "folder": path} or {"do": "take", "hub": id}     a folder of this machine, or an adapter of the hub
    {"do": "combine", "folders": […], "combination": {…}, "base": …}   several adapters as one
    {"do": "shrink", "folder": path, "rank": n or null, "energy": share or null}
    {"do": "weigh", "folder": path}                                 nothing is made: what each rank would keep

It tells `progress` with a phase and the share that is done, and last one of `made`, `weighed` or `refused`.
"""

from __future__ import annotations

import logging
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from core.adapters import arrivals
from core.adapters.ways import Combination
from core.errors import AdapterError, UserError
from jobs.adapters import ADAPTER_FILES, AdapterFacts, require_adapter
from jobs.children import begin_child, tell, tell_refusal
from jobs.home import Home
from jobs.logs import set_up_logging
from jobs.room import require_room

TELL_SECONDS = 0.2

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out the order that the command line holds; 0 where it was, or was refused in words."""
    text, draft = arguments or sys.argv[1:]
    begin_child()
    set_up_logging()
    order, folder = orjson.loads(text), Path(draft)
    try:
        _ORDERS[order.pop("do")](folder, **order)
    except UserError as error:
        log.info("The adapter was refused: %s", error)
        _clear(folder)
        tell_refusal(_without_place(error, folder))
    except OSError as error:
        log.warning("The adapter could not be kept", exc_info=True)
        _clear(folder)
        why = error.strerror or str(error)
        tell_refusal(UserError("The adapter could not be kept", why, "Make room on the disk"))
    return 0


def take(draft: Path, order: dict[str, Any]) -> AdapterFacts:
    """Put an adapter from elsewhere into `draft`, which is new, and check it as the engine reads it.

    Raises:
        UserError: it cannot be had, is not one that the engine can read, or there is no room for it.
    """
    draft.mkdir()
    room = partial(require_room, Home(draft.parent.parent), "The adapter")
    tell("progress", phase="reading", share_done=None)
    if "zip" in order:
        arrivals.unpack(Path(order["zip"]), order["name"], ADAPTER_FILES, draft, room)
    elif "files" in order:
        files = {name: Path(path) for name, path in order["files"].items()}
        arrivals.copy_files(files, "What was uploaded", ADAPTER_FILES, draft, room)
    elif "folder" in order:
        arrivals.copy_folder(Path(order["folder"]), ADAPTER_FILES, draft, room)
    else:
        arrivals.fetch(order["hub"], ADAPTER_FILES, draft, room, _progress("downloading"))
    tell("progress", phase="checking", share_done=None)
    return check(draft)


def check(draft: Path) -> AdapterFacts:
    """What the adapter in `draft` is, once all of it was read as it will be in use.

    Raises:
        AdapterError: it is not one that the engine can read.
    """
    from core.adapters.peft_format import read_adapter  # torch comes in here

    read_adapter(draft)
    return require_adapter(draft)


def _take(draft: Path, **order: Any) -> None:
    _tell_made(take(draft, order))


def _combine(draft: Path, folders: Sequence[str], combination: dict[str, Any], base: str) -> None:
    from core.adapters.combine_folders import combine_folders

    tell("progress", phase="reading the adapters", share_done=None)
    wanted = Combination(**{**combination, "weights": tuple(combination["weights"])})
    energy = combine_folders(list(map(Path, folders)), wanted, draft, _progress("combining"), base or None)
    _tell_made(check(draft), energy)


def _shrink(draft: Path, folder: str, rank: int | None, energy: float | None) -> None:
    from core.adapters.combine_folders import shrink_folder

    tell("progress", phase="reading the adapter", share_done=None)
    reduced = shrink_folder(Path(folder), draft, rank=rank, energy=energy, progress=_progress("shrinking"))
    _tell_made(check(draft), reduced.energy_in_all)


def _weigh(draft: Path, folder: str) -> None:
    from core.adapters.combine_folders import spectra_of

    tell("progress", phase="reading the adapter", share_done=None)
    tell("weighed", modules=[asdict(module) for module in spectra_of(Path(folder)).values()])


_ORDERS: dict[str, Callable[..., None]] = {"take": _take, "combine": _combine, "shrink": _shrink, "weigh": _weigh}


def _tell_made(facts: AdapterFacts, energy: float | None = None) -> None:
    tell("made", row=facts.as_row(), method=facts.method, task=facts.task, energy=energy)


def _progress(phase: str) -> Callable[[int, int], None]:
    """Tells how much of a whole is done, a few times a second."""
    told = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told >= TELL_SECONDS:
            told = time.monotonic()
            tell("progress", phase=phase, share_done=done / total if total else None)

    return progress


def _clear(draft: Path) -> None:
    """Of what was refused nothing stays."""
    if draft.exists():
        shutil.rmtree(draft)


def _without_place(error: UserError, draft: Path) -> UserError:
    """`error` as it can be told: where our draft lies is of no use to anybody."""
    detail = error.detail.replace(str(draft), "").strip("/ ")
    return AdapterError(error.title.replace(str(draft), "it"), detail, error.hint)


if __name__ == "__main__":
    sys.exit(main())
