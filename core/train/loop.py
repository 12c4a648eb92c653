"""The training loop: a generator of events that knows nothing of methods, tasks, files' places, processes or pages.

Each optimizer step takes the next `batch_size` rows in micro-batches, clips the gradient's norm and applies AdamW to
the parameters of `Trainables`, which alone have gradients; the schedule's rate is multiplied by each one's factor. The
model stays in evaluation mode, so its own dropout, if it has any, is off, whatever is trained; the adapter's dropout is
seeded by the step's number, so that a resumed run draws the same masks.

Memory is tried first: the longest rows that can meet in a micro-batch go through the model before the first step. What
does not fit is halved, there and later: half as many tokens at once, in twice as many micro-batches, to the same
gradient (of other draws, where there is dropout). Room on the disk is taken first as well (`core.train.disk`): where a
checkpoint finds none, the run writes it in the room that it had set aside, and pauses.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn

from core.config import RunConfig
from core.data.tokens.encoding import Tokens
from core.data.tokens.splits import EpochOrder, lengths_of, source_rows_of, trained_of
from core.errors import RunError
from core.events import EvalDone, Event, Note, Saved, StepDone
from core.models.load import LoadedModel
from core.train.checkpoint import MOMENTS, checkpoint_bytes, restore, save_checkpoint
from core.train.disk import Reserve, is_disk_full
from core.train.memory import available_bytes, device_bytes, folder_bytes, is_out_of_memory, rss_bytes
from core.train.methods import Trainables
from core.train.objective import Objective, Outcome
from core.train.samples import Sampler, asked_after
from core.train.schedule import evaluation_steps, learning_rate
from core.train.spikes import SpikeWatch

Stop = Callable[[], str | None]
Figure = TypeVar("Figure")
HALVINGS = 3


class Interrupted(Exception):
    """Somebody asked to stop while a step or an evaluation was under way; what it had done so far is dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is trained, on what: a model, the part of it that learns, how rows are put before it, and who asks it now
    and then.
    """

    loaded: LoadedModel
    trainables: Trainables
    objective: Objective
    sampler: Sampler | None = None


@dataclass(slots=True)
class Loop:
    """One run's training state. `steps_done` and the totals hold between steps; `run` carries the run on from there.
    `evaluations` are the losses on held-out rows by step, as far as they are known.
    """

    subject: Subject
    config: RunConfig
    train_rows: Sequence[Tokens]
    eval_rows: Sequence[Tokens]
    checkpoints: Path
    stop: Stop
    order: EpochOrder = field(init=False)
    steps: int = field(init=False)
    peak_rate: float = field(init=False)
    steps_done: int = 0
    tokens: int = 0
    seconds: float = 0.0
    first_loss: float | None = None
    last_loss: float | None = None
    base_eval_loss: float | None = None
    eval_loss: float | None = None
    parameters: dict[str, nn.Parameter] = field(init=False)
    optimizer: torch.optim.AdamW = field(init=False)
    micro_tokens: int = field(init=False)
    halvings: list[Note] = field(default_factory=list)
    evaluations: dict[int, float] = field(default_factory=dict)
    saved_step: int = 0
    reserve: Reserve = field(init=False)
    spikes: SpikeWatch = field(default_factory=SpikeWatch)

    def __post_init__(self) -> None:
        optim = self.config.optim
        self.micro_tokens = optim.micro_tokens
        lengths = lengths_of(self.train_rows) if self.subject.objective.is_padded else None
        self.order = EpochOrder(len(self.train_rows), optim.batch_size, self.config.seed, lengths)
        self.steps = optim.steps or max(1, math.ceil(optim.epochs * self.order.steps))
        trainables = self.subject.trainables
        self.peak_rate = optim.learning_rate or trainables.suggested_rate
        self.parameters = trainables.parameters
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameter in self.parameters.items():
            groups.setdefault(trainables.rate_factors.get(name, 1.0), []).append(parameter)
        self.optimizer = torch.optim.AdamW(
            [{"params": parameters, "factor": factor} for factor, parameters in groups.items()],
            lr=self.peak_rate,
            weight_decay=optim.weight_decay,
            fused=True,
        )
        self.reserve = Reserve(self.checkpoints.parent, checkpoint_bytes(self.parameters.values()))
        self.loaded.model.eval()
        for parameter in self.parameters.values():  # all that a step takes is there before the first one
            moments = {name: torch.zeros_like(parameter) for name in MOMENTS}
            self.optimizer.state[parameter] = {"step": torch.zeros((), device=parameter.device), **moments}

    @property
    def loaded(self) -> LoadedModel:
        """The model that is trained."""
        return self.subject.loaded

    def resume(self) -> Iterator[Event]:
        """Go back to the newest checkpoint, if there is one.

        Raises:
            RunError: there are some, but none can be read.
        """
        self.steps_done, totals, passed_over = restore(self.checkpoints, self.parameters, self.optimizer)
        self.saved_step = self.steps_done
        if passed_over and not self.steps_done:
            raise RunError(
                "None of the run's checkpoints can be read",
                f"{', '.join(passed_over)} are damaged",
                "Start a new run from these settings",
            )
        for name, value in totals.items():
            setattr(self, name, int(value) if name in ("tokens", "micro_tokens") else value)
        for name in passed_over:
            yield Note(text=f"The checkpoint {name} cannot be read and was passed over")
        if self.steps_done:
            yield Note(text=f"Resumed after step {self.steps_done}")

    def run(self) -> Iterator[Event]:
        """Train to the end, or until `stop` answers or the disk is full (`reserve.is_used`); the caller reads from
        `steps_done` how far it came, and from `saved_step` where it can go on.

        Raises:
            RunError: a loss or a weight is not finite, or a row does not fit in memory; nothing is saved after that.
        """
        evaluations = evaluation_steps(self.steps, self.config.optim.evaluations)
        asked, told = asked_after(evaluations), 0
        try:
            self.reserve.set_aside()
            self._rehearse()
            if self.steps_done == 0 or self._is_unjudged(evaluations):
                yield from self._judge(asked)
            while self.steps_done < self.steps:
                step = self._step()
                yield from self.halvings[told:]
                told = len(self.halvings)
                yield step
                if self.steps_done in evaluations:
                    yield from self._judge(asked)
                    yield self.save()
                    if self.reserve.is_used:
                        return
        except Interrupted:
            yield from self._save_if_there_is_room()
        except (OSError, SafetensorError) as error:
            if not is_disk_full(error):
                raise
            self.reserve.is_used = True

    def probe(self) -> Iterator[StepDone]:
        """The rehearsal; then again and again a step on that batch of the first epoch that has the most tokens. Nothing
        is evaluated or saved, and the run cannot be carried on from here.

        Raises:
            RunError: as `run`.
        """
        lengths = lengths_of(self.train_rows)
        planned = range(min(self.order.steps, self.steps))
        longest = max(planned, key=lambda step: int(lengths[self.order.rows_of_step(step)].sum()))
        self._rehearse()
        while True:
            self.steps_done = longest
            yield self._step()

    @property
    def is_over(self) -> bool:
        """Whether all steps are done, and what they led to was evaluated."""
        return self.steps_done == self.steps and (self.eval_loss is not None or not self.eval_rows)

    def _is_unjudged(self, evaluations: Container[int]) -> bool:
        """Whether the run ended in the middle of an evaluation when it was carried out before."""
        return self.steps_done in evaluations and self.eval_loss is None and len(self.eval_rows) > 0

    def _save_if_there_is_room(self) -> Iterator[Saved]:
        """A checkpoint where the run ends early, unless the last one is of this step."""
        try:
            if self.steps_done > self.saved_step:
                yield self.save()
        except (OSError, SafetensorError) as error:
            if not is_disk_full(error):
                raise
            self.reserve.is_used = True

    def save(self) -> Saved:
        """Write a checkpoint of the state after the last finished step.

        Raises:
            RunError: its weights are not finite.
            OSError, SafetensorError: the disk is full, and what was set aside does not suffice.
        """
        if not all(torch.isfinite(parameter).all() for parameter in self.parameters.values()):
            raise _diverged(self.steps_done, "its weights are not finite")
        names = ("tokens", "micro_tokens", "seconds", "first_loss", "last_loss", "base_eval_loss", "eval_loss")
        totals = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        state, kept = (self.steps_done, self.parameters, self.optimizer, totals), self.config.optim.checkpoints
        path = self.reserve.write(lambda: save_checkpoint(self.checkpoints, *state, kept))
        self.saved_step = self.steps_done
        return Saved(step=self.steps_done, path=path.name, bytes=folder_bytes(path))

    def _step(self) -> StepDone:
        begin = time.monotonic()
        config = self.config
        numbers = self.order.rows_of_step(self.steps_done)
        rows = [self.train_rows[number] for number in numbers]
        rate = learning_rate(self.peak_rate, config.optim, self.steps_done, self.steps)
        loss = self._that_fits(rows, self._gradients)
        norm = float(nn.utils.clip_grad_norm_(self.parameters.values(), config.optim.clip_norm))
        if not math.isfinite(loss) or not math.isfinite(norm):
            figures = f"its loss is {loss} and its gradient's norm {norm}"
            raise _diverged(self.steps_done + 1, figures, self._without_finite_loss(numbers))
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps_done += 1
        self.eval_loss = None  # it was that of other weights
        self.tokens += sum(len(row.tokens) for row in rows)
        self.seconds += time.monotonic() - begin
        self.first_loss = loss if self.first_loss is None else self.first_loss
        self.last_loss = loss
        return StepDone(
            step=self.steps_done,
            epoch=self.steps_done / self.order.steps,
            loss=loss,
            learning_rate=rate,
            grad_norm=norm,
            tokens=self.tokens,
            seconds=self.seconds,
            rss_bytes=rss_bytes(),
            device_bytes=device_bytes(self.loaded.device),
            is_spike=self.spikes.is_spike(loss),
        )

    @torch.no_grad()
    def _without_finite_loss(self, numbers: Sequence[int]) -> list[int]:
        """Where those of the rows stand in the dataset whose own loss is not finite; all, if each is on its own."""
        self.optimizer.zero_grad()
        found = [
            number
            for number in numbers
            if not all(math.isfinite(float(outcome.loss)) for outcome in self._outcomes([self.train_rows[number]]))
        ]
        return sorted(int(row) for row in source_rows_of(self.train_rows)[found or list(numbers)])

    def _rehearse(self) -> None:
        """Try the longest micro-batch that there can be, and forget its gradients."""
        if self.steps_done == self.steps:
            return
        longest = np.argsort(-lengths_of(self.train_rows), kind="stable")[: self.config.optim.batch_size]
        rows = [self.train_rows[int(number)] for number in longest]
        self._that_fits(next(iter(self.subject.objective.groups(rows, self.micro_tokens))), self._gradients)
        self.optimizer.zero_grad()

    def _that_fits(self, rows: Sequence[Tokens], work: Callable[[Sequence[Tokens]], Figure]) -> Figure:
        """`work(rows)`, with fewer tokens at once where memory does not allow it otherwise.

        Raises:
            RunError: no fewer will do.
        """
        while True:
            torch.manual_seed(self.config.seed * 1_000_003 + self.steps_done)
            try:
                return work(rows)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            self.optimizer.zero_grad()  # not above: the error holds on to what was in memory
            self._halve(rows)

    def _halve(self, rows: Sequence[Tokens]) -> None:
        groups = self.subject.objective.groups(rows, self.micro_tokens)
        largest = max(self._size(group) for group in groups)
        longest = max(len(row.tokens) for row in rows)
        if len(self.halvings) == HALVINGS or largest == longest:
            raise RunError(
                f"There is not enough memory for {largest:,} tokens at once",
                f"a row has {longest:,}, and {available_bytes() / 1e9:.1f} GB are left",
                "Turn gradient checkpointing on, store the base in 4 bits, or cut rows at fewer tokens",
            )
        self.micro_tokens = max(largest // 2, 1)
        what = f"There is not enough memory for {largest:,} tokens at once: from here on it is {self.micro_tokens:,}"
        self.halvings.append(Note(text=f"{what}, in twice as many micro-batches; what is computed stays the same"))

    def _size(self, group: Sequence[Tokens]) -> int:
        """How many tokens the model sees of a group, what fills up shorter rows included."""
        lengths = [len(row.tokens) for row in group]
        return len(lengths) * max(lengths) if self.subject.objective.is_padded else sum(lengths)

    def _gradients(self, rows: Sequence[Tokens]) -> float:
        """Add up the gradients of the mean loss over the labels of `rows`; returns that loss."""
        labels = sum(row.trained for row in rows)
        total = torch.zeros((), device=self.loaded.device)
        for module in self.subject.trainables.dropping:
            module.training = True  # it alone: `train()` would reach the base's modules inside it
        for outcome in self._outcomes(rows):
            loss = outcome.loss / labels
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
            del outcome, loss  # else what the graph holds stays while the next one is made
        return float(total)

    def _judge(self, asked: Container[int]) -> Iterator[Event]:
        """The loss on held-out rows and, after the steps that are `asked`, answers to the run's prompts."""
        yield from self._evaluate()
        if self.subject.sampler is not None and self.steps_done in asked:
            yield from self.subject.sampler.ask(self.steps_done, self.stop)

    def _evaluate(self) -> Iterator[EvalDone]:
        if not self.eval_rows:
            return
        self.loaded.model.eval()
        total, correct = self._that_fits(self.eval_rows, self._losses)
        if not math.isfinite(total):
            raise _diverged(self.steps_done, f"its evaluation loss is {total}")
        labels = int(trained_of(self.eval_rows).sum())
        self.eval_loss = self.evaluations[self.steps_done] = total / labels
        if self.steps_done == 0:
            self.base_eval_loss = self.eval_loss
        of_rows = self.config.task == "classification"
        right = correct / labels
        yield EvalDone(
            step=self.steps_done,
            loss=self.eval_loss,
            accuracy=right if of_rows else None,
            token_accuracy=None if of_rows else right,
        )

    @torch.no_grad()
    def _losses(self, rows: Sequence[Tokens]) -> tuple[float, int]:
        """The summed loss of `rows`, and how many of their answers were right."""
        total, correct = 0.0, 0
        for outcome in self._outcomes(rows):
            assert outcome.correct is not None, "it is counted where no gradient is wanted"
            total += float(outcome.loss)
            correct += int(outcome.correct)
        return total, correct

    def _outcomes(self, rows: Sequence[Tokens]) -> Iterator[Outcome]:
        """What the model makes of `rows`, one micro-batch after the other.

        Raises:
            Interrupted: somebody asked to stop; no gradient is left behind.
        """
        objective, autocast = self.subject.objective, self.subject.trainables.autocast
        for group in objective.groups(rows, self.micro_tokens):
            if self.stop():
                self.optimizer.zero_grad()
                raise Interrupted
            with torch.autocast(self.loaded.device.type, dtype=autocast, enabled=autocast is not None):
                outcome = objective.outcome(group)
            yield outcome
            del outcome


def _diverged(step: int, figures: str, rows: Sequence[int] = ()) -> RunError:
    where = f"on the dataset's rows {', '.join(map(str, rows))}; " if rows else ""
    return RunError(
        f"The run diverged at step {step}: {figures}",
        f"{where}the last good checkpoint is kept",
        "Lower the learning rate and start again",
    )
