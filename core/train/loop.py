"""The training loop: a generator of events that knows nothing of files' places, processes or pages.

Each optimizer step takes the next `batch_size` rows in packed micro-batches, clips the gradient's norm and applies
AdamW. Only the adapter's parameters have gradients. The base stays in evaluation mode, so its own dropout, if it
has any, is off; the adapter's dropout is seeded by the step's number, so that a resumed run draws the same masks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from core.adapters.inject import lora_layers
from core.config import RunConfig
from core.data.batching import micro_batches, pack, rows_of_step, steps_per_epoch
from core.data.encoding import Row
from core.errors import RunError
from core.events import EvalDone, Event, Note, Saved, StepDone
from core.models.load import LoadedModel
from core.train.checkpoint import restore, save_checkpoint
from core.train.memory import device_bytes, rss_bytes
from core.train.objective import summed_loss
from core.train.schedule import evaluation_steps, learning_rate, suggested_rate

Stop = Callable[[], str | None]


class Interrupted(Exception):
    """Somebody asked to stop while a step or an evaluation was under way; what it had done so far is dropped."""


@dataclass(slots=True)
class Loop:
    """One run's training state. `steps_done` and the totals hold between steps; `run` carries the run on from there."""

    loaded: LoadedModel
    config: RunConfig
    train_rows: Sequence[Row]
    eval_rows: Sequence[Row]
    checkpoints: Path
    stop: Stop
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

    def __post_init__(self) -> None:
        optim, per_epoch = self.config.optim, steps_per_epoch(len(self.train_rows), self.config.optim.batch_size)
        self.steps = optim.steps or max(1, math.ceil(optim.epochs * per_epoch))
        width = getattr(self.loaded.model.config, "hidden_size", None)
        self.peak_rate = optim.learning_rate or suggested_rate(width)
        self.parameters = {n: p for n, p in self.loaded.model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=self.peak_rate, weight_decay=optim.weight_decay, fused=True
        )

    def resume(self) -> Iterator[Event]:
        """Go back to the newest checkpoint, if there is one."""
        self.steps_done, totals, passed_over = restore(self.checkpoints, self.parameters, self.optimizer)
        for name, value in totals.items():
            setattr(self, name, int(value) if name == "tokens" else value)
        for name in passed_over:
            yield Note(text=f"The checkpoint {name} cannot be read and was passed over")
        if self.steps_done:
            yield Note(text=f"Resumed after step {self.steps_done}")

    def run(self) -> Iterator[Event]:
        """Train to the end, or until `stop` answers; the caller reads from `steps_done` how far it came.

        Raises:
            RunError: a loss or a weight is not finite; nothing is saved after that.
        """
        evaluations = evaluation_steps(self.steps, self.config.optim.evaluations)
        try:
            if self.steps_done == 0:
                yield from self._evaluate()
            while self.steps_done < self.steps:
                yield self._step()
                if self.steps_done in evaluations:
                    yield from self._evaluate()
                    yield self.save()
        except Interrupted:
            if self.steps_done:
                yield self.save()

    def save(self) -> Saved:
        """Write a checkpoint of the state after the last finished step.

        Raises:
            RunError: its weights are not finite.
        """
        if not all(torch.isfinite(parameter).all() for parameter in self.parameters.values()):
            raise _diverged(self.steps_done, "its weights are not finite")
        names = ("tokens", "seconds", "first_loss", "last_loss", "base_eval_loss", "eval_loss")
        totals = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        path = save_checkpoint(self.checkpoints, self.steps_done, self.parameters, self.optimizer, totals)
        return Saved(step=self.steps_done, path=path.name)

    def _step(self) -> StepDone:
        begin = time.monotonic()
        config = self.config
        rows = rows_of_step(self.train_rows, self.steps_done, config.optim.batch_size, config.seed)
        rate = learning_rate(self.peak_rate, config.optim, self.steps_done, self.steps)
        torch.manual_seed(config.seed * 1_000_003 + self.steps_done)
        loss = self._gradients(rows)
        norm = float(nn.utils.clip_grad_norm_(self.parameters.values(), config.optim.clip_norm))
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise _diverged(self.steps_done + 1, f"its loss is {loss} and its gradient's norm {norm}")
        self.optimizer.param_groups[0]["lr"] = rate
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
            epoch=self.steps_done / steps_per_epoch(len(self.train_rows), config.optim.batch_size),
            loss=loss,
            learning_rate=rate,
            grad_norm=norm,
            tokens=self.tokens,
            seconds=self.seconds,
            rss_bytes=rss_bytes(),
            device_bytes=device_bytes(self.loaded.device),
        )

    def _gradients(self, rows: Sequence[Row]) -> float:
        """Add up the gradients of the mean loss over the labeled tokens of `rows`; returns that loss."""
        model = self.loaded.model
        labeled = sum(row.trained for row in rows)
        total = torch.zeros((), device=self.loaded.device)
        for layer in lora_layers(model).values():
            layer.train()
        for group in micro_batches(rows, self.config.optim.micro_tokens):
            if self.stop():
                self.optimizer.zero_grad()
                raise Interrupted
            loss = summed_loss(model, pack(group, self.loaded.device)) / labeled
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return float(total)

    def _evaluate(self) -> Iterator[EvalDone]:
        if not self.eval_rows:
            return
        self.loaded.model.eval()
        total = 0.0
        with torch.no_grad():
            for group in micro_batches(self.eval_rows, self.config.optim.micro_tokens):
                if self.stop():
                    raise Interrupted
                total += float(summed_loss(self.loaded.model, pack(group, self.loaded.device)))
        if not math.isfinite(total):
            raise _diverged(self.steps_done, f"its evaluation loss is {total}")
        self.eval_loss = total / sum(row.trained for row in self.eval_rows)
        if self.steps_done == 0:
            self.base_eval_loss = self.eval_loss
        yield EvalDone(step=self.steps_done, loss=self.eval_loss)


def _diverged(step: int, figures: str) -> RunError:
    return RunError(
        f"The run diverged at step {step}: {figures}",
        "the last good checkpoint is kept",
        "Lower the learning rate and start again",
    )
