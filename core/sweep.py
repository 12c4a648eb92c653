"""Several runs of one config: every combination of several values of some settings, with names that tell them apart.

    rank 4, 8 × learning rate 1e-4, 3e-4      captain · r4 · lr 1e-4    captain · r4 · lr 3e-4    captain · r8 · …

**Alpha follows the rank**, so that the scale s = α/r (α/√r with rsLoRA) stays what it is in the config: else a higher
rank would be compared at a weaker update. The paper (arXiv 2106.09685, section 4.1) keeps α instead, and with it the
number that one rank adds; `keeps_scale=False` does that.

**Within one budget** no run trains more parameters than it says. Where no ranks are asked for, each choice of targets
gets the largest rank that stays within it: fewer matrices, a higher rank. Table 5 of the paper is such a sweep, 18M
parameters on one kind of matrix at r = 8, on two at 4 or on four at 2. What cannot stay within it is left out and said.

Free of torch. What a config would train is for the caller to count; nothing is known here of models.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from core.checks import METHOD_WORDS
from core.config import ALL_LINEAR, RunConfig, changed
from core.errors import ConfigError
from core.models.shapes import LinearShape
from core.models.shortest_targets import targets_and_layers

MOST_RUNS = 64
BUDGET = "budget"  # what a complaint about it names as its field
TARGETS, RANK, ALPHA, RATE, EPOCHS = "lora.targets", "lora.rank", "lora.alpha", "optim.learning_rate", "optim.epochs"

_BETWEEN = " · "
_LONGEST_NAME, _LONGEST_ENDING, _LONGEST_WORD = 80, 60, 28
_HIGHEST_RANK = 4096

Count = Callable[[RunConfig], int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A setting, by its dotted name, and the values to try. `words` name these in runs' names, where that should differ
    from what `say` makes of them.
    """

    path: str
    values: tuple[Any, ...]
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A combination that is no run: how it would be called, and why it is left out."""

    name: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """The runs, the last axis changing fastest, and what was left out."""

    configs: tuple[RunConfig, ...]
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True, slots=True)
class _Choice:
    path: str
    value: Any
    word: str


def combine(
    config: RunConfig,
    axes: Sequence[Axis],
    budget: int | None = None,
    parameters_of: Count | None = None,
    *,
    keeps_scale: bool = True,
) -> Sweep:
    """Every combination of the axes' values, put into `config`; equal ones once.

    Args:
        budget: how many parameters a run may train.
        parameters_of: how many a config would train; None where that cannot be known yet. It may refuse a config.
        keeps_scale: whether alpha follows a rank that differs from the config's.

    Raises:
        ConfigError: a value is outside its setting's range, an axis means nothing to the others or to the method, there
            are too many runs, or `parameters_of` refuses one.
    """
    _check(config, axes, budget)
    choices = [_choices(config, axis) for axis in axes]
    _require_few(math.prod(map(len, choices)))
    swept = {axis.path for axis in axes}
    made: list[RunConfig] = []
    skipped: list[Skipped] = []
    for chosen in itertools.product(*choices):
        one, left_out = changed(config, {choice.path: choice.value for choice in chosen}), ""
        words = [choice.word for choice in chosen]
        if budget is not None:
            one, left_out = _within(one, budget, parameters_of, is_free=RANK not in swept)
        elif parameters_of is not None:
            parameters_of(one)  # for what it refuses
        if budget is not None and RANK not in swept:
            words.insert(1 if chosen and chosen[0].path == TARGETS else 0, say(RANK, one.lora.rank))
        if keeps_scale and ALPHA not in swept:
            one = _at_scale_of(config, one)
        if left_out:
            skipped.append(Skipped(name=_name(config.name, words, ()), why=left_out))
        elif not any(_is_same(one, other) for other in made):
            made.append(replace(one, name=_name(config.name, words, [other.name for other in made])))
    return Sweep(configs=tuple(made), skipped=tuple(skipped))


def say(path: str, value: Any) -> str:
    """A value as a run's name and a table have it: `r4`, `lr 3e-4`, `q_proj+v_proj`. Others are called otherwise."""
    return _SAY[path](value)


def varied(configs: Sequence[RunConfig]) -> tuple[str, ...]:
    """The settings that can be swept in which these differ; an alpha that only follows the rank is none of them."""
    paths = [path for path in _SAY if len({repr(value_of(config, path)) for config in configs}) > 1]
    scales = {round(_scale(config), 9) for config in configs}
    return tuple(path for path in paths if path != ALPHA or RANK not in paths or len(scales) > 1)


def value_of(config: RunConfig, path: str) -> Any:
    """What `config` has under a dotted name."""
    value: Any = config
    for part in path.split("."):
        value = getattr(value, part)
    return value


def shared_name(configs: Sequence[RunConfig]) -> str:
    """What the names of a sweep's runs have in common: the name of the whole."""
    given = [config.name.split(_BETWEEN) for config in configs]
    common = [parts[0] for parts in zip(*given, strict=False) if len(set(parts)) == 1]
    return _BETWEEN.join(common) or configs[0].name


def attention_targets(shapes: Sequence[LinearShape]) -> tuple[str, ...]:
    """The fewest targets that mean the linear layers of attention and no other; none where names tell of none."""
    inside = [shape.name for shape in shapes if "att" in shape.name.rpartition(".")[0].lower()]
    targets, layers = targets_and_layers(inside, shapes)
    return targets if layers is None else tuple(inside)


# -- what may be combined --------------------------------------------------------------------------------------------


def _check(config: RunConfig, axes: Sequence[Axis], budget: int | None) -> None:
    for axis in axes:
        if axis.path not in _SAY:
            raise ConfigError(f"{axis.path} cannot be swept", hint=f"Choose from {', '.join(_SAY)}", field=axis.path)
        if not axis.values:
            raise ConfigError(f"No values of {axis.path} are given", hint="Name at least one", field=axis.path)
        if axis.path.startswith("lora.") and config.method != "lora":
            words = METHOD_WORDS[config.method]
            hint = "Sweep another setting, or choose the method LoRA"
            raise ConfigError(f"{words[0].upper()}{words[1:]} has no adapter to vary", hint=hint, field=axis.path)
        if axis.path == EPOCHS and config.optim.steps is not None:
            detail = f"a number of steps is given, {config.optim.steps}, and wins"
            raise ConfigError("Epochs would change nothing", detail, "Leave the steps empty", EPOCHS)
    if len({axis.path for axis in axes}) < len(axes):
        raise ConfigError("A setting is swept twice", hint="Give all of its values at once")
    if budget is not None and config.method != "lora":
        words = METHOD_WORDS[config.method]
        raise ConfigError(f"No budget can be kept by {words}", "it has no rank", "Choose the method LoRA", BUDGET)
    if budget is not None and budget < 1:
        raise ConfigError(f"The budget is {budget}", hint="Give a number of parameters above 0", field=BUDGET)
    _require_plain_scale(config, axes, budget)


def _require_plain_scale(config: RunConfig, axes: Sequence[Axis], budget: int | None) -> None:
    """Refuse to vary the rank where modules have one of their own, which would neither follow nor be told apart."""
    varies = budget is not None or any(axis.path == RANK for axis in axes)
    own = next((f"lora.{name}" for name in ("rank_pattern", "alpha_pattern") if getattr(config.lora, name)), None)
    if varies and own is not None:
        raise ConfigError(
            "The rank cannot be varied while modules have a rank or an alpha of their own",
            hint="Take these out, or sweep something else",
            field=own,
        )


def _require_few(count: int) -> None:
    if count > MOST_RUNS:
        raise ConfigError(f"This makes {count:,} runs, and {MOST_RUNS} is the most", hint="Leave out some values")


def _choices(config: RunConfig, axis: Axis) -> list[_Choice]:
    """The axis' values as `RunConfig` reads them, each once.

    Raises:
        ConfigError: on the setting; the first value that is outside its range.
    """
    _require_few(len(axis.values))
    words: Sequence[str] = axis.words or [""] * len(axis.values)
    found: list[_Choice] = []
    for given, word in zip(axis.values, words, strict=True):
        value = value_of(changed(config, {axis.path: given}), axis.path)
        if all(choice.value != value for choice in found):
            found.append(_Choice(axis.path, value, _short(word or say(axis.path, value))))
    return found


# -- one run ---------------------------------------------------------------------------------------------------------


def _within(config: RunConfig, budget: int, parameters_of: Count | None, *, is_free: bool) -> tuple[RunConfig, str]:
    """`config` at the largest rank that stays within the budget, or as it is where the rank is not free; and why that
    cannot be, if so.
    """
    count = parameters_of(config) if parameters_of is not None and not is_free else None
    if not is_free and count is not None:
        return config, f"it trains {count:,} parameters, more than the budget of {budget:,}" if count > budget else ""
    unit = 2 if config.lora.init == "orthogonal" else 1
    least = changed(config, {RANK: unit})
    count = parameters_of(least) if parameters_of is not None else None
    if parameters_of is None or count is None:
        title = "A budget cannot be kept before the base model is on this machine"
        raise ConfigError(title, "its layers say what a rank takes", "Leave the budget empty for now", BUDGET)
    if count > budget:
        return least, f"even rank {unit} trains {count:,} parameters, more than the budget of {budget:,}"
    return changed(config, {RANK: _largest_rank(config, budget, parameters_of, unit)}), ""


def _largest_rank(config: RunConfig, budget: int, parameters_of: Count, unit: int) -> int:
    """The largest multiple of `unit` that stays within the budget and that every layer can hold; one `unit` does."""

    def fits(units: int) -> bool:
        try:
            return (parameters_of(changed(config, {RANK: units * unit})) or 0) <= budget
        except ConfigError as error:
            if error.field != RANK:
                raise
            return False  # more than a layer can hold

    most = _HIGHEST_RANK // unit
    low, high = 1, 2
    while high <= most and fits(high):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low * unit


def _at_scale_of(config: RunConfig, one: RunConfig) -> RunConfig:
    if one.lora.rank == config.lora.rank:
        return one
    ratio = one.lora.rank / config.lora.rank
    alpha = config.lora.alpha * (math.sqrt(ratio) if config.lora.use_rslora else ratio)
    return changed(one, {ALPHA: float(f"{alpha:.9g}")})


def _scale(config: RunConfig) -> float:
    rank = math.sqrt(config.lora.rank) if config.lora.use_rslora else config.lora.rank
    return config.lora.alpha / rank


def _is_same(one: RunConfig, other: RunConfig) -> bool:
    return replace(one, name=other.name) == other


# -- names -----------------------------------------------------------------------------------------------------------


def _name(base: str, words: Sequence[str], taken: Sequence[str]) -> str:
    """A name that none of `taken` is; where it would be too long, the base's gives way."""
    ending = "".join(f"{_BETWEEN}{word}" for word in words)[:_LONGEST_ENDING]
    for tail in _numbered(ending):
        name = f"{base[: _LONGEST_NAME - len(tail)].rstrip()}{tail}".rstrip()
        if name not in taken:
            return name
    raise AssertionError("numbers do not end")


def _numbered(ending: str) -> Iterator[str]:
    yield ending
    yield from (f"{ending} #{number}" for number in itertools.count(2))


def _say_rate(value: float | None) -> str:
    """Without the zeros of `0.0001`: `lr 1e-4`."""
    if value is None:
        return "lr of the model"
    mantissa, _, exponent = f"{value:.15e}".partition("e")
    return f"lr {float(mantissa):.15g}e{int(exponent)}"


def _say_targets(value: Sequence[str]) -> str:
    return "+".join(target.replace(ALL_LINEAR, "all linear") for target in value)


def _short(word: str) -> str:
    """A word that leaves a name room for others: of many targets the first, and how many more there are."""
    if len(word) <= _LONGEST_WORD:
        return word
    first, *others = word.split("+")
    return f"{first[: _LONGEST_WORD - 8]}+{len(others)} more" if others else first[-_LONGEST_WORD:]


# What can be swept, in the order in which a table has its columns, and how a value is called.
_SAY: dict[str, Callable[[Any], str]] = {
    TARGETS: _say_targets,
    RANK: lambda value: f"r{value}",
    ALPHA: lambda value: f"alpha {value:.12g}",
    RATE: _say_rate,
    EPOCHS: lambda value: f"{value:.12g} {'epoch' if value == 1 else 'epochs'}",
    "quant.bits": lambda value: f"{value}-bit",
    "seed": lambda value: f"seed {value}",
}
PATHS = tuple(_SAY)
