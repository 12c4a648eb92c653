"""A run's figures for programs that draw curves: TensorBoard files always, trackio or Weights & Biases when asked.

The worker alone writes them, through accelerate's trackers, as it writes its events; `accelerate.tracking` costs it
less than a tenth of a second, since transformers has brought most of it in. The files lie in the run's folder, in
`tensorboard/`. What is sent elsewhere is figures and settings. Whoever gets them knows their own keys, by their own
means: the workbench asks for none and keeps none.

A resumed run goes on where the figures end: what it does again, from its checkpoint on, is not told twice, and a kill
costs at most the step that it hit. Files are written here, step by step, and not by tensorboardX's own writer: its
thread loses what waits when a worker is killed, and where the disk is full it ends, and whoever waits for it waits
forever.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.config import RunConfig, Tracker, to_dict
from core.errors import ConfigError
from core.events import EvalDone, Event, Note, Started, StepDone
from jobs.history import Steps, read_history
from jobs.home import RunFolder

PROJECT_NAME = "lora-workbench"
TITLES: Mapping[str, str] = {"tensorboard": "TensorBoard", "trackio": "trackio", "wandb": "Weights & Biases"}
log = logging.getLogger(__name__)


def require_installed(tracker: Tracker) -> None:
    """Raises: ConfigError, where the tracker is a package that is not here."""
    if tracker != "none" and importlib.util.find_spec(tracker) is None:
        raise ConfigError(
            f"{TITLES[tracker]} is not installed",
            hint=f"Install it with pip install {tracker}, or track with TensorBoard files alone",
            field="tracker",
        )


class Trackers:
    """What gets the figures of the run in `folder`; begun by its first step."""

    def __init__(self, folder: RunFolder, config: RunConfig) -> None:
        self._folder, self._config = folder, config
        self._trackers: dict[str, Any] = {}
        self._told = {"step": 0, "eval": -1}  # the last of each that an earlier attempt told of
        self._before: StepDone | None = None

    def take(self, event: Event) -> tuple[Note, ...]:
        """Hand the event's figures on; a note for each tracker that fails, which gets no more."""
        if isinstance(event, Started):
            self._before = None
            return self._begin()
        if isinstance(event, StepDone):
            figures = self._step(event)
        elif isinstance(event, EvalDone):
            figures = _evaluation(event)
        else:
            return ()
        if event.step <= self._told[event.event]:
            return ()
        return self._log(figures, event.step)

    def close(self) -> None:
        """Let every tracker write what it holds back."""
        for name, tracker in self._trackers.items():
            try:
                tracker.finish()
            except Exception:
                log.exception("%s could not be closed", TITLES[name])
        self._trackers = {}

    def _begin(self) -> tuple[Note, ...]:
        from accelerate.state import PartialState

        told, _ = read_history(self._folder.events)
        for each in told:
            if isinstance(each, Steps):
                self._told["step"] = max(self._told["step"], max(each.step))
            elif isinstance(each, EvalDone):
                self._told["eval"] = max(self._told["eval"], each.step)
        PartialState()  # accelerate's trackers log, and its log asks first whether it is the main process
        notes: list[Note] = []
        for name in ("tensorboard", *([self._config.tracker] if self._config.tracker != "none" else [])):
            try:
                tracker = self._started(name)
            except Exception as error:  # noqa: BLE001, see `_failed`
                notes.append(_failed(name, error))
            else:
                self._trackers[name] = tracker
        return tuple(notes)

    def _started(self, name: str) -> Any:
        from accelerate import tracking

        if name == "tensorboard":
            tracker = tracking.TensorBoardTracker("", self._folder.tensorboard)
            tracker.writer = _EventFile(self._folder.tensorboard)
            return tracker
        run_id = self._folder.path.name
        settings = {"config": _flat(to_dict(self._config)), "resume": "allow"}
        if name == "trackio":
            tracker = tracking.TrackioTracker(PROJECT_NAME, name=f"{self._config.name}-{run_id[-6:]}", **settings)
        else:
            where = {"id": run_id, "name": self._config.name, "dir": str(self._folder.path)}
            tracker = tracking.WandBTracker(PROJECT_NAME, **where, **settings)
        tracker.start()
        return tracker

    def _step(self, event: StepDone) -> dict[str, float]:
        before, self._before = self._before, event
        figures = {
            "loss/train": event.loss,
            "epoch": event.epoch,
            "learning_rate": event.learning_rate,
            "gradient_norm": event.grad_norm,
            "tokens": event.tokens,
            "memory/process_bytes": event.rss_bytes,
        }
        if event.device_bytes is not None:
            figures["memory/device_bytes"] = event.device_bytes
        if before is not None and event.seconds > before.seconds:
            figures["tokens_per_second"] = (event.tokens - before.tokens) / (event.seconds - before.seconds)
        return figures

    def _log(self, figures: Mapping[str, float], step: int) -> tuple[Note, ...]:
        notes: list[Note] = []
        for name, tracker in list(self._trackers.items()):
            try:
                tracker.log(dict(figures), step=step)
            except Exception as error:  # noqa: BLE001, see `_failed`
                del self._trackers[name]
                notes.append(_failed(name, error))
        return tuple(notes)


class _EventFile:
    """A new file of TensorBoard's in `folder`: what accelerate's tracker calls a writer. Each record is a length, its
    checksum, an event and the event's checksum (TensorFlow, `core/lib/io/record_writer.h`).

    Raises:
        OSError: it cannot be written; from each of its methods.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        earlier = len(list(folder.iterdir()))  # so that files of attempts in one second have names of their own
        self._file = (folder / f"events.out.tfevents.{int(time.time()):010}.{earlier}").open("xb")
        self._put(wall_time=time.time(), file_version="brain.Event:2")

    def add_scalar(self, tag: str, value: float, global_step: int) -> None:
        """Put down that `tag` was `value` after so many steps."""
        from tensorboardX.proto.summary_pb2 import Summary

        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
        self._put(wall_time=time.time(), step=global_step, summary=summary)

    def flush(self) -> None:
        """Hand what was put down to the system."""
        self._file.flush()

    def close(self) -> None:
        """End the file."""
        self._file.close()

    def _put(self, **fields: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event as FileEvent
        from tensorboardX.record_writer import masked_crc32c

        event = FileEvent(**fields).SerializeToString()
        size = struct.pack("<Q", len(event))
        sums = (struct.pack("<I", masked_crc32c(part)) for part in (size, event))
        self._file.write(size + next(sums) + event + next(sums))


def _evaluation(event: EvalDone) -> dict[str, float]:
    figures = {"loss/held_out": event.loss}
    shares = {"accuracy": event.accuracy, "token_accuracy": event.token_accuracy}
    figures |= {name: share for name, share in shares.items() if share is not None}
    if event.accuracy is None and event.loss < math.log(1e6):
        figures["perplexity"] = math.exp(event.loss)
    return figures


def _failed(name: str, error: Exception) -> Note:
    """What to say of a tracker, which is somebody else's code: anything may come out of it, and the run goes on."""
    log.warning("%s failed", TITLES[name], exc_info=error)
    said = str(error).partition("\n")[0][:200]
    return Note(text=f"{TITLES[name]} gets no more figures of this run: {type(error).__name__}: {said}")


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Settings by their dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{before}{name}.") if isinstance(value, dict) else {f"{before}{name}": value}
    return found
