"""A run's events folded into what a page draws: curves, phases, notes and how it ended.

`Story` is the fold, `Stories` keeps one story a run for all pages of the process, so that a reload, a second tab or
fifty visitors read each event once. A story is bounded: a curve that outgrows `Curve.limit` points keeps every second
one, and from then on takes only every second new one, so the whole history stays in sight whatever the run's length.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field, replace

from core.events import Cancelled, EvalDone, Event, Failed, Finished, Note, Paused, Preparing, Saved, Started, StepDone
from jobs.service import Service


@dataclass
class Curve:
    """Points in order of x, at most `limit` of them; the newest point is always there."""

    limit: int = 1000
    x: list[float] = field(default_factory=list)
    y: list[float] = field(default_factory=list)
    _stride: int = 1
    _seen: int = 0

    def add(self, x: float, y: float) -> None:
        """Take one more point; the one before it goes if it was only there for being the newest."""
        if self.x and (self._seen - 1) % self._stride:
            self.x.pop()
            self.y.pop()
        self.x.append(x)
        self.y.append(y)
        self._seen += 1
        if len(self.x) > self.limit:
            self._thin()

    def cut(self, x: float) -> None:
        """Forget what lies at `x` and after: a resumed run draws it again."""
        while self.x and self.x[-1] >= x:
            self.x.pop()
            self.y.pop()
        self._seen = len(self.x) and (len(self.x) - 1) * self._stride + 1

    def copy(self) -> Curve:
        """One that goes its own way."""
        return replace(self, x=self.x.copy(), y=self.y.copy())

    def _thin(self) -> None:
        newest = self.x[-1], self.y[-1]
        self.x, self.y = self.x[::2], self.y[::2]
        self._stride *= 2
        if self.x[-1] != newest[0]:
            self.x.append(newest[0])
            self.y.append(newest[1])


@dataclass
class Story:
    """Everything that a run has reported so far. `version` changes with every event. `step` is the last one done, which
    after a resume is the checkpoint's. Accuracies are shares of rows, by the newest evaluation and by the one before
    the first step.
    """

    version: int = 0
    offset: int = 0
    step: int = 0
    phase: Preparing | None = None
    phases: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    started: Started | None = None
    last: StepDone | None = None
    saved: Saved | None = None
    accuracy: float | None = None
    base_accuracy: float | None = None
    end: Finished | Paused | Cancelled | Failed | None = None
    loss: Curve = field(default_factory=Curve)
    spikes: Curve = field(default_factory=Curve)
    evaluation: Curve = field(default_factory=Curve)
    learning_rate: Curve = field(default_factory=Curve)
    process_memory: Curve = field(default_factory=Curve)
    device_memory: Curve = field(default_factory=Curve)
    speed: Curve = field(default_factory=Curve)

    @property
    def steps(self) -> int:
        """How many steps are planned; 0 while that is not known."""
        return self.started.steps if self.started else 0

    @property
    def seconds_left(self) -> float | None:
        """From the mean speed so far; None before there is one."""
        if not self.last or not self.step or self.end:
            return None
        return self.last.seconds / self.step * max(0, self.steps - self.step)

    @property
    def tokens_per_second(self) -> float | None:
        """Since the first step; None before there is one."""
        if not self.last or self.last.seconds <= 0:
            return None
        return self.last.tokens / self.last.seconds

    def copy(self) -> Story:
        """One that goes its own way."""
        curves = {name: value.copy() for name, value in vars(self).items() if isinstance(value, Curve)}
        return replace(self, phases=self.phases.copy(), notes=self.notes.copy(), **curves)

    def take(self, event: Event) -> None:
        """Fold one more event in."""
        self.version += 1
        if isinstance(event, StepDone):
            self._step(event)
        elif isinstance(event, EvalDone):
            self._evaluate(event)
        elif isinstance(event, Started):
            self._start(event)
        elif isinstance(event, Preparing):
            self.phase, self.end = event, None
            if self.phases and self.phases[-1].startswith(f"{event.phase}\t"):
                self.phases.pop()  # it goes on
            self.phases.append(f"{event.phase}\t{event.detail}")
        elif isinstance(event, Note):
            self.notes.append(event.text)
        elif isinstance(event, Saved):
            self.saved = event
        else:
            self.end = event

    def _start(self, event: Started) -> None:
        self.started, self.phase, self.end = event, None, None
        self.step = event.first_step - 1
        for curve in self._curves():
            curve.cut(event.first_step)
        if event.first_step == 1:
            self.evaluation.cut(0)
            self.last = None
        else:
            self.evaluation.cut(event.first_step)

    def _evaluate(self, event: EvalDone) -> None:
        self.evaluation.add(event.step, event.loss)
        self.accuracy = event.accuracy
        if event.step == 0:
            self.base_accuracy = event.accuracy

    def _step(self, event: StepDone) -> None:
        before = self.last
        if before and event.seconds > before.seconds and event.tokens > before.tokens:
            self.speed.add(event.step, (event.tokens - before.tokens) / (event.seconds - before.seconds))
        elif not before and event.seconds > 0:
            self.speed.add(event.step, event.tokens / event.seconds)
        self.last, self.step = event, event.step
        self.loss.add(event.step, event.loss)
        if event.is_spike:
            self.spikes.add(event.step, event.loss)
        self.learning_rate.add(event.step, event.learning_rate)
        self.process_memory.add(event.step, event.rss_bytes)
        if event.device_bytes is not None:
            self.device_memory.add(event.step, event.device_bytes)

    def _curves(self) -> tuple[Curve, ...]:
        return self.loss, self.spikes, self.learning_rate, self.process_memory, self.device_memory, self.speed


class Stories:
    """The stories of the runs that somebody looked at lately, kept up to date on asking. One that was given stays as it
    is, since its reader draws from it while the next one asks.
    """

    def __init__(self, service: Service, capacity: int = 64) -> None:
        self._service = service
        self._capacity = capacity
        self._stories: OrderedDict[str, _Kept] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, run_id: str) -> Story:
        """The run's story, with all that it has reported until now.

        Raises:
            NotFound: there is no such run.
        """
        with self._lock:
            kept = self._stories.setdefault(run_id, _Kept())
            self._stories.move_to_end(run_id)
            while len(self._stories) > self._capacity:
                self._stories.popitem(last=False)
        with kept.lock:
            events, offset = self._service.events(run_id, kept.story.offset)
            if events:
                kept.story = kept.story.copy()
                kept.story.offset = offset
                for event in events:
                    kept.story.take(event)
            return kept.story


@dataclass
class _Kept:
    story: Story = field(default_factory=Story)
    lock: threading.Lock = field(default_factory=threading.Lock)
