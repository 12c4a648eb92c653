"""Which task a dataset is for: rows with labels are classified, all others are gone on with."""

from __future__ import annotations

from collections.abc import Sequence

from core.config import Task
from core.data.records import Labeled, Record
from core.errors import ConfigError


def task_of(records: Sequence[Record]) -> Task:
    """The task that `records`, the first of a dataset or all, are for; a dataset has one kind of rows."""
    return "classification" if records and isinstance(records[0], Labeled) else "chat"


def check_task(task: Task, records: Sequence[Record]) -> None:
    """Refuse a task that `records` are not for.

    Raises:
        ConfigError: on `task`.
    """
    if not records or task == task_of(records):
        return
    if task == "classification":
        title = "The rows of this dataset have no labels, which classification needs"
        raise ConfigError(title, hint="Choose chat, or a dataset with the columns text and label", field="task")
    title = "The rows of this dataset have labels and no answers"
    raise ConfigError(title, hint="Choose classification, or a dataset with prompts and answers", field="task")
