"""The settings that a person can type as options of `train`, each named once: its flag, its place in `RunConfig`.

`with_flags` gives a command these options, and `settings` reads what was given. The page shows the same run as a
command from the same table.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from core.errors import ConfigError
from jobs import lists

_READERS: dict[str, Callable[[str], Any]] = {
    "names": lists.read_names,
    "layers": lists.read_layers,
    "pattern": lists.read_pattern,
}
_WRITERS: dict[str, Callable[[Any], str]] = {
    "names": lists.show_names,
    "layers": lists.show_layers,
    "pattern": lists.show_pattern,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One option. `path` is the setting's dotted name and `kind` what is typed: a number, a text, a list as
    `jobs.lists` has it (names, layers, pattern), nothing at all (a switch), or a text that may be repeated.
    """

    name: str
    path: str
    kind: str = "text"
    help: str | None = None

    @property
    def parameter(self) -> str:
        """What the option is called in Python."""
        return self.name.removeprefix("--").replace("-", "_")

    @property
    def type(self) -> Any:
        """What typer reads it as."""
        return {"number": float, "integer": int, "switch": bool, "repeated": list[str]}.get(self.kind, str)

    def read(self, value: Any) -> Any:
        """The setting's value.

        Raises:
            ConfigError: on the setting, where a list cannot be read.
        """
        try:
            return _READERS[self.kind](value) if self.kind in _READERS else value
        except ConfigError as error:
            raise ConfigError(f"{self.name}: {error.title}", error.detail, error.hint, field=self.path) from None

    def words(self, value: Any) -> list[str]:
        """The option as the words that a terminal takes, for the setting's `value`."""
        if self.kind == "switch":
            return [self.name if value else self.name.replace("--", "--no-", 1)]
        if self.kind == "repeated":
            return [word for text in value for word in (self.name, text)]
        if self.kind in _WRITERS:
            return [self.name, _WRITERS[self.kind](value).replace(", ", ",")]
        return [self.name, f"{value:.12g}" if isinstance(value, float) else str(value)]


FLAGS: tuple[Flag, ...] = (
    Flag(name="--model", path="base_model", help="starter, a model's folder or a hub id."),
    Flag(name="--method", path="method", help="What is trained: lora, full or bitfit."),
    Flag(name="--task", path="task", help="chat or classification; by default what the dataset's columns say."),
    Flag(name="--rank", path="lora.rank", kind="integer"),
    Flag(name="--alpha", path="lora.alpha", kind="number"),
    Flag(name="--targets", path="lora.targets", kind="names", help="auto, all-linear or names with commas between."),
    Flag(name="--layers", path="lora.layers", kind="layers", help="The blocks that get an adapter, as 0-3,7."),
    Flag(name="--rank-pattern", path="lora.rank_pattern", kind="pattern", help="Ranks of some modules: q_proj=16."),
    Flag(name="--alpha-pattern", path="lora.alpha_pattern", kind="pattern", help="Alphas of some modules."),
    Flag(name="--dora", path="lora.use_dora", kind="switch", help="Train magnitudes apart from directions."),
    Flag(name="--rslora", path="lora.use_rslora", kind="switch", help="Scale by alpha / √rank."),
    Flag(name="--init", path="lora.init", help="kaiming, gaussian, orthogonal, pissa, olora, eva or loftq."),
    Flag(name="--freeze-a", path="lora.freeze_a", kind="switch", help="Train B alone (LoRA-FA)."),
    Flag(name="--lora-plus", path="optim.lora_plus_ratio", kind="number", help="How much faster B learns than A."),
    Flag(name="--bias", path="lora.bias", help="The biases trained beside the adapter: none, lora_only or all."),
    Flag(name="--modules-to-save", path="lora.modules_to_save", kind="names", help="Modules that are trained whole."),
    Flag(name="--new-token", path="lora.new_tokens", kind="repeated", help="A token to add; may be repeated."),
    Flag(name="--bits", path="quant.bits", kind="integer", help="16, 4, 8 or 32: how the base model is stored."),
    Flag(name="--quant-type", path="quant.quant_type", help="The 4-bit numbers: nf4 or fp4."),
    Flag(name="--quant-skip", path="quant.skip", kind="names", help="Layers that stay in 16 bits."),
    Flag(name="--epochs", path="optim.epochs", kind="number"),
    Flag(name="--steps", path="optim.steps", kind="integer"),
    Flag(name="--batch-size", path="optim.batch_size", kind="integer", help="Rows an optimizer step."),
    Flag(name="--max-tokens", path="data.max_tokens", kind="integer", help="Longer rows are cut."),
    Flag(name="--lr", path="optim.learning_rate", kind="number", help="The learning rate."),
    Flag(name="--seed", path="seed", kind="integer"),
)


def with_flags(before: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command, whose last parameter is `**given`, an option for each of `FLAGS`; those not given are None.

    Args:
        before: the command's own option that they stand before, in its help.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        *named, _given = signature.parameters.values()
        own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in named]
        at = [parameter.name for parameter in own].index(before)

        @functools.wraps(command)
        def run(**given: Any) -> None:
            command(**given)

        parameters = [*own[:at], *map(_parameter, FLAGS), *own[at:]]
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given, by the settings' dotted names.

    Raises:
        ConfigError: a list cannot be read.
    """
    found = {flag: given[flag.parameter] for flag in FLAGS}
    return {flag.path: flag.read(value) for flag, value in found.items() if value not in (None, [])}


def _parameter(flag: Flag) -> inspect.Parameter:
    names = f"{flag.name}/{flag.name.replace('--', '--no-', 1)}" if flag.kind == "switch" else flag.name
    annotation = Annotated[flag.type | None, typer.Option(names, help=flag.help)]  # type: ignore[name-defined]
    return inspect.Parameter(flag.parameter, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
