"""What a run can report. The worker appends each as one JSON line to the run's `events.jsonl`; nothing else is
needed to draw a run, whoever looks, whenever. Times are seconds, sizes bytes, losses nats a trained token (a
row, where rows have classes).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias, TypeVar, cast, dataclass_transform

from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass

_T = TypeVar("_T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def _frozen(cls: type[_T]) -> type[_T]:
    return cast("type[_T]", dataclass(frozen=True, slots=True, kw_only=True)(cls))


@_frozen
class Preparing:
    """A phase before the first step began: `phase` is a word, `detail` says what exactly."""

    event: Literal["preparing"] = "preparing"
    phase: Literal["fetching", "loading", "quantizing", "injecting", "tokenizing"]
    detail: str = ""


@_frozen
class Note:
    """Something the user should know that is no error: skipped rows, truncation, a choice the engine made."""

    event: Literal["note"] = "note"
    text: str


@_frozen
class Started:
    """The loop begins (again, when `first_step` is above 1). `steps` is the total planned, `method` what is trained."""

    event: Literal["started"] = "started"
    steps: int
    first_step: int
    train_rows: int
    eval_rows: int
    tokens_per_epoch: int
    trained_tokens_per_epoch: int
    trainable_parameters: int
    base_parameters: int
    adapted_modules: int
    bits: int
    compute_dtype: str
    device: str
    method: str = "lora"


@_frozen
class StepDone:
    """One optimizer step. `tokens` (fed, prompts included) and `seconds` (in optimizer steps alone) are running
    totals; `is_spike` marks a loss that stands out from those before it.
    """

    event: Literal["step"] = "step"
    step: int
    epoch: float
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    seconds: float
    rss_bytes: int
    device_bytes: int | None = None
    is_spike: bool = False


@_frozen
class EvalDone:
    """The loss on held-out rows after `step` steps; step 0 is the base model itself. `accuracy` is the share of rows
    named right, where rows have classes; `token_accuracy` the share of trained tokens that the model would have chosen
    itself, each behind the true ones before it.
    """

    event: Literal["eval"] = "eval"
    step: int
    loss: float
    accuracy: float | None = None
    token_accuracy: float | None = None


@_frozen
class Sample:
    """What the model answers to one of the run's fixed prompts after `step` steps, greedily; `number` counts the
    prompts from 0.
    """

    event: Literal["sample"] = "sample"
    step: int
    number: int
    prompt: str
    text: str


@_frozen
class Saved:
    """A checkpoint of `bytes` on disk is whole."""

    event: Literal["saved"] = "saved"
    step: int
    path: str
    bytes: int = 0


@_frozen
class Appraising:
    """All steps are done, the result is saved, and what was learned is being measured."""

    event: Literal["appraising"] = "appraising"
    share_done: float


@_frozen
class Appraised:
    """What was learned has been measured (`learned.json` in the run's folder): `verdict` is one sentence on it."""

    event: Literal["appraised"] = "appraised"
    level: Literal["good", "warn", "bad"]
    verdict: str


@_frozen
class Finished:
    """The run's end. `output` is the folder of what was trained, `output_bytes` its size; `stopped` says that the user
    ended it early and kept what was learned.
    """

    event: Literal["finished"] = "finished"
    output: str
    steps: int
    tokens: int
    seconds: float
    tokens_per_second: float
    peak_rss_bytes: int
    first_loss: float | None
    last_loss: float | None
    eval_loss: float | None
    base_eval_loss: float | None = None
    stopped: bool = False
    output_bytes: int = 0


@_frozen
class Paused:
    """The run has let go of the machine and goes on from `step` when it is resumed. `title`, `detail` and `hint` say
    why, where nobody asked for it.
    """

    event: Literal["paused"] = "paused"
    step: int
    title: str = ""
    detail: str = ""
    hint: str = ""


@_frozen
class Cancelled:
    """The user gave the run up; its last checkpoint stays."""

    event: Literal["cancelled"] = "cancelled"
    step: int


@_frozen
class Failed:
    """The run cannot go on: a `UserError`, or our own mistake with its traceback in the log."""

    event: Literal["failed"] = "failed"
    title: str
    detail: str = ""
    hint: str = ""


Event: TypeAlias = (
    Preparing
    | Note
    | Started
    | StepDone
    | EvalDone
    | Sample
    | Saved
    | Appraising
    | Appraised
    | Finished
    | Paused
    | Cancelled
    | Failed
)

_ADAPTER: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])


def from_json(line: str | bytes) -> Event:
    """The event that one line of `events.jsonl` holds."""
    return _ADAPTER.validate_json(line)


def to_json(event: Event) -> str:
    """`event` as one line of JSON, `event` (its kind) first, without a line break."""
    return _ADAPTER.dump_json(event).decode()


def to_dict(event: Event) -> dict[str, Any]:
    """`event` as plain values."""
    values: dict[str, Any] = _ADAPTER.dump_python(event, mode="json")
    return values
