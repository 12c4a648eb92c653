"""A service that answers from memory, for what the pages do with its answers."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from core.config import RunConfig, parse
from core.data.health.report import KINDS
from core.errors import NotFound
from core.events import Event, StepDone
from core.models.catalogue import ModelSource
from core.models.shapes import LinearShape
from core.sweep import PATHS
from jobs.history import Told, one_step
from jobs.service import Adapter, Dataset, ModelCard, Run
from ui.answers import News
from ui.pages import mapping, token_tab
from ui.pages.data_card import DataCard
from ui.settings import SETTINGS

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
XSS = "<img src=x onerror=window.p=1>"
SHAPES = tuple(
    LinearShape(name=f"model.layers.{layer}.{name}", in_features=64, out_features=out)
    for layer in range(2)
    for name, out in (("self_attn.q_proj", 64), ("self_attn.v_proj", 32), ("mlp.up_proj", 128))
)


def run_config(**values: Any) -> RunConfig:
    return parse({"name": "captain-r8", "data": {"dataset_id": "d1"}, **values})


def run(**values: Any) -> Run:
    fields: dict[str, Any] = {
        "id": "r1",
        "name": "captain-r8",
        "state": "running",
        "config": run_config(),
        "dataset_name": "captain.jsonl",
        "created_at": NOW,
        "started_at": NOW,
    }
    return Run(**(fields | values))


def adapter(**values: Any) -> Adapter:
    fields: dict[str, Any] = {
        "id": "a1",
        "name": "captain-r8",
        "base_model": "starter",
        "run_id": "r1",
        "path": Path("/nowhere"),
        "rank": 8,
        "alpha": 16.0,
        "targets": ("auto",),
        "bytes": 9_830_000,
        "eval_loss": 1.1,
        "base_eval_loss": 2.7,
        "fingerprint": "0a1b2c3d",
        "created_at": NOW,
    }
    return Adapter(**(fields | values))


def dataset(**values: Any) -> Dataset:
    fields: dict[str, Any] = {
        "id": "d1",
        "name": "captain.jsonl",
        "rows": 96,
        "file_format": "JSON Lines",
        "row_format": "OpenAI messages",
        "skipped": 0,
        "created_at": NOW,
    }
    return Dataset(**(fields | values))


def model_card(shapes: tuple[LinearShape, ...] = SHAPES) -> ModelCard:
    source = ModelSource(ref="starter", title="A tiny model", kind="starter", folder=Path("/m") if shapes else None)
    return ModelCard(source=source, parameters=134_500_000 if shapes else None, shapes=shapes)


class EventService:
    """The histories of runs, handed out in portions, with a count of what was asked."""

    def __init__(self, events: dict[str, list[Event]]) -> None:
        self.journal = events
        self.asked: list[tuple[str, int]] = []
        self.history = self

    def since(self, run_id: str, offset: int = 0) -> tuple[tuple[Told, ...], int]:
        self.asked.append((run_id, offset))
        if run_id not in self.journal:
            raise NotFound(f"There is no run {run_id}")
        events = self.journal[run_id]
        return tuple(map(as_told, events[offset:])), len(events)


def as_told(event: Event) -> Told:
    """A step as columns, anything else as it is."""
    return one_step(event) if isinstance(event, StepDone) else event


class Names:
    """Widgets by their names: every attribute is its own name, the settings' widgets are their paths, and those of a
    part of the page are named as if they were the page's.
    """

    fields: ClassVar[dict[str, str]] = {setting.path: setting.path for setting in SETTINGS}
    remove: ClassVar[dict[str, str]] = {key: f"remove-{key}" for key, kind in KINDS.items() if kind.removal}
    leave_out: ClassVar[dict[str, str]] = {kind: f"leave-{kind}" for kind in token_tab.LEFT_OUT}
    roles = tuple(f"role-{at}" for at in range(mapping.ROLES))
    examples: ClassVar[dict[str, str]] = {}
    axes: ClassVar[dict[str, str]] = {path: f"sweep-{path}" for path in PATHS}

    def __getattr__(self, name: str) -> Any:
        return Names() if name in ("data", "mapping", "tokens", "model", "tree", "sweep", "cost") else name


def read(card: DataCard, path: Path, seconds: float = 30.0) -> News:
    """What the card shows once the file at `path` has been read, with the number of its reading."""
    news = card.upload(str(path))
    intake = news["intake"]
    deadline = time.monotonic() + seconds
    while news["timer"]["active"]:
        assert time.monotonic() < deadline, "the file is still being read"
        time.sleep(0.02)
        news = card.look(intake)
    return {**news, "intake": intake}
