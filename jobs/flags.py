"""The settings that a person can type as options of `train`, each named once: its flag, its place in `RunConfig`.

`with_flags` gives a command these options, and `settings` reads what was given. The page shows the same run as a
command from the same table.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
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
    Flag(name="--name", path="name", help="What the run is called; by default as its dataset."),
    Flag(name="--model", path="base_model", help="starter, a model's folder or a hub id."),
    Flag(name="--method", path="method", help="What is trained: lora, full or bitfit."),
    Flag(name="--task", path="task", help="chat or classification; by default what the dataset's columns say."),
    Flag(name="--rank", path="lora.rank", kind="integer"),
    Flag(name="--alpha", path="lora.alpha", kind="number"),
    Flag(name="--dropout", path="lora.dropout", kind="number", help="The share of an adapter's inputs left out."),
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
    Flag(name="--quant-block", path="quant.block_size", kind="integer", help="4-bit weights that share one scale."),
    Flag(name="--double-quant", path="quant.double_quant", kind="switch", help="Compress the 4-bit scales too."),
    Flag(name="--quant-skip", path="quant.skip", kind="names", help="Layers that stay in 16 bits."),
    Flag(name="--epochs", path="optim.epochs", kind="number"),
    Flag(name="--steps", path="optim.steps", kind="integer"),
    Flag(name="--batch-size", path="optim.batch_size", kind="integer", help="Rows an optimizer step."),
    Flag(name="--micro-tokens", path="optim.micro_tokens", kind="integer", help="Tokens fed at once; bounds memory."),
    Flag(name="--checkpointing", path="optim.checkpointing", kind="switch", help="Less memory for more time."),
    Flag(name="--max-tokens", path="data.max_tokens", kind="integer", help="Longer rows are cut."),
    Flag(name="--train-on", path="data.train_on", help="What of a chat is trained: assistant, last or everything."),
    Flag(
        name="--template",
        path="data.template",
        help="A chat template: plain, chatml, llama3, mistral, gemma, zephyr, alpaca or vicuna.",
    ),  # fmt: skip
    Flag(name="--holdout", path="data.holdout", kind="number", help="The share of rows kept to measure with."),
    Flag(name="--evaluations", path="optim.evaluations", kind="integer", help="How often these are measured."),
    Flag(name="--lr", path="optim.learning_rate", kind="number", help="The learning rate."),
    Flag(name="--schedule", path="optim.schedule", help="How the rate falls: linear, cosine or constant."),
    Flag(name="--warmup", path="optim.warmup", kind="number", help="The share of steps before the full rate."),
    Flag(name="--weight-decay", path="optim.weight_decay", kind="number"),
    Flag(name="--clip-norm", path="optim.clip_norm", kind="number", help="The largest norm of a step's gradient."),
    Flag(name="--checkpoints", path="optim.checkpoints", kind="integer", help="How many are kept, the newest."),
    Flag(name="--samples", path="samples.rows", kind="integer", help="Held-out rows answered as the run goes on."),
    Flag(name="--sample-prompt", path="samples.prompts", kind="repeated", help="Asked instead; may be repeated."),
    Flag(name="--tracker", path="tracker", help="Gets the figures too: trackio or wandb, where it is installed."),
    Flag(name="--seed", path="seed", kind="integer"),
)

# Of which several values make a sweep: those of `core.sweep`, which takes longer to import than `--help` may last.
SWEPT = ("lora.targets", "lora.rank", "lora.alpha", "optim.learning_rate", "optim.epochs", "quant.bits", "seed")


def with_flags(before: str, several: Collection[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command, whose last parameter is `**given`, an option for each of `FLAGS`; those not given are None.

    Args:
        before: the command's own option that they stand before, in its help.
        several: settings of which several values may be given: they come as the text that was typed.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        *named, _given = signature.parameters.values()
        own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in named]
        at = [parameter.name for parameter in own].index(before)

        @functools.wraps(command)
        def run(**given: Any) -> None:
            command(**given)

        parameters = [*own[:at], *(_parameter(flag, flag.path in several) for flag in FLAGS), *own[at:]]
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


def typed(given: dict[str, Any], several: Collection[str]) -> dict[str, str]:
    """Of what was given, the texts of the settings that may have several values; they are taken out of it."""
    found = {flag: given[flag.parameter] for flag in FLAGS if flag.path in several}
    given.update((flag.parameter, None) for flag in found)
    return {flag.path: text or "" for flag, text in found.items()}


def _parameter(flag: Flag, has_several: bool) -> inspect.Parameter:
    names = f"{flag.name}/{flag.name.replace('--', '--no-', 1)}" if flag.kind == "switch" else flag.name
    help_ = "One or several, with commas between." if has_several else flag.help
    kind = str if has_several else flag.type
    annotation = Annotated[kind | None, typer.Option(names, help=help_)]  # type: ignore[valid-type]
    return inspect.Parameter(flag.parameter, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
