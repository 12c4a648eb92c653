"""Measures what a run has learned (`core.analysis`): at its end, in its own process, or later, from what it left.

Of trained and of held-out rows a sample is asked, the same for base and adapter, drawn by the run's seed: a few dozen
rows a side, since a mean over these is known well enough and costs seconds (`AT_END`, and twice that when somebody
asks: `ON_REQUEST`, of which the former are the first rows). Both sides take turns, so that a measurement which is cut
short has something of each. Then the modules, which costs a look at each weight; last the answers.

At a run's end the model is there, the split is known, and no gradient is kept: it costs two passes over the sample and
one over the weights. The run has asked the base before its first step and the adapter after its last one, greedily, so
these answers are taken; one that was resumed asks the base again. The time is bounded by a share of the run's own
(`budget`). What was trained has been saved by then, and whatever goes wrong here is a note and no failure. If it ends
the process all the same, the run goes on from its last checkpoint and does not try again: a marker in its folder says
that.

For an adapter, base and adapter are one model, asked in turns. Full fine-tuning left two models. Side by side they
might not fit, so the base goes first, of whose answers only the last hidden states are kept, and leaves.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import torch

from core.adapters.inject import activate
from core.analysis.appraisal import Answer, Appraisal, Module, RowScore, Side, side_of, write_appraisal
from core.analysis.divergence import by_row, compare
from core.analysis.health import modules_of
from core.analysis.verdict import judge
from core.data.tokens.encoding import Tokens
from core.data.tokens.splits import Subset, lengths_of
from core.errors import UserError
from core.events import Appraised, Appraising, Event, Note, Sample
from core.models.load import LoadedModel
from core.train.loop import Loop, Stop
from core.train.methods import ADAPTER_KEY
from core.train.objective import Objective
from core.train.samples import Prompt, Sampler

MICRO_TOKENS = 1024  # at once
SHARE, LEAST_SECONDS, MOST_SECONDS = 0.1, 10.0, 120.0  # of a run's own time
ROWS_SHARE, MODULES_SHARE = 0.6, 0.7  # of the whole, done after rows and after modules
TELL_SECONDS = 1.0
MARKER = "appraising"  # in the run's folder, while it goes on there

SideName: TypeAlias = Literal["held_out", "trained"]
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many rows of a side are asked, and how many tokens these have, at most; one row is asked in any case."""

    rows: int
    tokens: int


AT_END, ON_REQUEST = Bounds(32, 4096), Bounds(64, 8192)


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of one side that go through the model at once."""

    side: SideName
    rows: Sequence[Any]


def budget(seconds: float) -> float:
    """How long a run may be measured whose steps took so many seconds."""
    return min(max(SHARE * seconds, LEAST_SECONDS), MOST_SECONDS)


def chosen(rows: Sequence[Tokens], seed: int, bounds: Bounds) -> Sequence[Tokens]:
    """Some of `rows`, drawn by `seed`: as many as the bounds allow, and one at least."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).numpy()[: bounds.rows]
    fits = lengths_of(rows)[order].cumsum() <= bounds.tokens
    return Subset(rows, order[: max(1, int(fits.sum()))]) if len(rows) else ()


def groups_of(
    objective: Objective, trained: Sequence[Any], held_out: Sequence[Any], micro_tokens: int = MICRO_TOKENS
) -> list[Group]:
    """The rows as they go through the model, the sides in turns."""
    rows: dict[SideName, Sequence[Any]] = {"held_out": held_out, "trained": trained}
    most = min(micro_tokens, MICRO_TOKENS)
    sides = [[Group(name, group) for group in objective.groups(own, most)] for name, own in rows.items()]
    return [group for pair in zip_longest(*sides) for group in pair if group is not None]


class Sheet:
    """What was measured so far, and what of that makes an appraisal."""

    def __init__(self, all_trained: int, all_held_out: int) -> None:
        self._all: dict[SideName, int] = {"trained": all_trained, "held_out": all_held_out}
        self._scores: dict[SideName, list[RowScore]] = {"trained": [], "held_out": []}
        self.modules: tuple[Module, ...] = ()
        self.answers: tuple[Answer, ...] = ()
        self.notes: list[str] = []
        self.is_cut = False
        self._begin = time.monotonic()

    def add(self, group: Group, scores: list[RowScore]) -> None:
        """Take in what came of a group."""
        self._scores[group.side] += scores

    def answer(self, before: Sequence[Event], after: Sequence[Event]) -> None:
        """Take in what a sampler told of both."""
        first, second = ([event for event in events if isinstance(event, Sample)] for events in (before, after))
        self.notes += [event.text for event in (*before, *after) if isinstance(event, Note)]
        self.answers = tuple(
            Answer(prompt=one.prompt, before=one.text, after=other.text)
            for one, other in zip(first, second, strict=False)
        )

    def appraisal(self, step: int, evaluations: Sequence[tuple[int, float]], *, is_classifier: bool) -> Appraisal:
        """All of it."""
        notes = list(self.notes)
        return Appraisal(
            step=step,
            answers_are="rows" if is_classifier else "tokens",
            trained=self._side("trained", notes),
            held_out=self._side("held_out", notes),
            modules=self.modules,
            answers=self.answers,
            evaluations=tuple(evaluations),
            notes=tuple(dict.fromkeys(notes)),
            is_cut=self.is_cut,
            seconds=time.monotonic() - self._begin,
        )

    def _side(self, name: SideName, notes: list[str]) -> Side | None:
        side = side_of(self._scores[name], self._all[name])
        if side is None or all(map(math.isfinite, (side.base_loss, side.loss, side.kl))):
            return side
        notes.append(f"The loss on {name.replace('_', '-')} rows is not finite")
        return None


class Contest(Protocol):
    """Base and adapter, ready to be asked the same: rows, and `prompts`."""

    prompts: Sequence[Prompt]

    def scores(self, groups: Sequence[Group]) -> Iterator[tuple[Group, list[RowScore]]]:
        """What came of each group, in order."""

    def modules(self) -> tuple[tuple[Module, ...], str]:
        """What became of the modules, or why that is not measured."""

    def answers(self, stop: Stop) -> tuple[list[Event], list[Event]]:
        """What a sampler tells of the base, and of the adapter."""


class OneModel:
    """A model that holds the adapter `key` beside its layers; with it off, it is the base. Ends with it on.

    Args:
        known: what the base, and what the adapter has answered to the prompts, where it was asked already.
    """

    def __init__(
        self,
        objective: Objective,
        loaded: LoadedModel,
        key: str,
        prompts: Sequence[Prompt],
        autocast: torch.dtype | None = None,
        known: tuple[list[Event] | None, list[Event] | None] = (None, None),
    ) -> None:
        self._objective, self._loaded, self._key = objective, loaded, key
        self.prompts, self._autocast, self._known = prompts, autocast, known

    def scores(self, groups: Sequence[Group]) -> Iterator[tuple[Group, list[RowScore]]]:
        for group in groups:
            with computing(self._loaded, self._autocast), self._as_base():
                base = self._objective.predictions(group.rows)
            with computing(self._loaded, self._autocast):
                scores = compare(base, self._objective.predictions(group.rows))
            yield group, by_row(scores, group.rows)

    def modules(self) -> tuple[tuple[Module, ...], str]:
        return modules_of(self._loaded.model, self._key), ""

    def answers(self, stop: Stop) -> tuple[list[Event], list[Event]]:
        before, after = self._known
        if before is None:
            with self._as_base():
                before = asked(self._loaded, self.prompts, self._autocast, stop)
        return before, asked(self._loaded, self.prompts, self._autocast, stop) if after is None else after

    @contextmanager
    def _as_base(self) -> Iterator[None]:
        activate(self._loaded.model, None)
        try:
            yield
        finally:
            activate(self._loaded.model, self._key)


def computing(loaded: LoadedModel, autocast: torch.dtype | None) -> torch.autocast:
    """The context that `loaded` computes in, where that is not the dtype that it is stored in."""
    return torch.autocast(loaded.device.type, dtype=autocast, enabled=autocast is not None)


def asked(loaded: LoadedModel, prompts: Sequence[Prompt], autocast: torch.dtype | None, stop: Stop) -> list[Event]:
    """What a sampler tells of `loaded` as it answers now; a classifier, which has no prompts, is not asked."""
    return list(Sampler(loaded, prompts, autocast).ask(0, stop)) if prompts else []


def appraise(sheet: Sheet, contest: Contest, groups: Sequence[Group], is_over: Callable[[], bool]) -> Iterator[float]:
    """Fill the sheet until `is_over`; yields which share of it is done."""
    for done, (group, scores) in enumerate(contest.scores(groups), start=1):
        sheet.add(group, scores)
        yield ROWS_SHARE * done / len(groups)
        if is_over():
            sheet.is_cut = done < len(groups)
            break
    sheet.modules, note = contest.modules()
    sheet.notes += [note] if note else []
    yield MODULES_SHARE
    sheet.answer(*contest.answers(lambda: "over" if is_over() else None))
    if contest.prompts and is_over() and not sheet.answers:
        sheet.notes.append("Time was up before answers were written; measure it again to have them")
    yield 1.0


def appraise_run(loop: Loop, run_folder: Path) -> Iterator[Event]:
    """Measure what the run in `run_folder` has learned and keep it there; ends at once when `loop.stop` answers, and
    then nothing is kept. Whatever goes wrong is told in a note.
    """
    marker = run_folder / MARKER
    if marker.exists():
        yield Note(text="What it learned is not measured: the worker ended while it did so; measure it on its page")
        return
    try:
        marker.touch()
        appraisal = yield from _measured(loop)
        if appraisal is not None:
            write_appraisal(run_folder, appraisal)
            verdict = judge(appraisal)
            yield Appraised(level=verdict.level, verdict=verdict.sentence)
    except Exception as error:  # the run is saved, and must end as it would without this
        log.exception("What the run learned could not be measured")
        what = str(error) if isinstance(error, UserError) else type(error).__name__
        yield Note(text=f"What it learned could not be measured: {what}; try again on its page")
    finally:
        with suppress(OSError):  # a disk that fails says so where it matters
            marker.unlink(missing_ok=True)


def _measured(loop: Loop) -> Generator[Event, None, Appraisal | None]:
    """None where the run is to end, or where its base would have to be loaded: that is done when somebody asks."""
    config, subject = loop.config, loop.subject
    if config.method == "full":
        return None
    end = time.monotonic() + budget(loop.seconds)
    sheet = Sheet(len(loop.train_rows), len(loop.eval_rows))
    sampler, autocast = subject.sampler, subject.trainables.autocast
    told = {} if sampler is None else sampler.told
    known = told.get(0), told.get(loop.steps_done)
    prompts = () if sampler is None else sampler.prompts
    contest = OneModel(subject.objective, subject.loaded, ADAPTER_KEY, prompts, autocast, known)
    trained, held_out = (chosen(rows, config.seed, AT_END) for rows in (loop.train_rows, loop.eval_rows))
    groups = groups_of(subject.objective, trained, held_out, loop.micro_tokens)
    last_told = -TELL_SECONDS
    for share in appraise(sheet, contest, groups, lambda: bool(loop.stop()) or time.monotonic() > end):
        if loop.stop():
            return None
        if time.monotonic() - last_told >= TELL_SECONDS:
            last_told = time.monotonic()
            yield Appraising(share_done=share)
    if loop.stop():
        return None
    losses = sorted(loop.evaluations.items())
    return sheet.appraisal(loop.steps_done, losses, is_classifier=config.task == "classification")
