"""A run's events folded into what a page draws: curves, phases, notes and how it ended.

`Story` is the fold, `Stories` keeps one story a run for all pages of the process, so that a reload, a second tab or
fifty visitors read each event once. A story is bounded: a curve that outgrows `Curve.limit` points keeps every second
one, and from then on takes only every second new one, so the whole history stays in sight whatever the run's length.
Curves of what every step tells have the same points, so one of them can be drawn over another.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from itertools import compress

from core.events import (
    Appraised,
    Appraising,
    Cancelled,
    EvalDone,
    Event,
    Failed,
    Finished,
    Note,
    Paused,
    Preparing,
    Sample,
    Saved,
    Started,
    StepDone,
)
from jobs.service import Curve, Service, Steps, Summary, Told

KEPT_SAMPLES = 400  # answers, the newest ones
KEPT_NOTES = 200
SPARKS = 48  # points of a curve without axes


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run was after a step: `tokens` fed and `seconds` spent in steps until then."""

    step: int
    tokens: int
    seconds: float


@dataclass
class Story:
    """Everything that a run has reported so far. `version` changes with every event. `step` is the last one done, which
    after a resume is the checkpoint's. `appraising` is how much of what was learned has been measured, while the worker
    does so. Accuracies are shares of rows, by the newest evaluation and by the one before
    the first step; `shares` is the curve of these, or else of tokens that were right. `tokens` and `seconds` are totals
    at the points of `loss`, `evaluated_tokens` and `evaluated_seconds` those at the points of `evaluation`.
    """

    version: int = 0
    offset: int = 0
    step: int = 0
    phase: Preparing | None = None
    phases: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    started: Started | None = None
    last: Progress | None = None
    saved: Saved | None = None
    appraising: float | None = None
    accuracy: float | None = None
    base_accuracy: float | None = None
    end: Finished | Paused | Cancelled | Failed | None = None
    loss: Curve = field(default_factory=Curve)
    spikes: Curve = field(default_factory=Curve)
    learning_rate: Curve = field(default_factory=Curve)
    grad_norm: Curve = field(default_factory=Curve)
    tokens: Curve = field(default_factory=Curve)
    seconds: Curve = field(default_factory=Curve)
    process_memory: Curve = field(default_factory=Curve)
    device_memory: Curve = field(default_factory=Curve)
    speed: Curve = field(default_factory=Curve)
    evaluation: Curve = field(default_factory=Curve)
    shares: Curve = field(default_factory=Curve)
    evaluated_tokens: Curve = field(default_factory=Curve)
    evaluated_seconds: Curve = field(default_factory=Curve)

    @property
    def steps(self) -> int:
        """How many steps are planned; 0 while that is not known."""
        return self.started.steps if self.started else 0

    @property
    def summary(self) -> Summary:
        """The story in short, as a list shows it."""
        losses = self.evaluation
        stride = max(1, len(self.loss.y) // SPARKS)
        return Summary(
            step=self.step,
            steps=self.steps,
            loss=tuple(self.loss.y[::stride]),
            base_eval_loss=losses.y[0] if losses.y and losses.x[0] == 0 else None,
            eval_loss=losses.y[-1] if len(losses.y) > 1 else None,
        )

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
        own = {name: value.copy() for name, value in vars(self).items() if isinstance(value, Curve | list)}
        return replace(self, **own)

    def take(self, told: Told) -> None:
        """Fold one more event in, or steps that follow one another."""
        if isinstance(told, Steps):
            self.version += len(told)
            self._go(told)
        else:
            self.version += 1
            self._hear(told)

    def _hear(self, event: Event) -> None:
        assert not isinstance(event, StepDone), "steps come as columns"
        if isinstance(event, EvalDone):
            self._evaluate(event)
        elif isinstance(event, Sample):
            self.samples = [*self.samples, event][-KEPT_SAMPLES:]
        elif isinstance(event, Started):
            self._start(event)
        elif isinstance(event, Preparing):
            self.phase, self.end = event, None
            if self.phases and self.phases[-1].startswith(f"{event.phase}\t"):
                self.phases.pop()  # it goes on
            self.phases.append(f"{event.phase}\t{event.detail}")
        elif isinstance(event, Note):
            self.notes = [*self.notes, event.text][-KEPT_NOTES:]
        elif isinstance(event, Saved):
            self.saved = event
        elif isinstance(event, Appraising):
            self.appraising = event.share_done
        elif isinstance(event, Appraised):
            self.appraising = None
        else:
            self.end, self.appraising = event, None

    def _start(self, event: Started) -> None:
        self.started, self.phase, self.end, self.appraising = event, None, None, None
        self.step = event.first_step - 1
        is_anew = event.first_step == 1
        first_evaluation = 0 if is_anew else event.first_step
        for curve in self._of_steps():
            curve.cut(event.first_step)
        for curve in self._of_evaluations():
            curve.cut(first_evaluation)
        self.samples = [sample for sample in self.samples if sample.step < first_evaluation]
        if is_anew:
            self.last = None
        elif self.tokens.x:
            self.last = Progress(int(self.tokens.x[-1]), int(self.tokens.y[-1]), self.seconds.y[-1])

    def _evaluate(self, event: EvalDone) -> None:
        now = self.last if event.step and self.last else Progress(0, 0, 0.0)
        self.evaluation.add(event.step, event.loss)
        self.evaluated_tokens.add(event.step, now.tokens)
        self.evaluated_seconds.add(event.step, now.seconds)
        share = event.token_accuracy if event.accuracy is None else event.accuracy
        if share is not None:
            self.shares.add(event.step, share)
        self.accuracy = event.accuracy
        if event.step == 0:
            self.base_accuracy = event.accuracy

    def _go(self, steps: Steps) -> None:
        self._speed(steps)
        self.step = steps.step[-1]
        self.last = Progress(self.step, steps.tokens[-1], steps.seconds[-1])
        every = {
            "loss": steps.loss, "learning_rate": steps.learning_rate, "grad_norm": steps.grad_norm,
            "tokens": steps.tokens, "seconds": steps.seconds, "process_memory": steps.rss_bytes,
        }  # fmt: skip
        for name, values in every.items():
            getattr(self, name).extend(steps.step, values)
        self.spikes.extend(tuple(compress(steps.step, steps.is_spike)), tuple(compress(steps.loss, steps.is_spike)))
        used = [each is not None for each in steps.device_bytes]
        self.device_memory.extend(
            tuple(compress(steps.step, used)), tuple(each for each in steps.device_bytes if each is not None)
        )

    def _speed(self, steps: Steps) -> None:
        """Tokens a second of each step, from what was told before it; a resumed run's clock goes on."""
        before = self.last or Progress(0, 0, 0.0)
        tokens, seconds = (before.tokens, *steps.tokens), (before.seconds, *steps.seconds)
        found = [
            (step, (tokens[at + 1] - tokens[at]) / (seconds[at + 1] - seconds[at]))
            for at, step in enumerate(steps.step)
            if seconds[at + 1] > seconds[at] and tokens[at + 1] > tokens[at]
        ]
        self.speed.extend([step for step, _ in found], [speed for _, speed in found])

    def _of_steps(self) -> tuple[Curve, ...]:
        return (
            self.loss, self.spikes, self.learning_rate, self.grad_norm, self.tokens, self.seconds,
            self.process_memory, self.device_memory, self.speed,
        )  # fmt: skip

    def _of_evaluations(self) -> tuple[Curve, ...]:
        return self.evaluation, self.shares, self.evaluated_tokens, self.evaluated_seconds


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
            told, offset = self._service.history.since(run_id, kept.story.offset)
            if told:
                kept.story = kept.story.copy()
                kept.story.offset = offset
                for each in told:
                    kept.story.take(each)
            return kept.story


@dataclass
class _Kept:
    story: Story = field(default_factory=Story)
    lock: threading.Lock = field(default_factory=threading.Lock)
