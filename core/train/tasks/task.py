"""The seam between a run and what the model does in it.

A task is made for one run, from its config and records; it refuses records that it cannot use before anything is
loaded. It then says which model class to load, how rows go through that model, and how records become rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch

from core.config import RunConfig
from core.data.records import Records
from core.data.tokens.encoding import Encoding
from core.models.load import LoadedModel
from core.train.objective import Objective

Notes: TypeAlias = tuple[str, ...]


class Task(Protocol):
    """One run's task; its methods are called in this order."""

    def load(self, folder: Path, dtype: torch.dtype, device: torch.device) -> LoadedModel:
        """The base model in `folder`, as `core.models.load` gives it.

        Raises:
            ModelError: the folder holds no model for this task.
        """

    def objective(self, loaded: LoadedModel) -> tuple[Objective, Notes]:
        """What is minimized on `loaded`, and what the user should know about it.

        Raises:
            ModelError: rows cannot be put before this model without changing what it answers.
        """

    def encode(self, loaded: LoadedModel, scratch: Path) -> Iterator[Encoding[Any]]:
        """The records as rows of that objective, which lie in a file in `scratch` for as long as the encoding lives.

        Yields:
            The same encoding again and again, several times a second, grown; in the end it is whole.

        Raises:
            DataError: a record is of another task, or no row can be used.
            ModelError: the model's tokenizer does not do what the task needs.
            RunError: the disk is full.
        """

    def losses(self, encoding: Encoding[Any]) -> Notes:
        """What the user should know about a whole encoding."""


class TaskKind(Protocol):
    """What makes a task."""

    def __call__(self, config: RunConfig, records: Records) -> Task:
        """The task of a run with `config` over `records`.

        Raises:
            DataError: the records are of another task.
        """


def row_limit(config: RunConfig, positions: int | None) -> int:
    """How many tokens a row may have: by the user's wish, and by the model's positions where these end."""
    return min(config.data.max_tokens, positions or config.data.max_tokens)


def cut_note(encoding: Encoding[Any]) -> Notes:
    """What to say of rows that were too long."""
    if not encoding.truncated:
        return ()
    return (f"{encoding.truncated} rows are longer than {encoding.max_tokens} tokens and were cut",)
