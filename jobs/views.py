"""What `jobs.service` answers with: frozen values that a page or a terminal can draw without asking further."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from core.config import Method, RunConfig, Task
from core.data.records import Message
from core.generate.requests import Blend, Delta, Sampling
from core.models.catalogue import ModelSource
from core.models.shapes import LinearShape
from jobs.origins import TRAINED, Origin
from jobs.states import ENDED_STATES, RESTING_STATES, RunState, Wish


@dataclass(frozen=True, slots=True, kw_only=True)
class RunProblem:
    """Why a run did not finish, in the words of a `UserError`."""

    title: str
    detail: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run as the store knows it. Its events and log are asked for apart. `wish` is how a run that waits or is
    carried out is to end, where somebody has said so, `group` the sweep that it belongs to, and `eval_loss` what it
    came to on rows it never saw, once it has finished; `tags` and `note` are what people put down about it. Only where
    one run is asked for: `silent_seconds` is how long its worker has not been heard of, if that is too long, and
    `checkpoint_step` where a run at rest can go on.
    """

    id: str
    name: str
    state: RunState
    config: RunConfig
    dataset_name: str
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    pid: int | None = None
    device: str | None = None
    priority: int = 0
    wish: Wish | None = None
    error: RunProblem | None = None
    adapter_id: str | None = None
    group: str | None = None
    eval_loss: float | None = None
    tags: tuple[str, ...] = ()
    note: str = ""
    silent_seconds: float | None = None
    checkpoint_step: int | None = None

    @property
    def has_ended(self) -> bool:
        """Whether it is over."""
        return self.state in ENDED_STATES

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing more will happen to the run unless somebody resumes it."""
        return self.state in RESTING_STATES


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A file that was read and kept. `skipped` counts rows that were left out with the user's consent. What was made of
    the dataset `parent_id`, by taking rows out, is a later `version` of it.
    """

    id: str
    name: str
    rows: int
    file_format: str
    row_format: str
    skipped: int
    created_at: datetime
    parent_id: str | None = None
    version: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A dataset that comes with the workbench."""

    key: str
    title: str
    description: str
    rows: int
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """An adapter or, where `method` is full, a whole model in `path` (without rank and targets). `fingerprint` is the
    start of its weights' SHA-256; losses are nats a trained token, or a row of a classifier. `origin` says how it came
    here, and `deleted_at` since when it waits to be removed.
    """

    id: str
    name: str
    base_model: str
    run_id: str | None
    path: Path
    rank: int
    alpha: float
    targets: tuple[str, ...]
    bytes: int
    eval_loss: float | None
    base_eval_loss: float | None
    fingerprint: str
    created_at: datetime
    method: Method = "lora"
    task: Task = "chat"
    note: str = ""
    origin: Origin = TRAINED
    deleted_at: datetime | None = None

    @property
    def can_chat(self) -> bool:
        """Whether it answers with text; a classifier names a class."""
        return self.task == "chat"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """A base model: what can be adapted in it. Without parameters and shapes while it is not on this machine.

    `shapes` are its linear layers, `others` what else may be named as a target: embeddings, the head, experts, and
    parts of matrices that are several in one.
    """

    source: ModelSource
    parameters: int | None
    shapes: tuple[LinearShape, ...]
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a config would train and write, from the model's shapes alone: `adapter_bytes` is the result's size, be it
    an adapter or a whole model, and `adapted_modules` those that hold something trained.
    """

    trainable_parameters: int
    base_parameters: int
    adapter_bytes: int
    adapted_modules: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What this machine has and does."""

    cpu_count: int
    memory_total_bytes: int
    memory_free_bytes: int
    gpus: tuple[str, ...]
    active_runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pane:
    """One conversation of a chat, or a `text` to go on with. `adapter` is an adapter's id or folder, or several of
    these with their strengths; None asks the base model. Without a `sampling` of its own it takes what is said for the
    whole chat; all else is as in `PaneRequest`.
    """

    adapter: str | Blend | None
    messages: tuple[Message, ...]
    sampling: Sampling | None = None
    alternatives: int | None = None
    stop: tuple[str, ...] = ()
    text: str | None = None
    keeps: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Nothing to read yet: `phase` says for what one waits. May come again with the same phase."""

    phase: str


ChatUpdate = Waiting | Delta
