"""What a run is asked to do: frozen dataclasses that validate themselves.

pydantic checks types and ranges and reads JSON and YAML, so that a config from a form, a file or a command line
passes the same gate. `parse` turns its complaint into one `ConfigError` with the field's name.
"""

from __future__ import annotations

import reprlib
import unicodedata
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal, TypeVar, cast, dataclass_transform

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from core.errors import ConfigError

AUTO_TARGETS = "auto"
ALL_LINEAR = "all-linear"
STARTER = "starter"

_T = TypeVar("_T")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def _frozen(cls: type[_T]) -> type[_T]:
    return cast("type[_T]", dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid"))(cls))


def _composed(name: Any) -> Any:
    """One spelling of what looks the same, without blanks around it; what is no text stays as it is."""
    return unicodedata.normalize("NFC", name).strip() if isinstance(name, str) else name


# No control characters, and none that turn the direction of text around.
Name = Annotated[
    str,
    Field(min_length=1, max_length=80, pattern=r"^[^\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]+$"),
    BeforeValidator(_composed),
]
Positive = Annotated[int, Field(ge=1)]
Start = Literal["kaiming", "gaussian", "orthogonal", "pissa", "olora", "eva", "loftq"]
Method = Literal["lora", "full", "bitfit"]
Task = Literal["chat", "classification"]
Tracker = Literal["none", "trackio", "wandb"]
TrainOn = Literal["assistant", "last", "everything"]
TemplateName = Literal["plain", "chatml", "llama3", "mistral", "gemma", "zephyr", "alpaca", "vicuna"]


@_frozen
class LoraConfig:
    """The adapter's shape (LoRA paper, section 4) and its variants.

    `rank` is r and `alpha` is the α of s = α / r, or s = α / √r with `use_rslora`. `targets` names modules by the last
    part of their path (`q_proj`), by a longer path (`layers.3.mlp.up_proj`) or, where a matrix is several in one, by
    a part of it (`qkv_proj:v`); `("auto",)` lets the model decide and `("all-linear",)` takes every linear layer but
    the output head. `layers` narrows them to the blocks of those numbers. `rank_pattern` and `alpha_pattern` give the
    modules that a target names another r or α. `init` is how A and B begin (`core.adapters.starts`). `freeze_a`
    trains B alone (LoRA-FA). `bias` trains the biases of adapted layers, or all. `modules_to_save` names modules that
    are trained whole, and `new_tokens` tokens that join the vocabulary and whose embeddings are trained.
    """

    rank: Annotated[int, Field(ge=1, le=4096)] = 8
    alpha: Annotated[float, Field(gt=0, le=65536)] = 16.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = (AUTO_TARGETS,)
    layers: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    use_rslora: bool = False
    use_dora: bool = False
    init: Start = "kaiming"
    freeze_a: bool = False
    rank_pattern: dict[str, Annotated[int, Field(ge=1, le=4096)]] = field(default_factory=dict)
    alpha_pattern: dict[str, Annotated[float, Field(gt=0, le=65536)]] = field(default_factory=dict)
    bias: Literal["none", "lora_only", "all"] = "none"
    modules_to_save: tuple[str, ...] = ()
    new_tokens: tuple[Annotated[str, Field(min_length=1, max_length=100)], ...] = ()


@_frozen
class QuantConfig:
    """How the frozen base is stored. `bits` 4 is NF4 or FP4 in blocks of `block_size`; 16 is bf16 where that pays, else
    fp32. `skip` names modules, as targets do, that stay in 16 bits.
    """

    bits: Literal[4, 8, 16, 32] = 16
    quant_type: Literal["nf4", "fp4"] = "nf4"
    double_quant: bool = True
    block_size: Literal[64, 128, 256, 512] = 64
    skip: tuple[str, ...] = ()


@_frozen
class DataConfig:
    """Which rows are trained on, and what of them. `max_tokens` truncates a row; `holdout` is the share of rows kept
    for evaluation. `train_on` says which tokens of a conversation are trained: all the assistant's turns, the last one
    alone, or every token; a turn whose weight is 0 never is. `template` names the chat template
    (`core.data.tokens.named_templates`); with None it is the model's own, or our plain one where it has none.
    """

    dataset_id: str
    max_tokens: Annotated[int, Field(ge=8, le=1_048_576)] = 1024
    holdout: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    train_on: TrainOn = "assistant"
    template: TemplateName | None = None


@_frozen
class OptimConfig:
    """AdamW with a linear warm-up and decay.

    `learning_rate` None is suited to the model's width (`core.train.schedule`). `batch_size` counts rows an optimizer
    step. `steps`, where given, wins over `epochs`. `micro_tokens` bounds the tokens that go through the model at once
    and so the memory; it changes the result by rounding only. `checkpointing` keeps less between the forward and the
    backward pass, for half more work. `checkpoints` is how many saved states are kept, the newest ones. `warmup` is a
    share of all steps. `lora_plus_ratio` is how many times faster B learns than A (LoRA+, arXiv 2402.12354).
    """

    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    epochs: Annotated[float, Field(gt=0, le=1000)] = 3.0
    steps: Annotated[int, Field(ge=1)] | None = None
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 8
    micro_tokens: Annotated[int, Field(ge=64)] = 2048
    checkpointing: bool = False
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    evaluations: Annotated[int, Field(ge=1, le=1000)] = 6
    checkpoints: Annotated[int, Field(ge=1, le=1000)] = 2
    lora_plus_ratio: Annotated[float, Field(gt=0, le=1024)] = 1.0


@_frozen
class SampleConfig:
    """What the model is asked before the first step and now and then after it, always alike (`core.train.samples`):
    `prompts`, each as a user's message, or where there are none the beginnings of so many held-out `rows`; 0 asks
    nothing. A classifier is asked nothing.
    """

    rows: Annotated[int, Field(ge=0, le=4)] = 2
    prompts: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=4000)], ...], Field(max_length=4)] = ()


@_frozen
class RunConfig:
    """Everything a run needs to be carried out and to be repeated.

    `method` is what is trained: an adapter, every weight, or the biases alone (BitFit). `task` is what the model does:
    go on with a conversation or text, or name the class that a text belongs to. `tracker` is the service or program
    that gets the run's figures beside the files in its own folder.
    """

    name: Name
    data: DataConfig
    base_model: Annotated[str, Field(min_length=1, max_length=4096)] = STARTER
    method: Method = "lora"
    task: Task = "chat"
    lora: LoraConfig = field(default_factory=LoraConfig)
    quant: QuantConfig = field(default_factory=QuantConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    samples: SampleConfig = field(default_factory=SampleConfig)
    tracker: Tracker = "none"
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0


_ADAPTER = TypeAdapter(RunConfig)
# Where pydantic's own words do not say what to do.
_RULES = {
    "string_too_short": "text that is not empty",
    "string_too_long": "at most {max_length} characters long",
    "string_pattern_mismatch": "text without control characters",
    "string_unicode": "text without halves of characters",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
}


def parse(values: dict[str, Any]) -> RunConfig:
    """The config that `values` (nested dicts, as in JSON or YAML) describe.

    Raises:
        ConfigError: naming the first field that is missing, unknown or outside its range.
    """
    try:
        return _ADAPTER.validate_python(values)
    except ValidationError as error:
        raise _explain(error) from None


def to_dict(config: RunConfig) -> dict[str, Any]:
    """`config` as nested plain values; `parse` gives the same config back."""
    values: dict[str, Any] = _ADAPTER.dump_python(config, mode="json")
    return values


def changed(config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """`config` with settings set by their dotted names.

    Raises:
        ConfigError: one of them is none, or the result does not hold together.
    """
    values = to_dict(config)
    for path, value in changes.items():
        *outer, leaf = path.split(".")
        place = values
        for name in outer:
            place = place[name]
        place[leaf] = value
    return parse(values)


def _explain(error: ValidationError) -> ConfigError:
    first = error.errors(include_url=False)[0]
    path = ".".join(str(part) for part in first["loc"] if isinstance(part, str))
    label = path.rpartition(".")[2].replace("_", " ") or "config"
    if first["type"] == "missing":
        return ConfigError(f"The setting {path} is missing", hint="Give it a value", field=path)
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return ConfigError(f"There is no setting {path}", hint="Check its spelling or remove it", field=path)
    rule = first["msg"].removeprefix("Input should be ").replace("Input ", "")
    if first["type"] in _RULES:
        rule = _RULES[first["type"]].format(**first.get("ctx", {}))
    return ConfigError(f"{label.capitalize()} is {_shown(first['input'])}", hint=f"It must be {rule}", field=path)


def _shown(value: Any) -> str:
    """`value` as one may read it, cut where it is long."""
    cut = reprlib.Repr()
    cut.maxstring = cut.maxother = 100
    return cut.repr(value)
