"""Several values at once: from what a person types to a group of queued runs, and what came of them side by side.

A value is what stands between two commas; targets that belong together have a plus between them:

    rank        4, 8, 16
    targets     q_proj, q_proj+v_proj, all attention, all linear
    budget      1M, 500k or 1,000,000 parameters
"""

from __future__ import annotations

import functools
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from core.config import ALL_LINEAR, RunConfig
from core.errors import ConfigError, RunError
from core.events import Started
from core.models.shapes import LinearShape
from core.sweep import (
    BUDGET,
    MOST_RUNS,
    PATHS,
    TARGETS,
    Axis,
    Skipped,
    attention_targets,
    combine,
    say,
    shared_name,
    value_of,
    varied,
)
from jobs import bases, lists
from jobs.estimates import estimate
from jobs.ids import new_id
from jobs.journal import parse_event
from jobs.states import ACTIVE_STATES, Wish
from jobs.store import Store
from jobs.submission import Submission
from jobs.views import Estimate, Run

ALL_ATTENTION = "all attention"
SEED = "seed"
_MANY = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
_MOST_PARAMETERS = 10**15
_STARTED, _HEAD_BYTES = b'"started"', 2**18  # how a worker that is ready says so, within the first lines of its events
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?(?:e\d+)?)\s*([kmb]?)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What would be launched: the runs, what each would train (None before its base model is here), and what was left
    out.
    """

    configs: tuple[RunConfig, ...]
    estimates: tuple[Estimate | None, ...]
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A run of a group: its values of what varies, in words, and what it trains, None before it has begun."""

    run: Run
    values: tuple[str, ...]
    trainable_parameters: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Runs that differ in their seed alone: the mean of their losses and the standard deviation, None of a single one.
    `values` are those of the settings that vary beside the seed.
    """

    values: tuple[str, ...]
    count: int
    mean: float
    deviation: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The runs of one sweep in the order in which they were asked for; `axes` are the settings that vary."""

    id: str
    name: str
    axes: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    spreads: tuple[Spread, ...] = field(default=())

    @property
    def finished(self) -> int:
        """How many have finished."""
        return sum(outcome.run.state == "finished" for outcome in self.outcomes)

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(outcome.run.state == "queued" for outcome in self.outcomes)

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens by itself."""
        return all(outcome.run.is_at_rest for outcome in self.outcomes)

    @property
    def best(self) -> Outcome | None:
        """The run with the lowest loss; where seeds vary, of the settings whose mean is the lowest."""
        measured = [outcome for outcome in self.outcomes if outcome.run.eval_loss is not None]
        if self.spreads:
            lowest = min(self.spreads, key=lambda spread: spread.mean)
            measured = [outcome for outcome in measured if beside_seed(self.axes, outcome.values) == lowest.values]
        return min(measured, key=lambda outcome: outcome.run.eval_loss or 0.0, default=None)


class Sweeps:
    """The sweeps of one home. `ask_to_end` tells a run that holds a device how to end."""

    def __init__(
        self, store: Store, models_root: Path, submission: Submission, ask_to_end: Callable[[str, Wish], None]
    ) -> None:
        self._store, self._models_root = store, models_root
        self._submission, self._ask_to_end = submission, ask_to_end
        self._trained: dict[str, int] = {}  # by run; what a run trains never changes once it has begun

    def plan(self, config: RunConfig, typed: Mapping[str, str], budget: str = "", keeps_scale: bool = True) -> Plan:
        """The runs that the `typed` values, by setting path, make of `config`; an empty text is no axis.

        Raises:
            ConfigError: on the setting, or on `budget`: a value cannot be read or is out of range, or the engine would
                refuse a run; on no setting, where there are too many runs.
            ModelError: there is no such base model.
        """
        found: dict[str, Estimate | None] = {}

        def estimated(one: RunConfig) -> Estimate | None:
            key = repr((one.lora, one.quant))  # what else counts is the same in all runs
            if key not in found:
                found[key] = estimate(one, self._models_root)
            return found[key]

        def count(one: RunConfig) -> int | None:
            known = estimated(one)
            return None if known is None else known.trainable_parameters

        shapes = functools.cache(lambda: bases.inspect_model(config.base_model, self._models_root).shapes)
        axes = [read_axis(path, typed[path], shapes) for path in PATHS if typed.get(path, "").strip()]
        sweep = combine(config, axes, read_budget(budget), count, keeps_scale=keeps_scale)
        return Plan(configs=sweep.configs, estimates=tuple(map(estimated, sweep.configs)), skipped=sweep.skipped)

    def submit(self, configs: Sequence[RunConfig], key: str | None = None) -> str:
        """Queue the runs one behind the other, all or none; the group's id. A second submit with the same `key` gives
        the first one's group.

        Raises:
            ConfigError: there are none or too many; or as `Service.submit`.
            NotFound, ModelError, RunError: as `Service.submit`, for all of them together.
        """
        if not configs:
            raise ConfigError("No run is left to launch", hint="Raise the budget, or choose other values", field=BUDGET)
        if len(configs) > MOST_RUNS:
            title = f"These are {len(configs)} runs, and {MOST_RUNS} is the most"
            raise ConfigError(title, hint="Leave out some values")
        group = self._submission.queue(configs, key, group=new_id())[0].group
        assert group is not None
        return group

    def groups(self) -> tuple[str, ...]:
        """Their ids, the newest first."""
        return tuple(dict.fromkeys(run.group for run in self._store.runs() if run.group is not None))

    def runs(self, group: str) -> tuple[Run, ...]:
        """The group's runs in the order in which they were asked for.

        Raises:
            NotFound: there is no such group.
        """
        return self._store.group(group)

    def group(self, group: str) -> Group:
        """What came of the group so far.

        Raises:
            NotFound: there is no such group.
        """
        return self.side_by_side(group, self._store.group(group))

    def side_by_side(self, group: str, runs: Sequence[Run]) -> Group:
        """What came of these runs, which are all those of the group, in its order."""
        axes = varied([run.config for run in runs])
        outcomes = tuple(
            Outcome(
                run=run,
                values=tuple(say(path, value_of(run.config, path)) for path in axes),
                trainable_parameters=self._trainable(run.id),
            )
            for run in runs
        )
        name = shared_name([run.config for run in runs])
        return Group(id=group, name=name, axes=axes, outcomes=outcomes, spreads=spreads(axes, outcomes))

    def cancel_waiting(self, group: str) -> int:
        """Give up those of the group that wait; how many these were.

        Raises:
            NotFound: there is no such group.
        """
        self._store.group(group)
        return self._store.cancel_waiting(group)

    def stop(self, group: str) -> None:
        """Give up those that wait, and let those that are carried out finish their step and keep what they learned.

        Raises:
            NotFound: there is no such group.
        """
        self.cancel_waiting(group)
        for run in self._store.group(group):
            if run.state in ACTIVE_STATES:
                with suppress(RunError):  # it ends by itself at this very moment
                    self._ask_to_end(run.id, "keep")

    def _trainable(self, run_id: str) -> int | None:
        """What the run's worker has counted; None before it has."""
        if run_id not in self._trained:
            started = _started(self._store.home.run(run_id).events)
            if started is None:
                return None
            self._trained[run_id] = started.trainable_parameters
        return self._trained[run_id]


def read_axis(path: str, text: str, shapes: Callable[[], Sequence[LinearShape]]) -> Axis:
    """The values that `text` lists for a setting. Whether they are in range is for `core.sweep` to say.

    Args:
        shapes: gives the base model's linear layers; asked where the text speaks of all attention.

    Raises:
        ConfigError: on the setting, where attention is spoken of and cannot be told from the rest.
    """
    values = lists.read_names(text)
    if path != TARGETS:
        return Axis(path=path, values=tuple(_number(value) for value in values))
    words = tuple(ALL_ATTENTION if _plain(value) == ALL_ATTENTION else "" for value in values)
    return Axis(path=path, values=tuple(_targets(value, shapes) for value in values), words=words)


def read_budget(text: str) -> int | None:
    """A number of parameters: `18M`, `500k`, `1,000,000`; None where there is no text.

    Raises:
        ConfigError: on `budget`, where it is none.
    """
    plain = text.replace(",", "").replace("_", "").strip()
    if not plain:
        return None
    found = _AMOUNT.fullmatch(plain)
    amount = float(found[1]) * _MANY[found[2].lower()] if found else math.inf
    if not amount < _MOST_PARAMETERS:
        hint = "Write a number of parameters such as 1M, 500k or 250,000"
        raise ConfigError(f"The budget is {text.strip()!r}", hint=hint, field=BUDGET)
    return int(amount)


def spreads(axes: Sequence[str], outcomes: Sequence[Outcome]) -> tuple[Spread, ...]:
    """For each choice of values beside the seed, what its seeds came to; nothing where seeds do not vary."""
    if SEED not in axes:
        return ()
    losses: dict[tuple[str, ...], list[float]] = {}
    for outcome in outcomes:
        if outcome.run.eval_loss is not None:
            losses.setdefault(beside_seed(axes, outcome.values), []).append(outcome.run.eval_loss)
    return tuple(
        Spread(
            values=values,
            count=len(found),
            mean=statistics.mean(found),
            deviation=statistics.stdev(found) if len(found) > 1 else None,
        )
        for values, found in losses.items()
    )


def beside_seed(axes: Sequence[str], values: Sequence[str]) -> tuple[str, ...]:
    """Those of a run's values that are not its seed's."""
    return tuple(value for path, value in zip(axes, values, strict=True) if path != SEED)


def _number(text: str) -> object:
    """`text` as a number, if it is one; what is no number is refused where the setting is known."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def _targets(text: str, shapes: Callable[[], Sequence[LinearShape]]) -> tuple[str, ...]:
    if _plain(text) == _plain(ALL_LINEAR):
        return (ALL_LINEAR,)
    if _plain(text) != ALL_ATTENTION:
        return tuple(part.strip() for part in text.split("+") if part.strip())
    found = attention_targets(shapes())
    if not found:
        title = "The layers of attention are not known"
        detail = "the base model is not on this machine, or names them in a way of its own"
        raise ConfigError(title, detail, "Name them, with a plus between", field=TARGETS)
    return found


def _plain(text: str) -> str:
    """One way to write what may be written in several: `all-linear`, `All linear`."""
    return text.lower().replace("-", " ").replace("_", " ").strip()


def _started(events: Path) -> Started | None:
    """The first word of a worker that had made all ready; None before there is one."""
    try:
        with events.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except FileNotFoundError:
        return None
    found = (parse_event(line) for line in head.split(b"\n")[:-1] if _STARTED in line)
    return next((event for event in found if isinstance(event, Started)), None)
