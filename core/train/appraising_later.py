"""Measures what a run has learned from what it left on disk, in a process of its own, whenever somebody asks.

Rows are encoded and parted as the run did it, by its config, so trained and held-out rows are the same ones; and so is
the sample of them that is asked. An adapter is read from its folder beside the base; of full fine-tuning's two models
one is loaded after the other (`core.train.appraising`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from core.adapters.inject import activate
from core.adapters.peft_format import load_adapter
from core.analysis.appraisal import Appraisal, Module, RowScore
from core.analysis.divergence import by_row, compare
from core.config import RunConfig
from core.data.health.near_duplicates import Alike
from core.data.records import Records
from core.data.tokens.splits import Split, hold_out
from core.errors import RunError
from core.events import Event, Preparing
from core.models.fetch import ensure_model
from core.models.load import LoadedModel
from core.models.precision import best_device, choose_precision
from core.train.appraising import (
    ON_REQUEST,
    Contest,
    Group,
    OneModel,
    Sheet,
    appraise,
    asked,
    chosen,
    computing,
    groups_of,
)
from core.train.checkpoint import keep_precision
from core.train.loop import Stop
from core.train.methods import method_of
from core.train.objective import Objective, Predictions
from core.train.samples import Prompt, prompts_of
from core.train.tasks import task_of

ASKED = 2  # beginnings of rows, where the run itself asked nothing


@dataclass(frozen=True, slots=True)
class Measuring:
    """Rows, modules and answers are being looked at; `share_done` of 1."""

    share_done: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """A run that is over: its config, its folder, the records it saw and its evaluations' losses by step."""

    config: RunConfig
    folder: Path
    records: Records
    models_root: Path
    step: int
    alike: Alike | None = None
    evaluations: Mapping[int, float] = field(default_factory=dict)

    @property
    def result(self) -> Path:
        """The folder of what was trained."""
        return self.folder / "adapter"


def appraise_later(left: Left) -> Generator[Preparing | Measuring, None, Appraisal]:
    """Yields how far it is; returns what was measured.

    Raises:
        UserError: the base, the result or the records cannot be read, or not be measured.
    """
    config = left.config
    method, task = method_of(config), task_of(config, left.records)
    yield Preparing(phase="loading", detail=config.base_model)
    base = ensure_model(config.base_model, left.models_root, lambda _phase: None)
    precision = keep_precision(left.folder, lambda: choose_precision(best_device(), config.quant.bits))
    stored = method.stored_in(precision.dtype)

    def opened(folder: Path) -> Model:
        loaded = task.load(folder, stored, best_device())
        loaded.model.requires_grad_(False)
        method.extend(loaded)
        return Model(loaded, task.objective(loaded)[0], None if precision.dtype == stored else precision.dtype)

    model = opened(base)
    yield Preparing(phase="tokenizing", detail=f"{len(left.records):,} rows")
    *_, encoding = task.encode(model.loaded, left.folder)
    split: Split[Any] = hold_out(encoding.rows, config.data.holdout, config.seed, left.alike)
    sheet = Sheet(len(split.train), len(split.held))
    trained, held_out = (chosen(rows, config.seed, ON_REQUEST) for rows in (split.train, split.held))
    groups = groups_of(model.objective, trained, held_out)
    prompts = _prompts(left, model.loaded, split)
    contest = _contest(left, model, prompts, opened)
    del model  # the base of a whole model leaves in the middle
    for share in appraise(sheet, contest, groups, lambda: False):
        yield Measuring(share)
    losses = sorted(left.evaluations.items())
    return sheet.appraisal(left.step, losses, is_classifier=config.task == "classification")


@dataclass(frozen=True, slots=True)
class Model:
    """A model with the layout of its rows, and the dtype that it computes in where that is not the stored one."""

    loaded: LoadedModel
    objective: Objective
    autocast: torch.dtype | None


def _contest(left: Left, base: Model, prompts: Sequence[Prompt], opened: Callable[[Path], Model]) -> Contest:
    if left.config.method == "full":
        return TwoModels(base, lambda: opened(left.result), prompts)
    key = load_adapter(base.loaded.model, left.result)
    activate(base.loaded.model, key)
    return OneModel(base.objective, base.loaded, key, prompts)


def _prompts(left: Left, loaded: LoadedModel, split: Split[Any]) -> tuple[Prompt, ...]:
    """The run's own; or beginnings of held-out rows, or of trained ones where none were held out."""
    if left.config.task != "chat":
        return ()
    samples = left.config.samples
    asked = samples if samples.prompts or samples.rows else replace(samples, rows=ASKED)
    return prompts_of(asked, loaded, left.records, split.held if len(split.held) else split.train)


class TwoModels:
    """A base and what full fine-tuning made of it, one after the other in memory; of the first stay its hidden states
    at the labels, and its head.
    """

    def __init__(self, base: Model, tuned: Callable[[], Model], prompts: Sequence[Prompt]) -> None:
        self._now, self._tuned, self.prompts = base, tuned, prompts
        self._before: list[Event] = []

    def scores(self, groups: Sequence[Group]) -> Iterator[tuple[Group, list[RowScore]]]:
        said = [self._predictions(group) for group in groups]
        self._before = self._ask(lambda: None)
        del self._now
        self._now = self._tuned()
        for group, base in zip(groups, said, strict=True):
            with computing(self._now.loaded, self._now.autocast):
                scores = compare(base, self._now.objective.predictions(group.rows))
            yield group, by_row(scores, group.rows)

    def _predictions(self, group: Group) -> Predictions:
        with computing(self._now.loaded, self._now.autocast):
            found = self._now.objective.predictions(group.rows)
        if found.head is None and not self._now.loaded.labels:
            kind = self._now.loaded.model.config.model_type
            raise RunError(
                f"What this whole {kind} model learned cannot be measured",
                "its logits are more than hidden states times a head, and too many to keep while the base leaves",
                "Compare both in the Playground",
            )
        return found

    def modules(self) -> tuple[tuple[Module, ...], str]:
        return (), "Every weight was trained; how far each moved is measured for adapters alone"

    def answers(self, stop: Stop) -> tuple[list[Event], list[Event]]:
        return self._before, self._ask(stop)

    def _ask(self, stop: Stop) -> list[Event]:
        return asked(self._now.loaded, self.prompts, self._now.autocast, stop)
